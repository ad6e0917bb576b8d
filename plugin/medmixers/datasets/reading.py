"""Open the files of a data set for its converter. Each fault is one line that names the file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable
from glob import escape
from io import StringIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from skimage.draw import polygon2mask

from medmixers.datasets.image_files import Volume, read_any
from medmixers.datasets.label_values import as_text
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError, first_line
from medmixers.images import pictures

Array = NDArray[Any]
PICTURES = (".png", ".jpg", ".jpeg")


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


def with_ending(paths: Iterable[Path], endings: tuple[str, ...]) -> list[Path]:
    """The files whose names end so, in upper or lower case."""
    return [path for path in paths if path.name.lower().endswith(endings) and path.is_file()]


def by_name(paths: Iterable[Path], name: Callable[[Path], str] = lambda path: path.stem) -> dict[str, Path]:
    """Name -> its path. InputError where two paths have one name: nothing tells which one is meant."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if (other := found.setdefault(name(path), path)) != path:
            raise InputError(f"{other} and {path} are both {name(path)}; keep one of them")
    return found


def table_file(source: Path, name: str) -> Path:
    """The table of this name below ``source``. InputError where two tables differ."""
    found = some(list(source.rglob(name)), name, source)
    if len({path.read_bytes() for path in found}) > 1:
        raise InputError(f"{source} holds different tables {name}: {', '.join(map(str, found))}; keep one of them")
    return found[0]


def nifti_file(folder: Path, stem: str) -> Path:
    """``folder/stem.nii.gz``, or ``stem.nii`` where that exists."""
    found = [path for path in folder.glob(f"{escape(stem)}.*") if path.name[len(stem) :].lower() in NIFTI]
    return existing(min(found, default=folder / f"{stem}.nii.gz"), f"a file of {stem}")


def nifti_header(path: Path) -> Volume:
    """The grid of a NIfTI file with three axes. A file of another length than its header's is read whole.

    A .nii.gz ends with its length in four bytes. `medmixers dataset check` reads the voxels of all files.
    """
    existing(path, "a NIfTI file")
    header = read_any(path, whole=False)
    if len(header.shape) != 3:
        raise InputError(f"{path} has {len(header.shape)} axes {header.shape}; 3 are expected")
    image = nib.load(path)
    data, length = image.dataobj, path.stat().st_size
    if path.name.lower().endswith(".gz"):
        with path.open("rb") as file:
            file.seek(-4, 2)
            length = int.from_bytes(file.read(4), "little")
    if length != (data.offset + int(np.prod(data.shape)) * data.dtype.itemsize) % 2**32:
        read_any(path)
    return header


def read_label_file(path: Path, *, valid: Collection[int]) -> Array:
    """Label values of a NIfTI or picture file as uint8, (*spatial). ValueError for a value that is not valid."""
    data = read_any(path).data if path.name.lower().endswith(NIFTI) else read_picture(path)
    unknown = sorted(set(np.unique(data).tolist()) - set(valid))
    if unknown:
        shown = ", ".join(as_text(value) for value in unknown[:5])
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


def read_table(path: Path, key: str, *columns: str) -> dict[str, dict[str, str]]:
    """Value of the column ``key`` -> that and the values of other columns, from a CSV file.

    Raises:
        ValueError: a column is missing, no row has a key, or two rows of one key contradict each other. An empty value
            contradicts none.
    """
    header, *rows = csv_rows(path) or [[]]
    if lacking := [column for column in (key, *columns) if column not in header]:
        raise InputError(f"{path} lacks the column {', '.join(lacking)}; it has {', '.join(header) or 'no row'}")
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        values = dict(zip(header, row, strict=False))
        if not (name := values.get(key, "")):
            continue
        known = table.setdefault(name, {key: name, **dict.fromkeys(columns, "")})
        for column in columns:
            value = values.get(column, "")
            if value and known[column] and value != known[column]:
                raise InputError(f"{path} gives {name} two values of {column}: {known[column]!r} and {value!r}")
            known[column] = known[column] or value
    if not table:
        raise InputError(f"{path} has no row with a value of {key}")
    return table


def csv_rows(path: Path) -> list[list[str]]:
    """Rows of a CSV file that are not empty. Bytes that are not UTF-8 are read as Latin-1."""
    content = existing(path, "a table").read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    try:
        rows = [[value.strip() for value in row] for row in csv.reader(StringIO(text, newline=""))]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    return [row for row in rows if any(row)]
