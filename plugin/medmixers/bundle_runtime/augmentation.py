"""Random affine augmentation as Keuth et al. 2025 draw it: every entry of the matrix is normal."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from torch import Tensor
from torch.nn import functional


class RandNormalAffined(Randomizable, MapTransform):
    """Resample by the matrix [I | 0] + N(0, std), in coordinates from -1 to 1 along each axis, with zeros outside.

    The last column moves: with std 0.1, by 5 % of the size in one standard deviation. All keys get the same matrix.

    Args:
        keys: images of one size, channel first: (C, H, W) or (C, H, W, D).
        std: standard deviation of every entry.
        mode: "bilinear" or "nearest", one per key or one for all; in 3D "bilinear" is trilinear.
    """

    def __init__(self, keys: KeysCollection, *, std: float, mode: str | Sequence[str]) -> None:
        super().__init__(keys)
        self.std, self.modes = std, ensure_tuple_rep(mode, len(self.keys))
        self.matrix = torch.empty(0)

    def randomize(self, data: int) -> None:
        """Draw the matrix. data: number of spatial axes."""
        noise = torch.as_tensor(self.R.normal(0.0, self.std, (data, data + 1)), dtype=torch.float32)
        self.matrix = torch.eye(data, data + 1) + noise

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(data[self.keys[0]].ndim - 1)
        for key, mode in zip(self.keys, self.modes, strict=True):
            moved = resample(torch.as_tensor(data[key]), self.matrix, mode)
            result[key] = convert_to_dst_type(moved, data[key])[0]
        return result


def resample(image: Tensor, matrix: Tensor, mode: str) -> Tensor:
    """Image at matrix times the coordinates of each pixel, as :func:`torch.nn.functional.affine_grid` has them.

    Args:
        image: (C, *spatial).
        matrix: (axes, axes + 1); coordinates go from -1 to 1, the last axis of the image first.
        mode: "bilinear" or "nearest".
    """
    batch = image.as_subclass(Tensor)[None].float()
    grid = functional.affine_grid(matrix[None].to(batch), list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, mode=mode, padding_mode="zeros", align_corners=False)[0]
