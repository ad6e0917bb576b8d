"""Peers in the benchmark: the operations of our networks and mixers as others write them.

Every peer is a module with the same input as ours. A peer raises ImportError if its package is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.factory import create_network
from medmixers.kernels.average_pool import plain_local_average
from medmixers.kernels.eager import CHANNELS_LAST
from medmixers.kernels.flex_attention import compiled_flex_attention
from medmixers.mixers.local_attention import LocalAttention
from medmixers.mixers.pooling import Pooling

AVERAGE_POOLS: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class AveragePooling(nn.Module):
    """PoolFormer's token mixer as its authors and timm write it. 2D pooling replaces nn.AvgPool3d on small maps."""

    def __init__(self, *, spatial_dims: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.pool = AVERAGE_POOLS[spatial_dims](kernel_size, 1, kernel_size // 2, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        if x.ndim == 5 and min(x.shape[2:]) < self.kernel_size:
            return plain_local_average(x, self.kernel_size) - x
        return self.pool(x) - x


class ChannelsLast(nn.Module):
    """A module that runs in the channels-last layout, with its input."""

    def __init__(self, module: nn.Module, *, spatial_dims: int) -> None:
        super().__init__()
        self.layout = CHANNELS_LAST[spatial_dims + 2]
        self.module = module.to(memory_format=self.layout)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, *spatial)."""
        return self.module(x.contiguous(memory_format=self.layout))


class Neighbourhoods(nn.Module):
    """Local attention with the same weights by another function of queries, keys and values.

    Args:
        mixer: source of heads, kernel size and weights.
        attention: q, k, v (B, heads, *spatial, D) and the kernel size -> (B, heads, *spatial, D).
    """

    def __init__(self, mixer: LocalAttention, attention: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
        super().__init__()
        self.mixer, self.attention = mixer, attention

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        qkv = self.mixer.qkv(x.movedim(1, -1)).unflatten(-1, (3, self.mixer.heads, -1))
        q, k, v = (part.movedim(-2, 1) for part in qkv.unbind(-3))
        mixed = self.attention(q, k, v, self.mixer.kernel_size)
        return self.mixer.proj(mixed.movedim(1, -2).flatten(-2)).movedim(-1, 1)


def unfold_attention(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Gather the neighbourhood of every query: memory of tokens x window x channels."""
    spatial, dims = q.shape[2:-1], q.ndim - 3
    window = kernel_size**dims

    def neighbourhoods(x: Tensor) -> Tensor:  # (B, heads, *spatial, D) -> (B, heads, tokens, window, D)
        x = F.pad(x, [0, 0, *([kernel_size // 2] * (2 * dims))])
        for axis in range(2, 2 + dims):
            x = x.unfold(axis, kernel_size, 1)  # the axes of the window come last
        return x.movedim(2 + dims, -1).reshape(*x.shape[:2], prod(spatial), window, -1)

    inside = neighbourhoods(q.new_ones(1, 1, *spatial, 1)).squeeze(-1) > 0
    scores = (q.flatten(2, -2).unsqueeze(-2) * neighbourhoods(k)).sum(-1) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~inside, -torch.inf).softmax(-1)
    return (weights.unsqueeze(-1) * neighbourhoods(v)).sum(-2).view_as(q)


@cache  # a network that runs at one size would keep it
@torch.inference_mode(False)  # inference and training share it
def near(spatial: tuple[int, ...], kernel_size: int, device: torch.device) -> Tensor:
    """Mask of neighbours, bool (tokens, tokens)."""
    axes = torch.meshgrid(*(torch.arange(size, device=device) for size in spatial), indexing="ij")
    mask = torch.ones((), dtype=torch.bool, device=device)
    for axis in axes:
        place = axis.flatten()
        mask = mask & ((place.unsqueeze(1) - place).abs() <= kernel_size // 2)
    return mask


def masked_attention(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Full attention with a mask: memory of tokens squared."""
    mask = near(tuple(q.shape[2:-1]), kernel_size, q.device)
    mixed = F.scaled_dot_product_attention(q.flatten(2, -2), k.flatten(2, -2), v.flatten(2, -2), attn_mask=mask)
    return mixed.view_as(q)


@cache
@torch.inference_mode(False)
def row_major_block_mask(spatial: tuple[int, ...], kernel_size: int, device: torch.device) -> Any:
    """FlexAttention's mask of a neighbourhood over tokens in row-major order."""
    from torch.nn.attention.flex_attention import create_block_mask

    def mask(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= 0
        for size in reversed(spatial):
            seen = seen & ((query % size - key % size).abs() <= kernel_size // 2)
            query, key = query // size, key // size
        return seen

    tokens = prod(spatial)
    return create_block_mask(mask, None, None, tokens, tokens, device=device, _compile=device.type == "cuda")


def row_major_flex_attention(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """FlexAttention over tokens in row-major order, as Keuth et al. ran it."""
    mask = row_major_block_mask(tuple(q.shape[2:-1]), kernel_size, q.device)
    flat = (part.flatten(2, -2).contiguous() for part in (q, k, v))
    return compiled_flex_attention(*flat, block_mask=mask).view_as(q)


def natten_attention(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """NATTEN. Its windows shift inwards at the border and keep their size: other results there, at a similar cost."""
    import natten

    attention = {2: natten.na2d, 3: natten.na3d}[q.ndim - 3]
    heads_last = (part.movedim(1, -2) for part in (q, k, v))
    return attention(*heads_last, kernel_size=kernel_size).movedim(-2, 1)


def naive_metaformer(name: str, *, kernel_size: int, **options: Any) -> nn.Module:
    """Our network with pooling by nn.AvgPool: torch's own operators only."""
    network = create_network(name, kernel_size=kernel_size, mixer="pooling", **options)
    for module in network.modules():
        for key, child in module.named_children():
            if isinstance(child, Pooling):
                pool = AveragePooling(spatial_dims=options["spatial_dims"], kernel_size=kernel_size)
                setattr(module, key, pool)
    return network


def timm_network(name: str) -> nn.Module:
    """A network of timm, untrained."""
    import timm

    return timm.create_model(name)
