"""The recurrence of a selective state space: token by token, or in chunks of tokens by matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from medmixers.layers.sizes import has_known_size, is_exporting

CHUNK = 32  # the fastest measured on a CPU


def plain_selective_scan(x: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """y_t = c_t H_t with H_t = exp(decay_t) H_(t-1) + b_t x_t, H_0 = 0 (Dao and Gu 2024, equation 1), as a loop.

    Args:
        x: tokens, (B, N, heads, head_dim).
        decay: logarithm of the factor that a state keeps, at most 0, (B, N, heads).
        b: how a token enters the state, (B, N, state_size).
        c: how a token reads the state, (B, N, state_size).

    Returns:
        (B, N, heads, head_dim).
    """
    state = torch.zeros([x.shape[0], x.shape[2], b.shape[2], x.shape[3]], dtype=x.dtype, device=x.device)
    outputs: list[Tensor] = []
    for t in range(x.shape[1]):
        state = decay[:, t, :, None, None].exp() * state + b[:, t, None, :, None] * x[:, t, :, None, :]
        outputs.append(torch.einsum("zn,zhnd->zhd", c[:, t], state))
    return torch.stack(outputs, 1)


def selective_scan(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK) -> Tensor:
    """:func:`plain_selective_scan` in chunks of tokens (Dao and Gu 2024, section 6).

    Memory and time are linear in tokens, for one chunk size. Tokens of one chunk mix by a matrix. Across chunks the
    states are added up by doubling.

    Stability: every exponent is a sum of decays, so it is at most 0 and nothing overflows. No sum is a difference of
    longer ones, so strong decays nearby do not round weak ones away.

    Args:
        chunk: tokens per chunk; changes the speed, not the result. The others are those of the loop.
    """
    count = x.shape[1]
    decay, x = _chunks(decay, chunk).movedim(3, 2), _chunks(x, chunk).movedim(3, 2)  # (B, chunks, heads, T, ...)
    b, c = _chunks(b, chunk), _chunks(c, chunk)

    # Within a chunk: token t reads token s <= t through exp(decay from s to t).
    weight = _sums_between(decay).exp()
    near = (torch.matmul(c, b.transpose(-1, -2)).unsqueeze(2) * weight).matmul(x)

    # Across chunks: the state that a chunk leaves, then the sum over all chunks before it.
    left = torch.einsum("zksn,zkhs,zkhsd->zkhnd", b, weight[:, :, :, -1], x)
    from_start = decay.cumsum(3)
    state = _states(left, from_start[:, :, :, -1])
    distant = torch.einsum("zktn,zkht,zkhnd->zkhtd", c, from_start.exp(), state)
    return (near + distant).movedim(2, 3).flatten(1, 2)[:, :count]


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(B, N, ...) -> (B, chunks, T, ...), with zeros at the end: no token reads what comes after it."""
    count = (x.shape[1] + chunk - 1) // chunk
    zeros = torch.zeros([x.shape[0], count * chunk - x.shape[1]] + list(x.shape[2:]), dtype=x.dtype, device=x.device)
    return torch.cat([x, zeros], 1).unflatten(1, [count, chunk])


def _sums_between(decay: Tensor) -> Tensor:
    """Sums of (..., T) after s up to t, (..., T t, T s); minus infinity where s comes after t."""
    size = decay.shape[-1]
    place = torch.arange(size, device=decay.device)
    is_after = place.unsqueeze(1) > place  # of row t, column s
    sums = decay.unsqueeze(-1).expand(list(decay.shape) + [size]).masked_fill(~is_after, 0.0).cumsum(-2)
    return sums.masked_fill(is_after.transpose(0, 1), float("-inf"))


def _states(left: Tensor, decay: Tensor) -> Tensor:
    if not torch.jit.is_scripting():
        if is_exporting() and not has_known_size(left):
            return _before_by_matrix(left, decay)
    return _before(left, decay)


def _before_by_matrix(left: Tensor, decay: Tensor) -> Tensor:
    """:func:`_before` in an exported graph of any size: without a loop, at a cost of chunks squared."""
    weight = _sums_between(decay.movedim(1, 2)).exp()  # (B, heads, chunks, chunks)
    return _shift(torch.einsum("zhkl,zlhnd->zkhnd", weight, left), 1)


@torch.jit.script_if_tracing  # a trace would fix the number of steps, and be wrong for longer sequences
def _before(left: Tensor, decay: Tensor) -> Tensor:
    """State before each chunk, from what each chunk adds, (B, chunks, heads, n, d), and the logarithms of its decay.

    By doubling: after the step of distance s, every sum covers the 2 s chunks up to its own.
    """
    total, reach = left, decay
    distance = 1
    while distance < left.shape[1]:
        earlier, far = _shift(total, distance), _shift(reach, distance)
        total = total + reach.exp().unsqueeze(-1).unsqueeze(-1) * earlier
        reach = reach + far
        distance *= 2
    return _shift(total, 1)


def _shift(x: Tensor, distance: int) -> Tensor:
    """Each chunk gets the values of the chunk ``distance`` before it, the first ones zeros."""
    return torch.cat([torch.zeros_like(x[:, :distance]), x[:, : x.shape[1] - distance]], 1)
