"""One picture per case: image, truth and predictions side by side, and below them the token attention maps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from medmixers.errors import InputError, MissingFileError, MissingPackageError
from medmixers.files import written_whole
from medmixers.tasks import Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Array = NDArray[Any]

VIEWS = (("axial", 2), ("coronal", 1), ("sagittal", 0))  # name and the axis that is cut, in RAS
MARGIN = 4  # voxels kept around the foreground of the image
COLUMN_INCHES, HEADER_INCHES, LEGEND_INCHES, CAPTION_INCHES = 2.6, 0.7, 0.4, 0.3
MAPS_PER_ROW = 8
BACKGROUND, TEXT = "black", "#EEEEEE"


def dice(prediction: Array, truth: Array, label: int) -> float:
    """Dice of one label: 2 |A n B| / (|A| + |B|); NaN where neither has it, as in nnU-Net's summary.json."""
    a, b = prediction == label, truth == label
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def write_case_panel(
    out: str | Path,
    *,
    image: str | Path,
    truth: str | Path,
    predictions: Mapping[str, str | Path],
    labels: Mapping[int, Label],
    attention: str | Path | None = None,
    image_name: str = "image",
    title: str = "",
) -> Path:
    """Write the picture of a 3D case as PNG.

    Args:
        out: the PNG; written under a temporary name, then renamed.
        image, truth: NIfTI files on one grid.
        predictions: name of a method -> its NIfTI file, on the same grid.
        labels: foreground label value -> its name and colour in the legend.
        attention: 4D NIfTI with the tokens as last axis, as ``nnunet_token_attention`` writes it.
        image_name: heading of the image's column.
        title: first line of the picture.

    Returns:
        ``out`` as a path.

    Raises:
        MissingFileError: a file is missing.
        InputError: a file with another grid than the image.
        MissingPackageError: matplotlib is not installed.
    """
    base = _load(Path(image))
    volume = _on_grid(base, base, Path(image))
    files = {"truth": truth, **predictions}
    segmentations = {name: _on_grid(_load(Path(path)), base, Path(path)) for name, path in files.items()}
    headings = [image_name, "truth"]
    headings += [f"{name}\n{_scores(segmentations[name], segmentations['truth'], labels)}" for name in predictions]
    maps = None if attention is None else _on_grid(_load(Path(attention)), base, Path(attention))
    box = _foreground_box(volume)
    figure = _draw(
        volume[box],
        [data[box] for data in segmentations.values()],
        None if maps is None else np.moveaxis(maps[box], -1, 0),
        labels=labels,
        spacing=voxel_sizes(base.affine),
        headings=headings,
        title=title,
    )
    return _save(figure, Path(out))


def _load(path: Path) -> nib.Nifti1Image:
    """A NIfTI with its axes turned to right, anterior, superior."""
    if not path.is_file():
        raise MissingFileError(f"there is no file {path} to draw")
    return nib.as_closest_canonical(nib.load(path))


def _on_grid(image: nib.Nifti1Image, base: nib.Nifti1Image, path: Path) -> Array:
    if len(base.shape) != 3:
        raise InputError(f"pictures are of 3D images, got shape {base.shape}")
    if image.shape[:3] != base.shape or not np.allclose(image.affine, base.affine, atol=1e-2):
        raise InputError(f"{path} of shape {image.shape} has another grid than the image of shape {base.shape}")
    return np.asanyarray(image.dataobj)


def _foreground_box(volume: Array) -> tuple[slice, ...]:
    """The box in which the image is brighter than its darkest value, with a margin."""
    found = np.argwhere(volume > volume.min())
    if not len(found):
        return tuple(slice(None) for _ in volume.shape)
    start, end = np.maximum(found.min(0) - MARGIN, 0), found.max(0) + MARGIN + 1
    return tuple(slice(int(a), int(b)) for a, b in zip(start, end, strict=True))


def _draw(
    volume: Array,
    segmentations: list[Array],
    maps: Array | None,
    *,
    labels: Mapping[int, Label],
    spacing: Array,
    headings: list[str],
    title: str,
) -> Figure:
    """The three views of image and segmentations, the legend, and the maps, from top to bottom."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'pictures need matplotlib ({error}): pip install "medmixers[demo]"') from error
    extents = np.array(volume.shape) * spacing  # mm
    width = COLUMN_INCHES * len(headings)
    scale = COLUMN_INCHES / max(extents[0], extents[1])  # inches per mm
    views = HEADER_INCHES + scale * (extents[1] + 2 * extents[2])
    rows = 0 if maps is None else -(-len(maps) // MAPS_PER_ROW)
    row_height = width / MAPS_PER_ROW * extents[1] / extents[0] + 0.2
    heights = [views, LEGEND_INCHES, *([CAPTION_INCHES + rows * row_height] if rows else [])]

    figure = Figure(figsize=(width, sum(heights)), facecolor=BACKGROUND)
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights, hspace=0)[:, 0]
    for part in parts:
        part.set_facecolor(BACKGROUND)
    parts[0].suptitle(title, color=TEXT, fontsize=11, y=1 - 0.1 / views, va="top")
    _draw_views(parts[0], volume, segmentations, labels, spacing, headings, top=1 - HEADER_INCHES / views)
    _legend(parts[1], labels)
    if maps is not None:
        _draw_maps(parts[2], volume, maps, spacing, top=1 - (CAPTION_INCHES + 0.2) / heights[2])
    return figure


def _draw_views(
    part: SubFigure,
    volume: Array,
    segmentations: list[Array],
    labels: Mapping[int, Label],
    spacing: Array,
    headings: list[str],
    *,
    top: float,
) -> None:
    """Rows: axial, coronal, sagittal through the middle. Columns: the image, then the segmentations on it."""
    extents = np.array(volume.shape) * spacing
    grid = part.add_gridspec(
        3, len(headings), height_ratios=[extents[1], extents[2], extents[2]],
        left=0.005, right=0.995, bottom=0, top=top, hspace=0.03, wspace=0.03,
    )  # fmt: skip
    for row, (view, axis) in enumerate(VIEWS):
        index = volume.shape[axis] // 2
        for column, heading in enumerate(headings):
            axes = part.add_subplot(grid[row, column])
            _show(axes, volume, axis, index, spacing)
            if column:
                _overlay(axes, segmentations[column - 1], axis, index, spacing, labels)
            else:
                axes.text(0.02, 0.02, view, color=TEXT, fontsize=7, transform=axes.transAxes)
            if not column and axis:  # conventions for left and right differ: name one
                axes.text(0.98, 0.5, "R", color=TEXT, fontsize=7, transform=axes.transAxes, ha="right")
            if not row:
                lines = heading if "\n" in heading else f"{heading}\n"
                axes.set_title(lines, color=TEXT, fontsize=7)


def _draw_maps(part: SubFigure, volume: Array, maps: Array, spacing: Array, *, top: float) -> None:
    """Each map over the axial slice of the views, from its lowest to its highest value there."""
    index = volume.shape[2] // 2
    caption = "token attention on the axial slice: dark to bright is each map's own range, 1 = uniform attention"
    part.suptitle(caption, color=TEXT, fontsize=9)
    rows = -(-len(maps) // MAPS_PER_ROW)
    grid = part.add_gridspec(
        rows, MAPS_PER_ROW, left=0.005, right=0.995, bottom=0.005, top=top, wspace=0.03, hspace=0.15
    )
    for token, one in enumerate(maps):
        axes = part.add_subplot(grid[token // MAPS_PER_ROW, token % MAPS_PER_ROW])
        _show(axes, volume, 2, index, spacing)
        plane = np.ma.masked_less_equal(_cut(one, 2, index), 0)  # a softmax is positive: 0 is outside the crop
        low, high = (float(plane.min()), float(plane.max())) if plane.count() else (0.0, 0.0)
        axes.imshow(
            plane, cmap="inferno", origin="lower", vmin=low, vmax=max(high, low + 1e-6), alpha=0.6,
            aspect=spacing[1] / spacing[0],
        )  # fmt: skip
        axes.set_title(f"token {token + 1}: {low:.2f} to {high:.2f}", color=TEXT, fontsize=6, pad=2)


def _cut(volume: Array, axis: int, index: int) -> Array:
    """A slice with the first remaining axis across, the second upwards."""
    return volume.take(index, axis=axis).T


def _show(axes: Axes, volume: Array, axis: int, index: int, spacing: Array) -> None:
    across, up = np.delete(spacing, axis)
    high = np.percentile(volume[volume > volume.min()], 99.5) if volume.max() > volume.min() else 1
    axes.imshow(
        _cut(volume, axis, index),
        cmap="gray",
        origin="lower",
        vmin=volume.min(),
        vmax=high,
        aspect=up / across,
    )
    axes.set_facecolor(BACKGROUND)
    axes.axis("off")


def _overlay(axes: Axes, data: Array, axis: int, index: int, spacing: Array, labels: Mapping[int, Label]) -> None:
    across, up = np.delete(spacing, axis)
    plane = _cut(data, axis, index)
    coloured = np.zeros((*plane.shape, 4))
    for value, label in labels.items():
        coloured[plane == value] = (*_colour(label), 0.75)
    axes.imshow(coloured, origin="lower", aspect=up / across, interpolation="nearest")


def _scores(prediction: Array, truth: Array, labels: Mapping[int, Label]) -> str:
    scores = {label.name: dice(prediction, truth, value) for value, label in labels.items()}
    if len(scores) > 2:  # no room for all
        return f"mean Dice {np.nanmean(list(scores.values())):.3f}"
    return "Dice " + ", ".join(f"{name.replace('_', ' ')} {score:.3f}" for name, score in scores.items())


def _legend(part: SubFigure, labels: Mapping[int, Label]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=_colour(label), label=label.name.replace("_", " ")) for label in labels.values()]
    part.legend(handles=patches, loc="center", ncols=len(patches), fontsize=9, frameon=False, labelcolor=TEXT)


def _colour(label: Label) -> tuple[float, float, float]:
    """Red, green and blue from 0 to 1, as matplotlib takes them."""
    red, green, blue = label.colour
    return red / 255, green / 255, blue / 255


def _save(figure: Figure, out: Path) -> Path:
    """Save as PNG of at most 256 colours: a third of the size without a visible difference."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor=BACKGROUND)
    with written_whole(out) as partial, Image.open(buffer) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(partial, format="png", optimize=True)
    return out
