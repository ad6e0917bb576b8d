"""Neighbourhood attention by tiles of queries: block by block on a CPU, or all tiles at once as the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from medmixers.kernels.eager import is_eager_on_cpu
from medmixers.layers.sizes import Ints, crop, is_exporting, product_of

TILE_SIZE = 4  # edge of a query tile in voxels: the fastest measured on a CPU, in 2D and 3D
BLOCK_NUMBERS = 2**20  # elements per block and thread: 4 MiB in float32, within the caches


class Tiling(NamedTuple):
    """Heads, neighbourhood and tiles of neighbourhood attention.

    Args:
        heads: number of heads, each of C / heads channels.
        kernel_size: edge of the neighbourhood in voxels, odd.
        tile_size: edge of a tile of queries in voxels; it changes the speed, not the result.
    """

    heads: int
    kernel_size: int
    tile_size: int


def tile_attention(qkv: Tensor, tiling: Tiling) -> Tensor:
    """Neighbourhood attention: masked attention of each tile of queries to the keys of the tile and its halo.

    A CPU computes one block of tiles at a time and never allocates all windows. A training step keeps ``qkv`` alone
    and gathers the windows of each block again in the backward pass. Reference: :func:`whole_tile_attention`. GPUs and
    graphs use the reference.

    Args:
        qkv: queries, keys and values side by side, (B, *spatial, 3 C).

    Returns:
        Mixed values, (B, *spatial, C).
    """
    if not torch.jit.is_scripting():
        if is_eager_on_cpu(qkv):
            attend = _BlockAttention.apply if qkv.requires_grad and torch.is_grad_enabled() else _attend_by_blocks
            return attend(qkv, tiling)
    return whole_tile_attention(qkv, tiling)


def whole_tile_attention(qkv: Tensor, tiling: Tiling) -> Tensor:
    """:func:`tile_attention` of all tiles at once."""
    tile, radius = tiling.tile_size, tiling.kernel_size // 2
    of_queries: list[tuple[int, int]] = []
    of_keys: list[tuple[int, int]] = []
    near: list[Tensor] = []
    for size in qkv.shape[1:-1]:
        count = _tile_count(size, tile)
        fill = count * tile - size
        of_queries.append((0, fill))
        of_keys.append((radius, fill + radius))
        near.append(_near(size, count, tiling, qkv.device))
    channels = qkv.shape[-1] // 3
    q, kv = qkv.split([channels, 2 * channels], dim=-1)
    mixed = _attend(_pad(q, of_queries), _pad(kv, of_keys), _tile_mask(near), tiling)
    return crop(mixed, qkv.shape[1:-1], first_axis=1)


def _tile_count(size: int, tile: int) -> int:
    count = (size + tile - 1) // tile
    if not torch.jit.is_scripting():
        if is_exporting():
            # At least two tiles: torch.export would specialise on an axis of one tile.
            count = torch.sym_max(count, 2)  # type: ignore[assignment]
    return count


def _attend(q: Tensor, kv: Tensor, mask: Tensor, tiling: Tiling) -> Tensor:
    """Whole tiles of queries, (B, *tiled, C), and keys and values with a halo around them -> (B, *tiled, C)."""
    q_tiles, k, v = _gather(q, kv, tiling)
    return _untile(F.scaled_dot_product_attention(q_tiles, k, v, attn_mask=mask), q.shape[:-1], tiling)


def _gather(q: Tensor, kv: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of every tile, (tiles, B heads, tile voxels, D), and keys and values of its window."""
    windows = _windows(kv, _window(tiling), tiling.tile_size, 2, tiling.heads)
    return _windows(q, tiling.tile_size, tiling.tile_size, 1, tiling.heads)[0], windows[0], windows[1]


def _window(tiling: Tiling) -> int:
    """Edge of a tile with its halo, in voxels."""
    return tiling.tile_size + 2 * (tiling.kernel_size // 2)


def _untile(tiles: Tensor, shape: Ints, tiling: Tiling) -> Tensor:
    """Put tiles (tiles, B heads, tile voxels, D) in place: ``shape``, (B, *tiled), and C channels."""
    tile, dims, depth = tiling.tile_size, len(shape) - 1, tiles.shape[-1]
    counts = [size // tile for size in shape[1:]]
    tiles = tiles.reshape(counts + [shape[0], tiling.heads] + [tile] * dims + [depth])
    return tiles.permute(_in_place(dims)).reshape(list(shape) + [tiling.heads * depth])


def _in_place(dims: int) -> list[int]:
    """Order of axes that takes (n1, n2, B, heads, t1, t2, D) to (B, n1, t1, n2, t2, heads, D)."""
    order = [dims]
    for d in range(dims):
        order += [d, dims + 2 + d]
    return order + [dims + 1, 2 * dims + 2]


def _pad(x: Tensor, amounts: list[tuple[int, int]]) -> Tensor:
    """Zeros before and after each spatial axis of (B, *spatial, C)."""
    padding: list[int] = []  # torch expects the last axis first
    for before, after in amounts:
        padding = [before, after] + padding
    return F.pad(x, [0, 0] + padding)


def _windows(x: Tensor, size: int, stride: int, parts: int, heads: int) -> list[Tensor]:
    """Windows of (B, *spatial, parts heads D): one tensor (tiles, B heads, size^dims, D) per part."""
    dims = x.ndim - 2
    x = x.unflatten(-1, [parts, heads, -1])
    for axis in range(1, dims + 1):
        x = x.unfold(axis, size, stride)  # -> (B, n1, .., parts, heads, D, s1, ..)
    grid, inner = list(range(1, dims + 1)), list(range(dims + 4, 2 * dims + 4))
    x = x.permute([dims + 1] + grid + [0, dims + 2] + inner + [dims + 3])
    tiles, batch_heads = product_of(x.shape[1 : dims + 1]), x.shape[dims + 1] * x.shape[dims + 2]
    return list(x.reshape([parts, tiles, batch_heads, product_of([size] * dims), x.shape[-1]]).unbind(0))


def _near(size: int, count: int, tiling: Tiling, device: torch.device) -> Tensor:
    """Mask along one axis, the keys of its window that a query may see: bool, (count, tile, window)."""
    radius = tiling.kernel_size // 2
    start = tiling.tile_size * torch.arange(count, device=device).view(-1, 1, 1)
    query = start + torch.arange(tiling.tile_size, device=device).view(1, -1, 1)
    key = start - radius + torch.arange(_window(tiling), device=device).view(1, 1, -1)
    near = ((query - key).abs() <= radius) & (key >= 0) & (key < size)
    return near | (query >= size)  # a padded query sees all, else its softmax would be NaN; cropping removes it


def _tile_mask(near: list[Tensor]) -> Tensor:
    """Mask, the keys of the window that each query of a tile may see: bool, (tiles, 1, tile voxels, window voxels)."""
    dims = len(near)
    mask = torch.ones([], dtype=torch.bool, device=near[0].device)
    for axis, part in enumerate(near):
        shape = [1] * (3 * dims)
        for kind, extent in enumerate(part.shape):
            shape[axis + kind * dims] = extent
        mask = mask & part.view(shape)
    return mask.reshape([product_of(mask.shape[:dims]), 1, product_of(mask.shape[dims : 2 * dims]), -1])


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
    tile, radius = tiling.tile_size, tiling.kernel_size // 2
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
    queries, keys = tiling.tile_size**dims, _window(tiling) ** dims  # per tile
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
    (grad_tiles,) = _windows(_pad(grad, fill), tiling.tile_size, tiling.tile_size, 1, tiling.heads)
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
    pieces = -(-_window(tiling) // tile)  # pieces per window along an axis
    grid = [edge for count in counts for edge in (count + pieces - 1, tile)]
    total = parts[0].new_zeros(batch, *grid, len(parts), tiling.heads, parts[0].shape[-1])
    for index, part in enumerate(parts):
        windows = part.view(*counts, batch, tiling.heads, *(_window(tiling),) * dims, part.shape[-1])
        windows = windows.permute(_in_place(dims))
        for place in product(range(pieces), repeat=dims):
            source, target = windows, total.select(-3, index)  # (B, n1, w1, n2, w2, heads, D), and w as t
            for d, piece in enumerate(place):
                length = min(tile, _window(tiling) - piece * tile)
                source = source.narrow(2 * d + 2, piece * tile, length)
                target = target.narrow(2 * d + 1, piece, counts[d]).narrow(2 * d + 2, 0, length)
            target += source
    return total.view(batch, *(edge * tile for edge in grid[::2]), total.shape[-3:].numel())
