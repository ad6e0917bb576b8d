"""Learnable channel scales: LayerScale on a branch, ResScale on the shortcut."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelScale(nn.Module):
    """Multiply each channel by a learnable factor of its own.

    On the output of a branch it is LayerScale (Touvron et al. 2021). On the shortcut it is ResScale (Shleifer et al.
    2021).

    Args:
        dim: channels C.
        init: start value of every factor.
    """

    def __init__(self, dim: int, *, spatial_dims: int, init: float) -> None:
        super().__init__()
        self.shape = (dim,) + (1,) * spatial_dims
        self.scale = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return x * self.scale.view(self.shape)


def create_scale(dim: int, *, spatial_dims: int, init: float | None) -> nn.Module:
    """A :class:`ChannelScale`, or the identity for ``init=None``."""
    return nn.Identity() if init is None else ChannelScale(dim, spatial_dims=spatial_dims, init=init)
