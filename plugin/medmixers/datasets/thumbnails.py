"""A small picture of a case: one slice, and the outlines of its labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.tasks.palette import PALETTE

Array = NDArray[Any]
LONGEST = 176  # pixels of the longer side
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles of a slice that are shown as black and white


class Thumbnail(NamedTuple):
    """A JPEG file's bytes, and which slice it shows."""

    jpeg: bytes
    words: str


def thumbnail(
    data: Array, spacing: Sequence[float], labels: Sequence[Array], *, white: float | None = None
) -> Thumbnail:
    """Draw a case.

    A volume shows its middle slice across its longest voxel edge, or across z. Where that slice has no label and
    others have, the slice with most of it is shown. Radiological view: the patient's right is on the left.

    Args:
        data: (X, Y, Z) from left, posterior and inferior, or (X, Y) or (X, Y, 3).
        spacing: millimetres per axis; empty for pictures, whose Y counts downwards.
        labels: one map of label values, or several masks, on the grid of the data.
        white: value of white, 0 being black; None shows the 0.5 % percentile of the slice as black and 99.5 % as white.
    """
    if len(spacing) < 3:
        plane, masks = data.swapaxes(0, 1), [label.T for label in labels]
        return Thumbnail(_jpeg(_shown(plane, white), (plane.shape[1], plane.shape[0]), masks), "")
    across = 2 if spacing[2] >= max(spacing) * (1 - 1e-3) else int(np.argmax(spacing))
    index, words = _slice(data.shape[across], across, labels)
    first, second = (axis for axis in range(3) if axis != across)
    size = data.shape[first] * spacing[first], data.shape[second] * spacing[second]
    flips = (slice(None, None, -1 if first == 0 else 1), slice(None, None, -1))  # right to the left; head on top

    def plane_of(array: Array) -> Array:
        return np.take(array, index, axis=across)[flips].T

    return Thumbnail(_jpeg(_shown(plane_of(data), white), size, [plane_of(label) for label in labels]), words)


def _slice(count: int, across: int, labels: Sequence[Array]) -> tuple[int, str]:
    """Number of the slice to show, and its words."""
    middle = count // 2
    others = tuple(axis for axis in range(3) if axis != across)
    filled = sum((np.count_nonzero(label, axis=others) for label in labels), np.zeros(count, int))
    index = middle if filled[middle] or not filled.any() else int(filled.argmax())
    return index, f"slice {index + 1} of {count} along {'xyz'[across]}"


def _jpeg(plane: NDArray[np.uint8], size: tuple[float, float], labels: Sequence[Array]) -> bytes:
    """The plane (H, W[, 3]) at ``size`` (W, H) in any unit, enlarged or reduced, with outlines."""
    from PIL import Image

    scale = LONGEST / max(size)
    pixels = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    picture = Image.fromarray(plane).convert("RGB").resize(pixels, Image.Resampling.BICUBIC)
    canvas = np.array(picture)
    for number, label in enumerate(labels):
        resized = np.asarray(_nearest(label, pixels))
        for value in np.unique(resized[resized != 0]):
            colour = number if len(labels) > 1 else int(value) - 1
            canvas[_outline(resized == value)] = PALETTE[colour % len(PALETTE)]
    content = io.BytesIO()
    Image.fromarray(canvas).save(content, "JPEG", quality=85, subsampling=0)
    return content.getvalue()


def _shown(plane: Array, white: float | None) -> NDArray[np.uint8]:
    """Grey or RGB in 8 bits."""
    low, high = (0, white) if white is not None else np.percentile(plane, (DARKEST, BRIGHTEST))
    if high <= low:
        low, high = float(plane.min()), max(float(plane.max()), float(plane.min()) + 1)
    return np.rint(np.clip((plane.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _nearest(label: Array, size: tuple[int, int]) -> Array:
    """The label map (H, W) at (W, H) pixels by the nearest voxel."""
    rows = ((np.arange(size[1]) + 0.5) * label.shape[0] / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * label.shape[1] / size[0]).astype(int)
    return label[np.ix_(rows, columns)]


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask with a neighbour outside of it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
