"""Normalisation layers of a feature map (B, C, *spatial), by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.layers.conv import check_spatial_dims


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of each position (timm's LayerNorm2d, in any dimension).

    Args:
        dim: channels C.
        bias: whether a bias is learned as well as the weight.
        eps: added to the variance; 1e-6 as in timm.
    """

    def __init__(self, dim: int, *, bias: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        normed = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)


NORMS = ("group_norm", "layer_norm", "batch_norm", "none")
BATCH_NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def create_norm(name: str, dim: int, *, spatial_dims: int, bias: bool = True, eps: float | None = None) -> nn.Module:
    """A normalisation layer of ``dim`` channels.

    Args:
        name: "group_norm": one group of all channels and positions; "layer_norm": the channels of each position;
            "batch_norm"; or "none".
        dim: channels C.
        bias: whether a bias is learned as well as the weight.
        eps: added to the variance; None means 1e-6 for layer_norm and 1e-5 for the other norms.

    Raises:
        ValueError: an unknown name.
    """
    check_spatial_dims(spatial_dims)
    if name == "none":
        return nn.Identity()
    if name == "layer_norm":
        return ChannelLayerNorm(dim, bias=bias, eps=1e-6 if eps is None else eps)
    norm: nn.Module
    if name == "group_norm":
        norm = nn.GroupNorm(1, dim, eps=1e-5 if eps is None else eps)
    elif name == "batch_norm":
        norm = BATCH_NORMS[spatial_dims](dim, eps=1e-5 if eps is None else eps)
    else:
        raise InputError(f"unknown norm {name!r}; valid: {', '.join(sorted(NORMS))}")
    if not bias:
        norm.register_parameter("bias", None)
    return norm
