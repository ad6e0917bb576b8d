"""The image file of a case: its grid as stored, and grey values for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from medmixers.images.pictures import PICTURES, read_picture


class Source(NamedTuple):
    """An image file.

    Args:
        grey: (X, Y, Z), float32; of several channels their mean. Z is 1 for a picture or a single slice.
        axes: axes of the file, 2 or 3; a voxel of it has as many coordinates.
        affine: voxels to RAS millimetres; the identity for a picture.
        is_picture: PNG, JPEG and the like: x goes to the right and y downwards.
    """

    grey: NDArray[np.float32]
    axes: int
    affine: NDArray[np.float64]
    is_picture: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis of the file."""
        return self.grey.shape[: self.axes]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edges of a voxel in millimetres; 1 for a picture."""
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)


def channel_names(dataset: Mapping[str, Any]) -> Mapping[str, str]:
    """Channel -> its name, of nnU-Net's dataset.json; as nnU-Net does, also under the older key, "modality"."""
    names: Mapping[str, str] = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
    return names


def is_picture(file: Path) -> bool:
    """Whether the file is a picture by its name."""
    return file.name.lower().endswith(PICTURES)


def read_source(file: Path) -> Source:
    """Read an image file, NIfTI or a picture.

    Raises:
        InputError: what :func:`medmixers.images.pictures.read_picture` refuses.
    """
    if is_picture(file):
        pixels = read_picture(file, channels=1).pixels
        return Source(pixels.T[..., None], 2, np.eye(4), is_picture=True)
    image = nib.load(file)
    voxels = np.asarray(image.dataobj, np.float32).reshape(*image.shape[:2], -1, *image.shape[3:])
    grey = voxels.mean(-1) if voxels.ndim == 4 else voxels
    return Source(grey, min(len(image.shape), 3), image.affine, is_picture=False)
