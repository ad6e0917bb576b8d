"""The reader of every image that a bundle trains on or predicts, for MONAI's ``LoadImaged``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from numpy.typing import NDArray

from medmixers.bundle_runtime.volumes import load_volume, metadata, read_paths, stacked
from medmixers.datasets.image_files import PILLOW_ENDINGS, check_geometry, read_image
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom import (
    check_series,
    dicom_files,
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

    VOLATILE = ("said",)  # attributes that do not change what is read

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
        return read_paths(data)

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Voxels and metadata of one image: a file, a folder with a DICOM series, or a file per channel."""
        channels = self._channels_per_file(img)
        return stacked(img, [self._load(path, channels) for path in img])

    def check_case(self, files: Sequence[Path], *, whole: bool = True) -> None:
        """Find the files of one image readable, on one grid, and what the network takes, before a start.

        Args:
            files: one file, the folder of a DICOM series, or a file per channel.
            whole: read the voxels too, not only the headers.

        Raises:
            MissingFileError: there is no such file or folder.
            InputError: what reading it would raise; other dimensions or channels; files on different grids; a volume
                of zeros, with NaN, or with numbers that are infinite in single precision.
        """
        channels = sum(self._check_file(file, self._channels_per_file(files), whole=whole) for file in files)
        if channels != self.channels:
            raise InputError(f"{str(files[0])!r} has {channels} channels; the network takes {self.channels}")
        known = [file for file in files if file.name.lower().endswith((*NIFTI, *PILLOW_ENDINGS))]
        grids = [read_image(file, whole=False) for file in known] if len(known) > 1 else []
        for file, grid in zip(known, grids, strict=False):
            check_geometry(file, grid, known[0], grids[0])

    def _channels_per_file(self, files: Sequence[Path]) -> int:
        """Channels that one file gives: all of the network, or one where each channel has its own file."""
        return self.channels if len(files) == 1 else 1

    def _check_file(self, path: Path, channels: int, *, whole: bool) -> int:
        """The channels that a file gives to the network."""
        if not path.exists():
            raise MissingFileError(f"there is no image {str(path)!r}")
        if path.is_dir() or (path.is_file() and is_dicom(path)):
            if self.spatial_dims == 2:
                return _channels(self._load_dicom(path, channels)[0]) if whole else channels
            check_series(series_files(path, series_uid=self.series_uid))
            return 1
        if path.name.lower().endswith(PICTURES):
            self._check_dims(path, 2, "is 2D")
            if whole:
                return _channels(read_picture(path, **self._colours(channels)).pixels)
            _, own = picture_size(path)
            return channels if self.convert_colour and {own, channels} <= {1, 3} else own
        if not path.name.lower().endswith(NIFTI):
            return channels
        image = read_image(path, whole=whole, channels_last=self.volumes_as_channels)
        self._check_dims(path, len(image.shape), f"has the shape {image.shape}")
        return image.components

    def _check_dims(self, path: Path, dims: int, what: str) -> None:
        if dims != self.spatial_dims:
            raise InputError(f"{str(path)!r} {what}; the network takes {self.spatial_dims}D images")

    def _load(self, path: Path, channels: int) -> tuple[NDArray[Any], dict[str, Any]]:
        if path.is_dir() or (path.is_file() and is_dicom(path)):
            return self._load_dicom(path, channels)
        if path.name.lower().endswith(PICTURES):
            return self._from_picture(path, read_picture(path, **self._colours(channels)), np.eye(4))
        return load_volume(path, channels_last=self.volumes_as_channels)

    def _load_dicom(self, path: Path, channels: int) -> tuple[NDArray[Any], dict[str, Any]]:
        if self.spatial_dims == 3:
            volume = read_volume(path, series_uid=self.series_uid)
            return volume.voxels, metadata(volume.voxels.shape, volume.affine)
        file = path
        if path.is_dir():
            files = dicom_files(path, path.iterdir())
            if len(files) != 1:
                raise InputError(f"{path} holds {len(files)} DICOM files; a 2D network takes one image per case")
            file = files[0]
        picture = read_dicom_picture(file, voi_window=self.voi_window, **self._colours(channels))
        return self._from_picture(file, picture, picture_affine(file))

    def _from_picture(
        self, path: Path, picture: Picture, affine: NDArray[np.float64]
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        if picture.converted and picture.converted not in self.said:
            self.said.add(picture.converted)
            LOGGER.warning("medmixers: note: %s, in %s for example", picture.converted, path)
        pixels = np.swapaxes(picture.pixels, 0, 1)  # (x, y), as MONAI's readers give it
        return pixels, metadata(pixels.shape[:2], affine, has_channels=pixels.ndim == 3)

    def _colours(self, channels: int) -> dict[str, Any]:
        return {"channels": channels if channels in (1, 3) else None, "convert": self.convert_colour}


def _channels(pixels: NDArray[Any]) -> int:
    return 1 if pixels.ndim == 2 else pixels.shape[-1]
