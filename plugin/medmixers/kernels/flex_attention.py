"""Neighbourhood attention by FlexAttention over tokens in tile order, for GPUs. Its speed is not measured yet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medmixers.layers.sizes import crop

# Tiles of 128 tokens, a block of FlexAttention's sparse mask. A tile of neighbours sees few blocks, an image row many.
TILES: dict[int, tuple[int, ...]] = {2: (8, 16), 3: (4, 4, 8)}
COMPILATIONS = 1000  # more than a training needs: one per size, dtype, and with or without gradients


def flex_attention_by_tiles(qkv: Tensor, *, heads: int, kernel_size: int) -> Tensor:
    """Neighbourhood attention. Reference: :func:`medmixers.kernels.tile_attention.whole_tile_attention`.

    On a GPU it is compiled. On a CPU FlexAttention's own reference runs, with tokens squared memory and no gradient.

    Args:
        qkv: queries, keys and values side by side, (B, *spatial, 3 C).
        heads: number of heads, each of C / heads channels; on a GPU FlexAttention needs at least 16 channels per head.
        kernel_size: edge of the neighbourhood in voxels, odd.

    Returns:
        Mixed values, (B, *spatial, C).
    """
    from torch.nn.attention.flex_attention import flex_attention

    spatial, dims = tuple(qkv.shape[1:-1]), qkv.ndim - 2
    tile = TILES[dims]
    counts = [-(-size // edge) for size, edge in zip(spatial, tile, strict=True)]
    fill = [count * edge - size for count, edge, size in zip(counts, tile, spatial, strict=True)]
    padded = F.pad(qkv, [0, 0, *(amount for extra in reversed(fill) for amount in (0, extra))])
    grid = [edge for pair in zip(counts, tile, strict=True) for edge in pair]
    parts = padded.view(qkv.shape[0], *grid, 3, heads, -1)  # (B, n1, t1, n2, t2, 3, heads, D)
    tiles, inner = range(1, 2 * dims, 2), range(2, 2 * dims + 1, 2)
    parts = parts.permute(2 * dims + 1, 0, 2 * dims + 2, *tiles, *inner, 2 * dims + 3)
    q, k, v = parts.reshape(3, qkv.shape[0], heads, prod(grid), -1)

    attend: Any = compiled_flex_attention if qkv.is_cuda else flex_attention
    mixed = attend(q, k, v, block_mask=tile_block_mask(spatial, kernel_size, qkv.device))

    mixed = mixed.view(qkv.shape[0], heads, *counts, *tile, -1)
    order = [axis for d in range(dims) for axis in (2 + d, 2 + dims + d)]
    mixed = mixed.permute(0, *order, 1, 2 * dims + 2)  # -> (B, n1, t1, n2, t2, heads, D)
    return crop(mixed.reshape(*padded.shape[:-1], -1), spatial, first_axis=1)


def compiled_flex_attention(q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any) -> Tensor:
    """FlexAttention, compiled for each size of the map: (B, heads, tokens, channels), without a limit on their number.

    After 8 compilations torch goes on without a compiled one, in tokens squared memory, and only warns.
    """
    attend = _compiled()
    if torch.compiler.is_compiling():
        return attend(q, k, v, block_mask=block_mask)
    with torch._dynamo.config.patch(recompile_limit=COMPILATIONS, accumulated_recompile_limit=COMPILATIONS):
        return attend(q, k, v, block_mask=block_mask)


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a mask that inference made must serve training too
def tile_block_mask(spatial: tuple[int, ...], kernel_size: int, device: torch.device) -> Any:
    """FlexAttention's mask with tiles as blocks. It lists the tiles within reach only, never tokens squared."""
    from torch.nn.attention.flex_attention import BlockMask

    tile, radius = TILES[len(spatial)], kernel_size // 2
    counts = [-(-size // edge) for size, edge in zip(spatial, tile, strict=True)]
    index = torch.arange(prod(counts), device=device)
    near = torch.ones((), dtype=torch.bool, device=device)
    for place, edge in zip(_places(index, counts), tile, strict=True):
        near = near & (((place.unsqueeze(1) - place).abs() - 1) * edge < radius)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query >= 0
        for size, at, of in zip(spatial, _voxels(query, counts, tile), _voxels(key, counts, tile), strict=True):
            # A padded query sees padded keys, at least itself: an empty softmax would be NaN. Cropping removes it.
            seen = seen & ((at - of).abs() <= radius) & ((of < size) | (at >= size))
        return seen

    number, order = near.sum(-1, dtype=torch.int32), near.int().argsort(dim=-1, descending=True, stable=True)
    return BlockMask.from_kv_blocks(
        number[None, None], order.int()[None, None], BLOCK_SIZE=prod(tile), mask_mod=visible
    )


def _places(index: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Row-major index -> its place on each axis."""
    places = []
    for count in reversed(counts):
        places.append(index % count)
        index = index // count
    return places[::-1]


def _voxels(token: Tensor, counts: Sequence[int], tile: Sequence[int]) -> list[Tensor]:
    """Token in tile order -> its voxel on each axis."""
    corners, inner = _places(token // prod(tile), counts), _places(token % prod(tile), tile)
    return [corner * edge + offset for corner, edge, offset in zip(corners, tile, inner, strict=True)]
