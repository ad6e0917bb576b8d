"""Files of volumes and labels as arrays with the metadata that MONAI's transforms take, checked while they are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader, ITKReader, NibabelReader, NrrdReader
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medmixers.datasets.image_files import Volume, check_voxels, read_any
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingPackageError, first_line

Loaded = tuple[NDArray[Any], dict[str, Any]]


def read_paths(data: Any) -> list[Path]:
    """What MONAI hands to a reader, a path or a sequence of paths, as a list."""
    return [Path(path) for path in ([data] if isinstance(data, (str, Path)) else data)]


def load_volume(path: Path, *, channels_last: bool = False) -> Loaded:
    """Voxels and metadata of an image: NIfTI as `medmixers dataset check` reads it, other formats as MONAI does.

    Args:
        path: the file.
        channels_last: as :func:`medmixers.datasets.image_files.read_image` has it.

    Raises:
        InputError: a damaged file; NaN, infinity, or a volume of zeros.
    """
    if path.name.lower().endswith(NIFTI):
        volume = read_any(path, channels_last=channels_last)
        loaded = volume.data, metadata(volume.shape, volume.world, has_channels=volume.components > 1)
    else:
        loaded = load_by_monai(path)
        volume = Volume(loaded[0].shape, loaded[1][MetaKeys.AFFINE], data=loaded[0])
    check_voxels(path, volume)
    return loaded


def stacked(paths: Sequence[Path], files: Sequence[Loaded]) -> Loaded:
    """One image of the files of its channels. InputError: their shapes differ."""
    arrays, metas = zip(*files, strict=True)
    if len(arrays) == 1:
        return arrays[0], metas[0]
    if len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"the channels of {paths[0]} have different shapes: {shapes}")
    return np.stack(arrays), {**metas[0], MetaKeys.ORIGINAL_CHANNEL_DIM: 0}


def metadata(shape: tuple[int, ...], affine: NDArray[np.float64], *, has_channels: bool = False) -> dict[str, Any]:
    """MONAI's metadata of an array: (*shape), or with channels last.

    Args:
        shape: of the voxel grid.
        affine: voxels to RAS millimetres, (4, 4).
        has_channels: whether the array has an axis of channels behind the grid.
    """
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if has_channels else float("nan"),
        MetaKeys.SPACE: SpaceKeys.RAS,
    }


def load_by_monai(path: Path) -> Loaded:
    """Voxels and metadata by the first of MONAI's readers that knows the format. InputError: a damaged file."""
    reader = next((reader for reader in _monai_readers() if reader.verify_suffix(str(path))), None)
    if reader is None:
        raise MissingPackageError(f"reading {path} needs the package itk")
    try:
        data, meta = reader.get_data(reader.read(str(path)))
    except Exception as error:  # a damaged file may raise anything: readers follow its bytes
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    return data, dict(meta)


@cache
def _monai_readers() -> list[ImageReader]:
    readers: list[ImageReader] = [NibabelReader()]
    for kind in (NrrdReader, ITKReader):
        try:
            readers.append(kind())
        except Exception:  # MONAI's OptionalImportError: the package behind this reader is not installed
            continue
    return readers
