"""Open the files of a data set for its converter. Each fault is one line that names the file."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from skimage.draw import polygon2mask

from medmixers.datasets.image_files import read_any
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError, first_line
from medmixers.images import pictures

Array = NDArray[Any]


def existing(path: Path, what: str) -> Path:
    """``path``, if it is a file."""
    if not path.is_file():
        raise MissingFileError(f"{what} is missing: {path}")
    return path


def some(paths: Collection[Path], what: str, source: Path) -> list[Path]:
    """The paths, sorted, if there is at least one."""
    if not paths:
        raise MissingFileError(f"{source} holds no {what}")
    return sorted(paths)


def nifti_file(folder: Path, stem: str) -> Path:
    """``folder/stem.nii.gz``, or ``stem.nii`` where that exists."""
    plain = folder / f"{stem}.nii"
    return plain if plain.is_file() else existing(folder / f"{stem}.nii.gz", f"a file of {stem}")


def open_nifti(path: Path) -> Any:
    """A NIfTI image with three axes, without its voxels. A file of another length than its header's is read whole.

    A .nii.gz ends with its length in four bytes. `medmixers dataset check` reads the voxels of all files.
    """
    existing(path, "a NIfTI file")
    header = read_any(path, whole=False)
    if len(header.shape) != 3:
        raise InputError(f"{path} has {len(header.shape)} axes {header.shape}; 3 are expected")
    image = nib.load(path)
    data, length = image.dataobj, path.stat().st_size
    if path.name.endswith(".gz"):
        with path.open("rb") as file:
            file.seek(-4, 2)
            length = int.from_bytes(file.read(4), "little")
    if length != (data.offset + int(np.prod(data.shape)) * data.dtype.itemsize) % 2**32:
        read_any(path)
    return image


def read_label_file(path: Path, *, valid: Collection[int]) -> Array:
    """Label values of a NIfTI or picture file as uint8, (*spatial). ValueError for a value that is not valid."""
    data = read_any(path).data if path.name.lower().endswith(NIFTI) else read_picture(path)
    unknown = sorted(set(np.unique(data).tolist()) - set(valid))
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        raise InputError(f"{path} holds label {shown}; valid: {', '.join(map(str, sorted(valid)))}")
    return data.astype(np.uint8)


def read_picture(path: Path, mode: str | None = None) -> Array:
    """A PNG, JPEG, GIF ... as (height, width[, 3]).

    With ``mode`` "L" or "RGB", black to white of its own depth as 0 to 255, as bundles read it (uint8); without, the
    numbers of the file, for masks.
    """
    existing(path, "an image")
    if mode is not None:
        return np.rint(pictures.read_picture(path, channels={"L": 1, "RGB": 3}[mode]).pixels).astype(np.uint8)
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except UnidentifiedImageError:
        raise InputError(f"{path} cannot be read: it is no image that Pillow knows") from None
    except (OSError, SyntaxError, ValueError) as error:  # a broken PNG raises SyntaxError
        raise InputError(f"{path} cannot be read: {first_line(error)}") from None


def polygon_mask(points: Array, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels, (height, width), whose centres a polygon of points (x, y) encloses.

    Points count from the corner of the image, as CVAT's do, so that pixel 0 reaches from 0 to 1. scikit-image counts
    from the centre of pixel 0, and by (row, column).
    """
    return polygon2mask(shape, points[:, ::-1] - 0.5)


def read_table(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with these columns at least. Bytes that are not UTF-8 are read as Latin-1."""
    content = existing(path, "a table").read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    rows = [
        {(key or "").strip(): (value or "").strip() for key, value in row.items() if not isinstance(value, list)}
        for row in csv.DictReader(text.splitlines())
    ]
    lacking = [column for column in columns if not rows or column not in rows[0]]
    if lacking:
        found = ", ".join(rows[0]) if rows else "no row"
        raise InputError(f"{path} lacks the column {', '.join(lacking)}; it has {found}")
    return rows
