"""A case as a network takes it, and the way back to its image file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.explain.source import Source


class Case(ABC):
    """A preprocessed case of a trained model.

    Args:
        network: in eval mode, on the device of the image.
        image: (B, C, *spatial); of a 2D nnU-Net model the slices as a batch.
        window: size of the windows that the model predicts in, one number per axis of ``spatial``.
        spacing: millimetres per axis of ``spatial``; empty if not known.

    Attributes:
        source: the image file.
    """

    source: Source

    def __init__(self, network: nn.Module, image: Tensor, window: Sequence[int], spacing: Sequence[float]) -> None:
        self.network, self.image = network, image
        self.window, self.spacing = tuple(map(int, window)), tuple(map(float, spacing))

    @abstractmethod
    def place(self, voxel: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Entry of the batch and position of a voxel of the image file, counted from 0 in the order of NIfTI.

        Raises:
            InputError: the voxel is outside the image, or the preprocessing crops it away.
        """

    @abstractmethod
    def on_file(self, maps: Tensor) -> nib.Nifti1Image:
        """Maps (B, N, *spatial) on the voxels of the image file, (X, Y, Z, N); 0 where the preprocessing cropped.

        Z is 1 for a picture and a single slice.
        """


class Window(NamedTuple):
    """A window of a case around a voxel.

    Args:
        image: (1, C, *window), zeros outside the case.
        position: of the voxel in the window.
        entry: of the batch.
        start: of the window in the case, per axis; negative where zeros come first.
    """

    image: Tensor
    position: tuple[int, ...]
    entry: int
    start: tuple[int, ...]


def window_around(case: Case, voxel: Sequence[int]) -> Window:
    """The window with the voxel nearest to its centre. An image smaller than the window is padded on both sides."""
    entry, position = case.place(voxel)
    sizes = case.image.shape[2:]
    start = tuple(
        -((width - size) // 2) if size <= width else min(max(place - width // 2, 0), size - width)
        for size, width, place in zip(sizes, case.window, position, strict=True)
    )
    padding: list[int] = []  # torch expects the last axis first
    for size, width, first in zip(sizes, case.window, start, strict=True):
        padding = [max(-first, 0), max(first + width - size, 0), *padding]
    inside = [slice(max(first, 0), first + width) for first, width in zip(start, case.window, strict=True)]
    index = (slice(entry, entry + 1), slice(None), *inside)
    image = F.pad(case.image[index], padding)
    return Window(image, tuple(p - first for p, first in zip(position, start, strict=True)), entry, start)


def in_case(case: Case, window: Window, maps: Tensor) -> Tensor:
    """Maps of a window, (N, *window), in their place in the case, (B, N, *spatial); 0 elsewhere."""
    batch, _, *sizes = case.image.shape
    whole = maps.new_zeros(batch, len(maps), *sizes)
    source, target = [slice(None)], [slice(None)]
    for size, width, first in zip(sizes, maps.shape[1:], window.start, strict=True):
        low, high = max(first, 0), min(first + width, size)
        target.append(slice(low, high))
        source.append(slice(low - first, high - first))
    whole[window.entry][tuple(target)] = maps[tuple(source)]
    return whole


def check_voxel(voxel: Sequence[int], shape: Sequence[int]) -> None:
    """Raise InputError unless the voxel is one of an image file of this shape."""
    if len(voxel) != len(shape) or not all(0 <= v < size for v, size in zip(voxel, shape, strict=True)):
        given, sizes = ",".join(map(str, voxel)), ",".join(map(str, shape))
        raise InputError(f"voxel {given} is not in the image of {sizes} voxels; they are counted from 0")


@torch.no_grad()
def finite(maps: Tensor) -> Tensor:
    """The maps. Raise InputError if they are not finite: the weights are not, or the image overflows."""
    if not torch.isfinite(maps).all():
        raise InputError("the network gives values that are NaN or infinite for this image")
    return maps
