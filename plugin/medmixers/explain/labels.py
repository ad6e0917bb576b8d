"""Which token looks at which label: soft Dice of attention maps and structures of a label file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.image_files import check_geometry, read_any
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError
from medmixers.images.pictures import PICTURES

IGNORED = "ignore"  # nnU-Net's name of the label that neither trains nor counts
Structures = Mapping[str, Sequence[int]]  # name -> the values of a label file that it is made of


def label_file(labels: str | Path, image: Path, case: str, *, is_folder: bool) -> Path:
    """The label file of a case: the file, or in a folder CASE with the image's ending, or with another one of an image.

    Raises:
        MissingFileError: there is none.
    """
    if not is_folder:
        files = [Path(labels)]
    else:
        own = next((end for end in NIFTI if image.name.lower().endswith(end)), image.suffix)
        files = [Path(labels) / f"{case}{end}" for end in dict.fromkeys((own, *NIFTI, *PICTURES))]
    found = [file for file in files if file.is_file()]
    if not found:
        raise MissingFileError(f"there is no label file {files[0]}")
    return found[0]


class Masks(NamedTuple):
    """A label file on the grid of its image file.

    Args:
        masks: structure -> its voxels, (X, Y, Z).
        others: values that belong to no structure.
        counted: the voxels without the ignore label, (X, Y, Z).
    """

    masks: dict[str, NDArray[np.bool_]]
    others: list[int]
    counted: NDArray[np.bool_]


def read_masks(file: Path, image: Path, structures: Structures, ignored: Sequence[int] = ()) -> Masks:
    """Read a label file.

    Args:
        file: of whole numbers.
        image: the image file that it belongs to.
        structures: of the model; where it has none, every value above 0 is one.
        ignored: values of voxels that do not count.

    Raises:
        InputError: a damaged file, one on another grid than the image, or numbers that are not whole.
    """
    label = read_any(file)
    if label.components != 1:
        raise InputError(f"{file} has {label.components} components per voxel; a label has one")
    check_geometry(file, label, image, read_any(image, whole=False, channels_last=True))
    data = label.data.reshape(*label.shape, *[1] * (3 - len(label.shape)))
    if not np.array_equal(data, np.rint(data)):
        raise InputError(f"{file} holds numbers that are not whole, so it is no label file")
    values = sorted(int(value) for value in np.unique(data) if value != 0)
    named = structures or {f"value {value}": (value,) for value in values}
    known = {value for each in named.values() for value in each}
    masks = {name: np.isin(data, list(each)) for name, each in named.items()}
    others = [value for value in values if value not in known and value not in ignored]
    return Masks(masks, others, ~np.isin(data, list(ignored)))


def soft_dice(attention: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """2 sum(a m) / (sum(a) + sum(m)) of a map scaled to a largest value of 1, as MONAI's DiceLoss; NaN if both are 0.

    Args:
        attention: not negative, of any shape.
        mask: of the same shape.
    """
    scaled = attention.astype(np.float64) / max(float(attention.max()), 1e-12)
    whole = scaled.sum() + mask.sum()
    return float(2 * scaled[mask].sum() / whole) if whole > 0 else float("nan")


def dice_table(maps: NDArray[np.float32], label: Masks) -> str:
    """Soft Dice of every token and structure. A star marks the token that looks most at a structure.

    Args:
        maps: (X, Y, Z, N).
        label: of the same grid. Voxels that do not count are left out, as in nnU-Net's evaluation.
    """
    numbers, (masks, others, counted) = range(maps.shape[-1]), label
    inside = maps[counted]
    if not len(inside):
        return "every voxel has the ignore label, so there is no Dice of attention and label"
    scores = {name: [soft_dice(inside[:, n], mask[counted]) for n in numbers] for name, mask in masks.items()}
    rows = [["token", *masks], *([str(n), *(_cell(scores[name], n) for name in masks)] for n in numbers)]
    absent = [name for name, mask in masks.items() if not mask.any()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    title = "soft Dice of attention (largest value 1) and label; * the highest of a label"
    left_out = counted.size - np.count_nonzero(counted)
    lines += [f"left out: {left_out} voxels with the ignore label"] if left_out else []
    lines += [f"not in this case: {', '.join(absent)}"] if absent else []
    lines += [f"values of no structure: {', '.join(map(str, others))}"] if others else []
    return "\n".join([title, *lines])


def _cell(scores: Sequence[float], token: int) -> str:
    best = max(scores) > 0 and scores[token] == max(scores)
    return f"{scores[token]:.3f}{'*' if best else ' '}"


def label_folder(labels: str | Path | None, image: str | Path) -> bool:
    """Whether labels are a folder, as the images must be then. Raises InputError where only one of them is."""
    if labels is not None and Path(labels).is_dir() != Path(image).is_dir():
        raise InputError(f"{labels} and {image} must both be files, or both folders")
    return labels is not None and Path(labels).is_dir()
