"""Normalisations of a feature map (B, C, *spatial), by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.layers.conv import check_spatial_dims
from medmixers.registry import Registry


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels, at each position on its own (timm's LayerNorm2d, in any dimension).

    Args:
        dim: channels C.
        eps: added to the variance; 1e-6 as in timm.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        normed = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)


BATCH_NORMS: dict[int, Callable[[int], nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

NORMS: Registry[Callable[[int, int], nn.Module]] = Registry("norm")
NORMS.register("group_norm", lambda dim, spatial_dims: nn.GroupNorm(1, dim))
NORMS.register("layer_norm", lambda dim, spatial_dims: ChannelLayerNorm(dim))
NORMS.register("batch_norm", lambda dim, spatial_dims: BATCH_NORMS[spatial_dims](dim))
NORMS.register("none", lambda dim, spatial_dims: nn.Identity())


def create_norm(name: str, dim: int, *, spatial_dims: int) -> nn.Module:
    """The normalisation ``name`` ("group_norm" is one group over all channels and positions) for ``dim`` channels."""
    check_spatial_dims(spatial_dims)
    return NORMS[name](dim, spatial_dims)
