"""Rows of a random matrix made from a seed, and the product with that matrix without keeping it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medmixers.kernels.eager import is_eager, is_eager_on_cpu

BLOCK_NUMBERS = 2**22  # elements of the matrix that are multiplied at a time
CACHED_NUMBERS = 2**18  # elements of the matrix that a CPU makes at a time: the fastest measured of 2^16 to 2^22


def random_rows(seed: Tensor, start: int, stop: int, tokens: int) -> Tensor:
    """Rows ``start`` to ``stop`` of the random matrix, (stop - start, tokens), float32.

    Each row is the softmax of uniform random numbers. They depend on the seed, the row and the column alone, so a row
    is the same on every device. Reference: :func:`plain_random_rows`.

    Args:
        seed: a scalar of an integer type.
        tokens: number of columns.
    """
    step = max(1, CACHED_NUMBERS // tokens)
    if stop - start <= step or not is_eager_on_cpu(seed):
        return plain_random_rows(seed, start, stop, tokens)
    rows = torch.empty(stop - start, tokens, dtype=torch.float32, device=seed.device)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        rows[first - start : last - start] = plain_random_rows(seed, first, last, tokens)
    return rows


def plain_random_rows(seed: Tensor, start: int, stop: int, tokens: int) -> Tensor:
    """:func:`random_rows` in one piece.

    The key of a row is a hash of the seed and the row's number. Its uniform numbers are hashes of key and column.
    """
    row = torch.arange(start, stop, dtype=torch.int32, device=seed.device).unsqueeze(1)
    column = torch.arange(tokens, dtype=torch.int32, device=seed.device)
    key = _hash(row + _hash(seed.to(torch.int32)))
    bits = _hash((column * (_hash(key) | 1)).add_(key))  # an odd factor: no row is a shifted copy of another
    uniform = _unsigned_shift(bits, 8).float().mul_(2.0**-24)  # 24 bits fill a float32's mantissa
    return uniform.softmax(dim=-1)


def _hash(x: Tensor) -> Tensor:
    """Mix the bits of int32 numbers: xor with shifts and products modulo 2^32 (Wellons' lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32))):
        x = _unsigned_shift(x, shift).bitwise_xor_(x).mul_(factor)
    return _unsigned_shift(x, 16).bitwise_xor_(x)


def _unsigned_shift(x: Tensor, shift: int) -> Tensor:
    return (x >> shift).bitwise_and_((1 << (32 - shift)) - 1)


def mix_by_random_rows(x: Tensor, seed: Tensor) -> Tensor:
    """Multiply by the random matrix of ``seed``: (B, C, tokens) -> weighted mean of each row, (B, C, tokens).

    The matrix is made block by block and never kept; a backward pass makes it again. Reference:
    :func:`plain_mix_by_random_rows`.
    """
    if not torch.jit.is_scripting():
        if x.requires_grad and torch.is_grad_enabled() and is_eager(x, seed):
            return _MixByRandomRows.apply(x, seed)
        return _mix(x, seed)
    return plain_mix_by_random_rows(x, seed)


def plain_mix_by_random_rows(x: Tensor, seed: Tensor) -> Tensor:
    """:func:`mix_by_random_rows` with the whole matrix at once."""
    return F.linear(x, plain_random_rows(seed, 0, x.shape[-1], x.shape[-1]).to(x.dtype))


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    rows = max(1, BLOCK_NUMBERS // tokens)
    return ((start, min(start + rows, tokens)) for start in range(0, tokens, rows))


def _mix(x: Tensor, seed: Tensor) -> Tensor:
    tokens = x.shape[-1]
    if x.is_meta:  # estimates of memory and operations: thousands of blocks would take minutes there
        return F.linear(x, x.new_empty(tokens, tokens))
    mixed = None
    for start, stop in _blocks(tokens):
        part = F.linear(x, random_rows(seed, start, stop, tokens).to(x.dtype))
        if mixed is None:
            mixed = torch.empty(x.shape, dtype=part.dtype, device=x.device)
        mixed[..., start:stop] = part  # one buffer: a list of parts would fragment the heap
    assert mixed is not None
    return mixed


class _MixByRandomRows(torch.autograd.Function):
    """:func:`_mix` that keeps no rows for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor) -> Tensor:
        ctx.save_for_backward(seed)
        return _mix(x, seed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (seed,) = ctx.saved_tensors
        tokens = grad.shape[-1]
        total = torch.zeros_like(grad, dtype=torch.promote_types(grad.dtype, torch.float32))
        for start, stop in _blocks(tokens):
            total += grad[..., start:stop] @ random_rows(seed, start, stop, tokens).to(grad.dtype)
        return total.to(grad.dtype), None
