"""Neighbourhood attention by tiles of queries: block by block on a CPU, or all tiles at once as the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from medmixers.kernels.eager import is_eager_on_cpu
from medmixers.layers.sizes import crop

BLOCK_NUMBERS = 2**20  # elements per block and thread: 4 MiB in float32, within the caches


@dataclass(frozen=True)
class Tiling:
    """Heads, neighbourhood and tiles of neighbourhood attention.

    Args:
        heads: number of heads, each of C / heads channels.
        kernel_size: edge of the neighbourhood in voxels, odd.
        tile_size: edge of a tile of queries in voxels; it changes the speed, not the result.
    """

    heads: int
    kernel_size: int
    tile_size: int

    @property
    def radius(self) -> int:
        return self.kernel_size // 2

    @property
    def window(self) -> int:
        """Edge of a tile with its halo, in voxels."""
        return self.tile_size + 2 * self.radius


def tile_attention(qkv: Tensor, tiling: Tiling) -> Tensor:
    """Neighbourhood attention: masked attention of each tile of queries to the keys of the tile and its halo.

    A CPU computes one block of tiles at a time and never allocates all windows. A training step keeps ``qkv`` alone
    and gathers the windows of each block again in the backward pass. Reference: :func:`whole_tile_attention`, which
    also runs everywhere else.

    Args:
        qkv: queries, keys and values side by side, (B, *spatial, 3 C).

    Returns:
        Mixed values, (B, *spatial, C).
    """
    if not is_eager_on_cpu(qkv):
        return whole_tile_attention(qkv, tiling)
    if qkv.requires_grad and torch.is_grad_enabled():
        return _BlockAttention.apply(qkv, tiling)
    return _attend_by_blocks(qkv, tiling)


def whole_tile_attention(qkv: Tensor, tiling: Tiling) -> Tensor:
    """:func:`tile_attention` of all tiles at once."""
    spatial, tile = qkv.shape[1:-1], tiling.tile_size
    counts: list[Any] = [(size + tile - 1) // tile for size in spatial]  # symbolic, not int, during an export
    if torch.compiler.is_exporting():
        counts = [torch.sym_max(count, 2) for count in counts]  # else torch.export specialises on axes of one tile
    fill = [count * tile - size for size, count in zip(spatial, counts, strict=True)]
    q, kv = qkv.tensor_split((qkv.shape[-1] // 3,), dim=-1)
    q = _pad(q, [(0, extra) for extra in fill])
    kv = _pad(kv, [(tiling.radius, extra + tiling.radius) for extra in fill])
    near = [_near(size, count, tiling, qkv.device) for size, count in zip(spatial, counts, strict=True)]
    return crop(_attend(q, kv, _tile_mask(near), tiling), spatial, first_axis=1)


def _attend(q: Tensor, kv: Tensor, mask: Tensor, tiling: Tiling) -> Tensor:
    """Whole tiles of queries, (B, *tiled, C), and keys and values with a halo around them -> (B, *tiled, C)."""
    q_tiles, k, v = _gather(q, kv, tiling)
    return _untile(F.scaled_dot_product_attention(q_tiles, k, v, attn_mask=mask), q.shape[:-1], tiling)


def _gather(q: Tensor, kv: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of every tile, (tiles, B heads, tile voxels, D), and keys and values of its window."""
    (q,) = _windows(q, tiling.tile_size, tiling.tile_size, (1, tiling.heads))
    k, v = _windows(kv, tiling.window, tiling.tile_size, (2, tiling.heads))
    return q, k, v


def _untile(tiles: Tensor, shape: Sequence[int], tiling: Tiling) -> Tensor:
    """Put tiles (tiles, B heads, tile voxels, D) in place: ``shape``, (B, *tiled), and C channels."""
    (batch, *tiled), tile, dims = shape, tiling.tile_size, len(shape) - 1
    depth = tiles.shape[-1]
    tiles = tiles.reshape(*(size // tile for size in tiled), batch, tiling.heads, *(tile,) * dims, depth)
    return tiles.permute(_in_place(dims)).reshape(*shape, tiling.heads * depth)


def _in_place(dims: int) -> list[int]:
    """Order of axes that takes (n1, n2, B, heads, t1, t2, D) to (B, n1, t1, n2, t2, heads, D)."""
    return [dims, *(axis for d in range(dims) for axis in (d, dims + 2 + d)), dims + 1, 2 * dims + 2]


def _pad(x: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros before and after each spatial axis of (B, *spatial, C)."""
    return F.pad(x, [0, 0, *(amount for pair in reversed(amounts) for amount in pair)])


def _windows(x: Tensor, size: int, stride: int, split: tuple[int, int]) -> tuple[Tensor, ...]:
    """Windows of (B, *spatial, parts heads D): one tensor (tiles, B heads, size^dims, D) per part."""
    dims = x.ndim - 2
    x = x.unflatten(-1, (*split, -1))
    for axis in range(1, dims + 1):
        x = x.unfold(axis, size, stride)  # -> (B, n1, .., parts, heads, D, s1, ..)
    parts, heads, depth = dims + 1, dims + 2, dims + 3
    x = x.permute(parts, *range(1, dims + 1), 0, heads, *range(depth + 1, depth + 1 + dims), depth)
    tiles = prod(x.shape[1 : dims + 1])
    batch_heads = x.shape[dims + 1] * x.shape[dims + 2]
    return x.reshape(split[0], tiles, batch_heads, size**dims, x.shape[-1]).unbind(0)


def _near(size: int, count: int, tiling: Tiling, device: torch.device) -> Tensor:
    """Mask along one axis, the keys of its window that a query may see: bool, (count, tile, window)."""
    start = tiling.tile_size * torch.arange(count, device=device).view(-1, 1, 1)
    query = start + torch.arange(tiling.tile_size, device=device).view(1, -1, 1)
    key = start - tiling.radius + torch.arange(tiling.window, device=device).view(1, 1, -1)
    near = ((query - key).abs() <= tiling.radius) & (key >= 0) & (key < size)
    return near | (query >= size)  # a padded query sees all, else its softmax would be NaN; cropping removes it


def _tile_mask(near: Sequence[Tensor]) -> Tensor:
    """Mask, the keys of the window that each query of a tile may see: bool, (tiles, 1, tile voxels, window voxels)."""
    dims = len(near)
    mask = torch.ones((), dtype=torch.bool, device=near[0].device)
    for axis, part in enumerate(near):
        shape = [1] * (3 * dims)
        shape[axis::dims] = part.shape
        mask = mask & part.view(shape)
    return mask.reshape(prod(mask.shape[:dims]), 1, prod(mask.shape[dims : 2 * dims]), -1)


@dataclass(frozen=True)
class _Span:
    """Neighbouring tiles along one axis: the slices of queries and keys, and the padding beyond the map's ends."""

    queries: slice
    fill: tuple[int, int]
    keys: slice
    halo: tuple[int, int]
    near: Tensor


def _spans(size: int, near: Tensor, step: int, tiling: Tiling) -> Iterator[_Span]:
    """An axis of ``size`` voxels, ``step`` tiles at a time."""
    tile, radius = tiling.tile_size, tiling.radius
    for first, part in zip(range(0, len(near), step), near.split(step), strict=True):
        start, stop = first * tile, (first + len(part)) * tile
        yield _Span(
            queries=slice(start, min(stop, size)),
            fill=(0, max(stop - size, 0)),
            keys=slice(max(start - radius, 0), min(stop + radius, size)),
            halo=(max(radius - start, 0), max(stop + radius - size, 0)),
            near=part,
        )


def _blocks(qkv: Tensor, tiling: Tiling) -> Iterator[tuple[tuple[_Span, ...], Tensor]]:
    """Blocks of tiles, one span per axis, with their masks.

    Queries, keys, values and mask of a block have about ``BLOCK_NUMBERS`` elements per thread. The smallest block is
    one tile of all samples.
    """
    spatial, dims = qkv.shape[1:-1], qkv.ndim - 2
    steps = [-(-size // tiling.tile_size) for size in spatial]
    near = [_near(size, count, tiling, qkv.device) for size, count in zip(spatial, steps, strict=True)]
    queries, keys = tiling.tile_size**dims, tiling.window**dims  # per tile
    numbers = qkv.shape[0] * qkv.shape[-1] // 3 * (queries + 2 * keys) + queries * keys
    limit = BLOCK_NUMBERS * torch.get_num_threads()
    for axis, count in enumerate(steps):
        steps[axis] = min(count, max(1, limit * count // (numbers * prod(steps))))
    zero, never = (torch.tensor(value, dtype=qkv.dtype, device=qkv.device) for value in (0.0, -torch.inf))
    masks: dict[Any, Tensor] = {}  # blocks inside the map share one mask
    axes = [list(_spans(*axis, tiling)) for axis in zip(spatial, near, steps, strict=True)]
    for spans in product(*axes):
        key = tuple((len(span.near), span.fill, span.halo) for span in spans)
        if key not in masks:
            masks[key] = torch.where(_tile_mask([span.near for span in spans]), zero, never)
        yield spans, masks[key]


def _attend_block(q: Tensor, kv: Tensor, spans: Sequence[_Span], mask: Tensor, tiling: Tiling) -> Tensor:
    """The queries (B, *queries, C) and keys and values (B, *keys, 2 C) of a block -> (B, *queries, C)."""
    padded = _pad(q, [span.fill for span in spans]), _pad(kv, [span.halo for span in spans])
    return crop(_attend(*padded, mask, tiling), q.shape[1:-1], first_axis=1)


def _attend_by_blocks(qkv: Tensor, tiling: Tiling) -> Tensor:
    q, kv = qkv.tensor_split((qkv.shape[-1] // 3,), dim=-1)
    mixed = torch.empty_like(q, memory_format=torch.contiguous_format)
    for spans, mask in _blocks(qkv, tiling):
        queries, keys = _places(spans)
        mixed[queries] = _attend_block(q[queries], kv[keys], spans, mask, tiling)
    return mixed


def _places(spans: Sequence[_Span]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Indices of a block's queries and of its keys."""
    return (slice(None), *(span.queries for span in spans)), (slice(None), *(span.keys for span in spans))


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, tiling: Tiling) -> Tensor:
        ctx.save_for_backward(qkv)
        ctx.tiling = tiling
        return _attend_by_blocks(qkv, tiling)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (qkv,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # double backward: torch's other attention kernels do not support it
            with sdpa_kernel(SDPBackend.MATH):
                mixed = whole_tile_attention(qkv, ctx.tiling)
            (grad_qkv,) = torch.autograd.grad(mixed, qkv, grad, create_graph=True)
            return grad_qkv, None
        grad_qkv = torch.zeros_like(qkv)
        split = (qkv.shape[-1] // 3,)
        (q, kv), (grad_q, grad_kv) = (x.tensor_split(split, dim=-1) for x in (qkv, grad_qkv))
        for spans, mask in _blocks(qkv, ctx.tiling):
            queries, keys = _places(spans)
            of_q, of_kv = _block_gradients(q[queries], kv[keys], grad[queries], spans, mask, ctx.tiling)
            grad_q[queries] = of_q
            grad_kv[keys] += of_kv
        return grad_qkv, None


def _block_gradients(
    q: Tensor, kv: Tensor, grad: Tensor, spans: Sequence[_Span], mask: Tensor, tiling: Tiling
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`_attend_block` for ``q`` and ``kv``. Autograd would scatter the windows voxel by voxel."""
    fill, halo = [span.fill for span in spans], [span.halo for span in spans]
    tiled = _pad(q, fill)
    q_tiles, k, v = (windows.detach().requires_grad_() for windows in _gather(tiled, _pad(kv, halo), tiling))
    (grad_tiles,) = _windows(_pad(grad, fill), tiling.tile_size, tiling.tile_size, (1, tiling.heads))
    with torch.enable_grad():
        mixed = F.scaled_dot_product_attention(q_tiles, k, v, attn_mask=mask)
    of_q, of_k, of_v = torch.autograd.grad(mixed, (q_tiles, k, v), grad_tiles)
    of_kv = _sum_of_windows((of_k, of_v), tiled.shape[:-1], tiling)
    for axis, (size, (before, _)) in enumerate(zip(kv.shape[1:-1], halo, strict=True), start=1):
        of_kv = of_kv.narrow(axis, before, size)
    return crop(_untile(of_q, tiled.shape[:-1], tiling), q.shape[1:-1], first_axis=1), of_kv


def _sum_of_windows(parts: Sequence[Tensor], shape: Sequence[int], tiling: Tiling) -> Tensor:
    """Sum of overlapping windows of keys and values, each (tiles, B heads, window voxels, D).

    Windows are cut into pieces where tiles meet. The pieces at the same place of all windows do not overlap.

    Args:
        shape: shape of the queries, (B, *tiled).

    Returns:
        (B, *larger, 2 C): the tiles with their halo, padded to whole tiles at the end.
    """
    (batch, *tiled), tile, dims = shape, tiling.tile_size, len(shape) - 1
    counts = [size // tile for size in tiled]
    pieces = -(-tiling.window // tile)  # pieces per window along an axis
    grid = [edge for count in counts for edge in (count + pieces - 1, tile)]
    total = parts[0].new_zeros(batch, *grid, len(parts), tiling.heads, parts[0].shape[-1])
    for index, part in enumerate(parts):
        windows = part.view(*counts, batch, tiling.heads, *(tiling.window,) * dims, part.shape[-1])
        windows = windows.permute(_in_place(dims))
        for place in product(range(pieces), repeat=dims):
            source, target = windows, total.select(-3, index)  # (B, n1, w1, n2, w2, heads, D), and w as t
            for d, piece in enumerate(place):
                length = min(tile, tiling.window - piece * tile)
                source = source.narrow(2 * d + 2, piece * tile, length)
                target = target.narrow(2 * d + 1, piece, counts[d]).narrow(2 * d + 2, 0, length)
            target += source
    return total.view(batch, *(edge * tile for edge in grid[::2]), total.shape[-3:].numel())
