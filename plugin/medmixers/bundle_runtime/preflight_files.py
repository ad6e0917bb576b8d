"""Whether the image files of a case can be read and are of the kind that a network takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.datasets.audit import PICTURES, check_geometry, read_image
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError


def check_folders(folders: Sequence[str]) -> None:
    """Raise ValueError unless each folder can be written, or made. Nothing is made."""
    for folder in folders:
        place = Path(folder).absolute()
        existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise InputError(f"nothing can be written into {folder!r}: {str(existing)!r} is no folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"nothing can be written into {folder!r}: {str(existing)!r} is not writable")


def check_grid(files: Sequence[Path]) -> None:
    """Raise ValueError where the files of one case, NIfTI or pictures, do not lie on one voxel grid."""
    known = [file for file in files if file.name.lower().endswith((*NIFTI, *PICTURES))]
    grids = [read_image(file, whole=False) for file in known] if len(known) > 1 else []
    for file, grid in zip(known, grids, strict=False):
        check_geometry(file, grid, known[0], grids[0])


def check_image(path: Path, spatial_dims: int, *, whole: bool = True) -> int | None:
    """Channels of a picture (PNG, JPEG) or of a NIfTI file, after it is found sound; None where MONAI is to see.

    Args:
        path: a file, or the folder of a DICOM series.
        spatial_dims: of the network.
        whole: look at its voxels too, not only at its header.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the file is damaged, of other dimensions, or a NIfTI file of zeros or with NaN.
    """
    if not path.exists():
        raise MissingFileError(f"there is no image {str(path)!r}")
    if path.name.lower().endswith(PICTURES):
        _check_dims(path, 2, spatial_dims)
        return _picture_channels(path, whole=whole)
    if not path.name.lower().endswith(NIFTI):
        return None
    image = read_image(path, whole=whole)
    _check_dims(path, len(image.shape), spatial_dims, f"has the shape {image.shape}")
    if whole and not image.data.any():
        raise InputError(f"{str(path)!r} is 0 in all of its {image.data.size} voxels")
    return 1


def check_listed_case(
    case: Mapping[str, Any],
    *,
    spatial_dims: int,
    in_channels: int,
    classes: int = 0,
    masks: int = 0,
    whole: bool = True,
) -> None:
    """An entry of datalist.json: its image, and its class id (of ``classes``) or its mask files (``masks``).

    ``whole``: look at the image's voxels too, not only at its header.

    Raises:
        FileNotFoundError, ValueError: with the file or the value that does not fit.
    """
    channels, label = check_image(Path(case["image"]), spatial_dims, whole=whole), case["label"]
    if channels is not None and channels != in_channels:
        raise InputError(f"{case['image']!r} has {channels} channels; the network takes {in_channels}")
    if classes:
        if not isinstance(label, int) or not 0 <= label < classes:
            raise InputError(f"{case['image']!r} has the class {label}; the network has 0 to {classes - 1}")
        return
    if isinstance(label, int) or len(label) != masks or not all(isinstance(file, str) for file in label):
        raise InputError(f"{case['image']!r} has the label {label}; the network has {masks} channels, a mask file each")
    sizes = {_size(Path(file)) for file in (case["image"], *label)}
    if len(sizes) > 1:
        raise InputError(f"{case['image']!r} and its masks have different sizes: {sorted(sizes)}")


def _check_dims(path: Path, dims: int, spatial_dims: int, what: str = "is 2D") -> None:
    if dims != spatial_dims:
        raise InputError(f"{str(path)!r} {what}; the network takes {spatial_dims}D images")


def _picture_channels(path: Path, *, whole: bool) -> int:
    from PIL import Image, UnidentifiedImageError  # only here: a packed bundle of volumes does without

    try:
        with Image.open(path) as picture:
            bands = len(picture.getbands())
            if whole:
                picture.verify()  # the checksums
            return bands
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def _size(path: Path) -> tuple[int, ...]:
    if path.name.lower().endswith(PICTURES):
        from PIL import Image

        with Image.open(path) as picture:
            return picture.size
    return tuple(read_image(path, whole=False).shape)
