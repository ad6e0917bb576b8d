from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.layers.conv import check_kernel_size, check_spatial_dims
from medmixers.layers.sizes import crop, has_known_size
from medmixers.mixers.flex_tiles import flex_attention_by_tiles
from medmixers.mixers.global_attention import full_attention, head_count

BACKENDS = ("auto", "tiles", "flex")
TILE_SIZE = 4  # edge of a query tile in voxels: the fastest measured on a CPU, in 2D and 3D


class LocalAttention(nn.Module):
    """Self-attention of every position to its neighbourhood (Keuth et al. 2025, equation 8).

    A query attends to the keys inside the image whose offset is at most ``kernel_size // 2`` on every axis. Computed
    exactly and without compilation: queries are taken in tiles, each with the keys of the tile and a halo around it,
    so memory grows with tokens times window, never with tokens squared.

    Args:
        dim: channels C, a multiple of ``head_dim``.
        spatial_dims: 2 or 3.
        kernel_size: edge of the neighbourhood in voxels, odd.
        head_dim: channels of one head.
        full_attention_tokens: feature maps of at most this many positions attend globally instead, as in the
            study's code; 0 keeps every map local.
        backend: how it is computed, not what. "tiles": as said above. "flex": by compiled FlexAttention over tokens in
            tile order, for GPUs; on a CPU it is slow and cannot be trained, and a trace or an export takes tiles.
            "auto": tiles everywhere, until flex has been measured on a GPU.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        kernel_size: int = 7,
        head_dim: int = 16,
        full_attention_tokens: int = 64,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
        self.backend = backend
        self.kernel_size = check_kernel_size(kernel_size)
        self.tile_size = TILE_SIZE
        self.heads = head_count(dim, head_dim)
        self.full_attention_tokens = full_attention_tokens
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        qkv = self.qkv(x.movedim(1, -1))  # (B, *spatial, 3 C)
        is_small = prod(x.shape[2:]) <= self.full_attention_tokens
        if torch.compiler.is_exporting() and not has_known_size(x):  # the program takes images on either side
            mixed = torch.cond(is_small, self._full, self._tiled, (qkv,))
        elif is_small:
            mixed = self._full(qkv)
        elif self.backend == "flex" and not (torch.compiler.is_exporting() or torch.jit.is_tracing()):
            mixed = flex_attention_by_tiles(qkv, heads=self.heads, kernel_size=self.kernel_size)
        else:
            mixed = self._tiled(qkv)
        return self.proj(mixed.view(*qkv.shape[:-1], -1)).movedim(-1, 1)

    # Both give their numbers flat, (B N C): torch.cond cannot compare other strides of open sizes.
    def _full(self, qkv: Tensor) -> Tensor:
        return full_attention(qkv.flatten(1, -2), self.heads).flatten()

    def _tiled(self, qkv: Tensor) -> Tensor:
        mixed = tiled_attention(qkv, heads=self.heads, kernel_size=self.kernel_size, tile_size=self.tile_size)
        return mixed.flatten()


def tiled_attention(qkv: Tensor, *, heads: int, kernel_size: int, tile_size: int) -> Tensor:
    """Neighbourhood attention: masked attention of each tile of queries to the keys of the tile and its halo.

    Args:
        qkv: queries, keys and values side by side, (B, *spatial, 3 C).
        heads: number of heads, each of C / heads channels.
        kernel_size: edge of the neighbourhood in voxels, odd.
        tile_size: edge of a tile in voxels; it changes the speed, not the result.

    Returns:
        Mixed values, (B, *spatial, C).
    """
    spatial, dims = qkv.shape[1:-1], qkv.ndim - 2
    radius, window = kernel_size // 2, tile_size + 2 * (kernel_size // 2)
    counts: list[Any] = [(size + tile_size - 1) // tile_size for size in spatial]  # Any: exported, no int
    if torch.compiler.is_exporting():
        counts = [torch.sym_max(count, 2) for count in counts]  # an axis of one tile would need a program of its own
    fill = [count * tile_size - size for size, count in zip(spatial, counts, strict=True)]
    q, kv = qkv.tensor_split((qkv.shape[-1] // 3,), dim=-1)
    (q,) = _windows(_pad(q, [(0, extra) for extra in fill]), tile_size, tile_size, (1, heads))
    k, v = _windows(_pad(kv, [(radius, extra + radius) for extra in fill]), window, tile_size, (2, heads))
    mask = _tile_mask(spatial, counts, kernel_size, tile_size, qkv.device)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (tiles, B heads, tile voxels, D)

    mixed = mixed.reshape(*counts, qkv.shape[0], heads, *(tile_size,) * dims, -1)
    order = [dims, *(axis for d in range(dims) for axis in (d, dims + 2 + d)), dims + 1, 2 * dims + 2]
    mixed = mixed.permute(order)  # (n1, n2, B, heads, t1, t2, D) -> (B, n1, t1, n2, t2, heads, D)
    mixed = mixed.reshape(qkv.shape[0], *(count * tile_size for count in counts), -1)
    return crop(mixed, spatial, first_axis=1)


def _pad(x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros before and after each spatial axis of (B, *spatial, C)."""
    return F.pad(x, [0, 0, *(amount for pair in reversed(amounts) for amount in pair)])


def _windows(x: Tensor, size: int, stride: int, split: tuple[int, int]) -> tuple[Tensor, ...]:
    """Windows of (B, *spatial, parts heads D), a tensor (tiles, B heads, size^dims, D) for each part."""
    dims = x.ndim - 2
    x = x.unflatten(-1, (*split, -1))
    for axis in range(1, dims + 1):
        x = x.unfold(axis, size, stride)  # -> (B, n1, .., parts, heads, D, s1, ..)
    parts, heads, depth = dims + 1, dims + 2, dims + 3
    x = x.permute(parts, *range(1, dims + 1), 0, heads, *range(depth + 1, depth + 1 + dims), depth)
    tiles = prod(x.shape[1 : dims + 1])
    return x.reshape(split[0], tiles, -1, size**dims, x.shape[-1]).unbind(0)


def _tile_mask(
    spatial: Sequence[int], counts: Sequence[int], kernel_size: int, tile_size: int, device: torch.device
) -> Tensor:
    """Which key of the window each query of a tile may see: bool, (tiles, 1, tile voxels, window voxels)."""
    radius, dims = kernel_size // 2, len(spatial)
    mask = torch.ones((), dtype=torch.bool, device=device)
    for axis, (size, count) in enumerate(zip(spatial, counts, strict=True)):
        start = tile_size * torch.arange(count, device=device).view(-1, 1, 1)
        query = start + torch.arange(tile_size, device=device).view(1, -1, 1)
        key = start - radius + torch.arange(tile_size + 2 * radius, device=device).view(1, 1, -1)
        near = ((query - key).abs() <= radius) & (key >= 0) & (key < size)
        near = near | (query >= size)  # a padded query sees all: it is cropped, and an empty softmax would be NaN
        shape = [1] * (3 * dims)
        for part in range(3):
            shape[part * dims + axis] = near.shape[part]
        mask = mask & near.view(shape)
    tiles, queries = prod(mask.shape[:dims]), tile_size**dims
    return mask.reshape(tiles, 1, queries, -1)
