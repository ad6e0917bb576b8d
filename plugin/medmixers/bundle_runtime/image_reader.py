"""The reader of every image that a bundle trains on or predicts, for MONAI's ``LoadImaged``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader, ITKReader, NibabelReader, NrrdReader
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medmixers.datasets.image_files import read_image
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom import (
    check_series,
    is_dicom,
    picture_affine,
    read_dicom_picture,
    read_volume,
    series_files,
)
from medmixers.images.pictures import PICTURES, Picture, picture_size, read_picture

LOGGER = logging.getLogger("medmixers")


class BundleImageReader(ImageReader):
    """Read pictures by their own depth, DICOM by its headers, and NIfTI and NRRD as MONAI does.

    A 2D network gets pictures as numbers from 0 (black) to 255 (white), whatever their depth; a DICOM image too. A 3D
    network gets DICOM in the modality's units.

    Args:
        spatial_dims: of the network.
        channels: of the network; a picture is converted between grey and RGB, and the log says so once.
        convert_colour: False refuses a picture of another number of channels instead.
        voi_window: apply the VOI LUT or window of a DICOM picture.
        series_uid: the DICOM series to read where a folder holds several.
        volumes_as_channels: take the last axis of a 4D NIfTI file as channels; False refuses such a file, which may be
            a time series.

    Raises:
        InputError: when an image is read: what :func:`medmixers.images.pictures.read_picture`,
            :func:`medmixers.images.dicom.read_volume` and :func:`medmixers.images.dicom.read_dicom_picture` raise.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        channels: int,
        convert_colour: bool = True,
        voi_window: bool = False,
        series_uid: str | None = None,
        volumes_as_channels: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.channels = channels
        self.convert_colour = convert_colour
        self.voi_window = voi_window
        self.series_uid = series_uid
        self.volumes_as_channels = volumes_as_channels
        self.said: set[str] = set()

    def verify_suffix(self, filename: Any) -> bool:
        """True: this reader takes every file, so that MONAI tries no other one after an error."""
        return True

    def read(self, data: Any, **_: Any) -> list[Path]:
        """The paths. Files are opened by :meth:`get_data`: MONAI would try other readers after an error here."""
        paths = [data] if isinstance(data, (str, Path)) else list(data)
        return [Path(path) for path in paths]

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Voxels and metadata of one image: a file, a folder with a DICOM series, or a file per channel."""
        arrays, metas = zip(*(self._load(path) for path in img), strict=True)
        if len(arrays) == 1:
            return arrays[0], metas[0]
        if len({array.shape for array in arrays}) > 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise InputError(f"the channels of {img[0]} have different shapes: {shapes}")
        return np.stack(arrays), {**metas[0], MetaKeys.ORIGINAL_CHANNEL_DIM: 0}

    def check(self, path: Path, *, whole: bool = True) -> int:
        """Find one image file readable and of the network's dimensions, before anything is trained or predicted.

        Args:
            path: a file, or the folder of a DICOM series.
            whole: read its voxels too, not only its headers.

        Returns:
            The channels that it gives to the network.

        Raises:
            MissingFileError: there is no such file or folder.
            InputError: what reading it would raise; other dimensions; a NIfTI file of zeros or with NaN.
        """
        if not path.exists():
            raise MissingFileError(f"there is no image {str(path)!r}")
        if path.is_dir() or (path.is_file() and is_dicom(path)):
            if self.spatial_dims == 2:
                return _channels(self._load_dicom(path)[0]) if whole else self.channels
            check_series(series_files(path, series_uid=self.series_uid))
            return 1
        if path.name.lower().endswith(PICTURES):
            self._check_dims(path, 2, "is 2D")
            return self._check_picture(path, whole=whole)
        if not path.name.lower().endswith(NIFTI):
            return self.channels
        image = read_image(path, whole=whole, channels_last=self.volumes_as_channels)
        self._check_dims(path, len(image.shape), f"has the shape {image.shape}")
        if whole and not image.data.any():
            raise InputError(f"{str(path)!r} is 0 in all of its {image.data.size} voxels")
        return image.components

    def _check_picture(self, path: Path, *, whole: bool) -> int:
        if whole:
            pixels = read_picture(path, **self._colours()).pixels
            return _channels(pixels)
        _, channels = picture_size(path)
        return self.channels if self.convert_colour and {channels, self.channels} <= {1, 3} else channels

    def _check_dims(self, path: Path, dims: int, what: str) -> None:
        if dims != self.spatial_dims:
            raise InputError(f"{str(path)!r} {what}; the network takes {self.spatial_dims}D images")

    def _load(self, path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
        if path.is_dir() or (path.is_file() and is_dicom(path)):
            return self._load_dicom(path)
        if path.name.lower().endswith(PICTURES):
            return self._from_picture(path, read_picture(path, **self._colours()), np.eye(4))
        reader = next(reader for reader in _monai_readers() if reader.verify_suffix(str(path)))
        data, meta = reader.get_data(reader.read(str(path)))
        return data, dict(meta)

    def _load_dicom(self, path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
        if self.spatial_dims == 3:
            volume = read_volume(path, series_uid=self.series_uid)
            return volume.voxels, _meta(volume.voxels.shape, volume.affine, channel_dim=float("nan"))
        file = path
        if path.is_dir():
            files = sorted(each for each in path.iterdir() if each.is_file() and is_dicom(each))
            if len(files) != 1:
                raise InputError(f"{path} holds {len(files)} DICOM files; a 2D network takes one image per case")
            file = files[0]
        picture = read_dicom_picture(file, voi_window=self.voi_window, **self._colours())
        return self._from_picture(file, picture, picture_affine(file))

    def _from_picture(
        self, path: Path, picture: Picture, affine: NDArray[np.float64]
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        if picture.converted and picture.converted not in self.said:
            self.said.add(picture.converted)
            LOGGER.warning("medmixers: note: %s, in %s for example", picture.converted, path)
        pixels = np.swapaxes(picture.pixels, 0, 1)  # (x, y), as MONAI's readers give it
        channel_dim = -1 if pixels.ndim == 3 else float("nan")
        return pixels, _meta(pixels.shape[:2], affine, channel_dim=channel_dim)

    def _colours(self) -> dict[str, Any]:
        return {"channels": self.channels if self.channels in (1, 3) else None, "convert": self.convert_colour}


def _channels(pixels: NDArray[Any]) -> int:
    return 1 if pixels.ndim == 2 else pixels.shape[-1]


def _meta(shape: tuple[int, ...], affine: NDArray[np.float64], *, channel_dim: float) -> dict[str, Any]:
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
        MetaKeys.SPACE: SpaceKeys.RAS,
    }


@cache
def _monai_readers() -> list[ImageReader]:
    readers: list[ImageReader] = [NibabelReader()]
    for kind in (NrrdReader, ITKReader):
        try:
            readers.append(kind())
        except Exception:  # MONAI's OptionalImportError: the package behind this reader is not installed
            continue
    return readers
