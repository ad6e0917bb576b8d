"""Dilated neighbourhood attention: neighbourhood attention within each grid of every d-th voxel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medmixers.kernels.tile_attention import Tiling, tile_attention


@torch.jit.script_if_tracing  # a trace would keep the number of grids of one size
def dilated_tile_attention(qkv: Tensor, heads: int, kernel_size: int, tile_size: int, dilation: int) -> Tensor:
    """:func:`medmixers.kernels.tile_attention.tile_attention` within each grid of every ``dilation``-th voxel.

    Grids of one size go through it as one batch: all of them where the dilation divides the map.

    Args:
        qkv: queries, keys and values side by side, (B, *spatial, 3 C).
        heads, kernel_size, tile_size: as of :class:`medmixers.kernels.tile_attention.Tiling`.
        dilation: distance of neighbouring voxels of a grid, on each axis.

    Returns:
        Mixed values, (B, *spatial, C).
    """
    tiling = Tiling(heads, kernel_size, tile_size)
    grids = [qkv]
    for axis in range(1, qkv.ndim - 1):
        parts: list[Tensor] = []
        for grid in grids:
            parts.extend(_every_nth(grid, axis, dilation))
        grids = parts
    grids = [tile_attention(grid, tiling) for grid in grids]
    for axis in range(qkv.ndim - 2, 0, -1):
        size = qkv.shape[axis]
        count = 1 if size % dilation == 0 or size < dilation else 2
        grids = [_interleave(grids[i : i + count], axis, size, dilation) for i in range(0, len(grids), count)]
    return grids[0]


def _every_nth(x: Tensor, axis: int, n: int) -> list[Tensor]:
    """Grids of every n-th position of an axis, side by side in the batch; one tensor per length, the longer first."""
    length = (x.shape[axis] + n - 1) // n
    short = length * n - x.shape[axis]  # grids that lack the last position
    grids = _pad_end(x, axis, short).unflatten(axis, [length, n]).movedim(axis + 1, 0)  # (n, B, ..., length, ...)
    parts = [grids[: n - short].flatten(0, 1)]
    if short > 0 and length > 1:
        parts.append(grids[n - short :].narrow(axis + 1, 0, length - 1).flatten(0, 1))
    return parts


def _interleave(parts: list[Tensor], axis: int, size: int, n: int) -> Tensor:
    """The inverse of :func:`_every_nth`, for an axis of ``size`` positions."""
    length = parts[0].shape[axis]
    short = length * n - size
    grids = parts[0].unflatten(0, [n - short, -1])
    if len(parts) > 1:
        grids = torch.cat([grids, _pad_end(parts[1], axis, 1).unflatten(0, [short, -1])])
    return grids.movedim(0, axis + 1).flatten(axis, axis + 1).narrow(axis, 0, size)


def _pad_end(x: Tensor, axis: int, amount: int) -> Tensor:
    return F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, amount])
