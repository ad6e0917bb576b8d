from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.kernels.eager import is_eager_on_cpu
from medmixers.layers.conv import check_spatial_dims
from medmixers.layers.sizes import check_feature_size

STORED_TOKENS = 8192  # largest map whose matrix is stored by default: 256 MiB
BLOCK_NUMBERS = 2**22  # of the matrix multiplied at a time where it is not stored
CACHED_NUMBERS = 2**18  # of it that a CPU makes at a time: the fastest measured of 2^16 to 2^22
NO_SEED = -1  # the matrix came from elsewhere and cannot be made again


class RandomMixing(nn.Module):
    """A frozen random mixture of all positions (RandFormer, Yu et al. 2023, equation 6).

    Row m of the matrix is the softmax of uniform random numbers, y[m] = sum_n R[m, n] x[n]. The numbers are a
    function of a seed, which torch's generator draws at construction, and of m and n alone: the matrix can be kept,
    or made again row by row in every pass, with the same result on every device.

    Args:
        dim: channels C (any; the matrix does not see them).
        spatial_dims: 2 or 3.
        feature_size: spatial size that the matrix is made for.
        stored: True keeps the matrix, tokens squared numbers; False makes its rows again in every pass, which needs
            memory for some of them only and takes longer; None stores it up to 8192 tokens.

    Attributes:
        seed: what the matrix is made from, saved with the weights, in either form the same: each loads the other's.
        mixing: the matrix, (tokens, tokens), saved with the weights too; None where it is not stored.
    """

    mixing: Tensor | None
    seed: Tensor

    def __init__(self, dim: int, *, spatial_dims: int, feature_size: Sequence[int], stored: bool | None = None) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.feature_size = tuple(feature_size)
        self.tokens = prod(self.feature_size)
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("mixing", None)
        if self.tokens <= STORED_TOKENS if stored is None else stored:
            self.mixing = mixing_rows(self.seed, 0, self.tokens, self.tokens)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *feature_size) -> the same shape. ValueError for another size."""
        check_feature_size(x, self.feature_size, "random_mixing")
        flat = x.flatten(2)
        if torch.compiler.is_compiling():
            # A copy: torch 2.14 takes what group_norm returns for contiguous, and then views what is channels-last.
            flat = flat.clone(memory_format=torch.contiguous_format)
        if self.mixing is not None:
            mixed = F.linear(flat, self.mixing.to(x.dtype))
        elif x.requires_grad and torch.is_grad_enabled():
            mixed = _StreamedMixing.apply(flat, self.seed)
        else:
            mixed = _mix(flat, self.seed)
        return mixed.view_as(x)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Weights of either form, or a bare matrix of another implementation (stored form only)."""
        seed, matrix = prefix + "seed", prefix + "mixing"
        if seed not in state_dict and matrix in state_dict:
            state_dict[seed] = torch.tensor(NO_SEED)
        known = seed in state_dict and state_dict[seed] != NO_SEED
        if self.mixing is None and state_dict.pop(matrix, None) is not None and not known:
            error_msgs.append(f"{matrix!r} was saved without a seed: build random_mixing with stored=True to load it")
        if self.mixing is not None and known and matrix not in state_dict:
            state_dict[matrix] = mixing_rows(state_dict[seed], 0, self.tokens, self.tokens)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def mixing_rows(seed: Tensor, start: int, stop: int, tokens: int) -> Tensor:
    """Rows ``start`` to ``stop`` of the mixing matrix, (stop - start, tokens), float32, each of sum 1."""
    step = max(1, CACHED_NUMBERS // tokens)
    if stop - start <= step or not is_eager_on_cpu(seed):
        return _mixing_rows(seed, start, stop, tokens)
    rows = torch.empty(stop - start, tokens, dtype=torch.float32, device=seed.device)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        rows[first - start : last - start] = _mixing_rows(seed, first, last, tokens)
    return rows


def _mixing_rows(seed: Tensor, start: int, stop: int, tokens: int) -> Tensor:
    """A row's key is a hash of the seed and its number; its uniform numbers are hashes of the key and the column."""
    row = torch.arange(start, stop, dtype=torch.int32, device=seed.device).unsqueeze(1)
    column = torch.arange(tokens, dtype=torch.int32, device=seed.device)
    key = _hash(row + _hash(seed.to(torch.int32)))
    bits = _hash((column * (_hash(key) | 1)).add_(key))  # an odd factor: rows are no shifts of each other
    uniform = _unsigned_shift(bits, 8).float().mul_(2.0**-24)  # 24 bits fill a float32's mantissa
    return uniform.softmax(dim=-1)


def _hash(x: Tensor) -> Tensor:
    """Mix the bits of int32 numbers: xor with shifts and products modulo 2^32 (Wellons' lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        x = _unsigned_shift(x, shift).bitwise_xor_(x).mul_(factor)
    return _unsigned_shift(x, 16).bitwise_xor_(x)


def _unsigned_shift(x: Tensor, shift: int) -> Tensor:
    return (x >> shift).bitwise_and_(2 ** (32 - shift) - 1)


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    rows = max(1, BLOCK_NUMBERS // tokens)
    return ((start, min(start + rows, tokens)) for start in range(0, tokens, rows))


def _mix(x: Tensor, seed: Tensor) -> Tensor:
    """x: (B, C, tokens) -> each row's weighted mean, (B, C, tokens)."""
    tokens = x.shape[-1]
    mixed = None
    for start, stop in _blocks(tokens):
        part = F.linear(x, mixing_rows(seed, start, stop, tokens).to(x.dtype))
        if mixed is None:
            mixed = torch.empty(x.shape, dtype=part.dtype, device=x.device)
        mixed[..., start:stop] = part  # a list of the parts would break up the heap that the next rows lie in
    assert mixed is not None
    return mixed


class _StreamedMixing(torch.autograd.Function):
    """:func:`_mix` that keeps no rows for the backward pass: they are made again."""

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
            total += grad[..., start:stop] @ mixing_rows(seed, start, stop, tokens).to(grad.dtype)
        return total.to(grad.dtype), None
