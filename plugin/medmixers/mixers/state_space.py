import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.layers.conv import check_positive, check_spatial_dims
from medmixers.layers.precision import without_autocast
from medmixers.mixers.global_attention import head_count

CHUNK = 64  # tokens whose mixing matrix is computed at once
STEP_SIZES = (1e-3, 1e-1)  # at the start, log-uniform; decay rates are uniform in (1, 16): both as in Mamba-2


class StateSpace(nn.Module):
    """A selective state space, scanned forwards and backwards over all positions in raster order.

    The recurrence is that of Mamba-2 (Dao and Gu 2024, section 3): per head a state H (state_size, head_dim) decays and
    takes up the token, H_t = exp(-rate step_t) H_(t-1) + step_t b_t x_t, and y_t = c_t H_t. The step, b and c depend on
    the token. The second scan runs from the last token to the first, as in Vision Mamba (Zhu et al. 2024). Both use the
    same parameters, and their outputs are added. Without Mamba's short convolution and gate, this is the token mixing.

    It is computed in chunks of tokens by matrix products, and across chunks by doubling: exact, with memory in
    proportion to the tokens. A test compares it with the loop.

    Args:
        dim: channels C, a multiple of ``head_dim``.
        spatial_dims: 2 or 3.
        state_size: numbers that a head remembers per channel.
        head_dim: channels of one head.
    """

    def __init__(self, dim: int, *, spatial_dims: int, state_size: int = 16, head_dim: int = 16) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive(state_size=state_size)
        self.heads, self.chunk = head_count(dim, head_dim), CHUNK
        self.sizes = [dim, state_size, state_size, self.heads]
        self.in_proj = nn.Linear(dim, sum(self.sizes))
        self.out_proj = nn.Linear(dim, dim)
        self.log_rate = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        low, high = (math.log(value) for value in STEP_SIZES)
        step = torch.empty(self.heads).uniform_(low, high).exp()
        self.step_bias = nn.Parameter(step.expm1().log())  # softplus gives the step back

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        projected = self.in_proj(x.flatten(2).transpose(1, 2))
        if torch.jit.is_scripting():
            mixed = self._both_ways(projected)
        else:
            with without_autocast(x):
                mixed = self._both_ways(projected)
        return self.out_proj(mixed).transpose(1, 2).reshape(x.shape)

    def _both_ways(self, projected: Tensor) -> Tensor:
        """Tokens, b, c and steps side by side, (B, N, sum of sizes) -> (B, N, C)."""
        dtype = torch.promote_types(projected.dtype, torch.float32)  # sums over thousands of tokens
        tokens, b, c, step = projected.to(dtype).split(self.sizes, dim=-1)
        step = F.softplus(step + self.step_bias.to(dtype))  # (B, N, heads)
        decay = -self.log_rate.to(dtype).exp() * step
        taken = tokens.unflatten(-1, [self.heads, -1]) * step.unsqueeze(-1)
        mixed = scan(taken, decay, b, c, self.chunk)
        mixed = mixed + scan(taken.flip(1), decay.flip(1), b.flip(1), c.flip(1), self.chunk).flip(1)
        return mixed.flatten(2).to(projected.dtype)


def scan(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, chunk: int) -> Tensor:
    """y_t = c_t H_t with H_t = exp(decay_t) H_(t-1) + b_t x_t, H_0 = 0.

    Args:
        x: tokens, (B, N, heads, head_dim).
        decay: logarithm of the factor that a state keeps, at most 0, (B, N, heads).
        b: how a token enters the state, (B, N, state_size).
        c: how a token reads the state, (B, N, state_size).
        chunk: tokens whose mixing matrix is computed at once; changes the speed, not the result.

    Returns:
        (B, N, heads, head_dim).
    """
    count = x.shape[1]
    x, decay = _chunks(x, chunk), _chunks(decay, chunk).cumsum(2)  # (B, chunks, T, heads, ...)
    b, c = _chunks(b, chunk), _chunks(c, chunk)

    # Within a chunk: token t reads token s <= t through exp(decay from s to t).
    between = decay.unsqueeze(3) - decay.unsqueeze(2)  # (B, chunks, T, T, heads)
    is_later = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    weight = between.masked_fill(is_later.unsqueeze(-1), float("-inf")).exp()
    near = torch.einsum("zktn,zksn,zktsh,zkshd->zkthd", c, b, weight, x)

    # Across chunks: the state that a chunk leaves, then the sum over all chunks before it.
    left = torch.einsum("zksn,zksh,zkshd->zkhnd", b, (decay[:, :, -1:] - decay).exp(), x)
    state = _before(left, decay[:, :, -1])
    distant = torch.einsum("zktn,zkth,zkhnd->zkthd", c, decay.exp(), state)
    return (near + distant).flatten(1, 2)[:, :count]


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """(B, N, ...) -> (B, chunks, T, ...), with zeros at the end: no token reads what comes after it."""
    count = (x.shape[1] + chunk - 1) // chunk
    zeros = torch.zeros([x.shape[0], count * chunk - x.shape[1]] + list(x.shape[2:]), dtype=x.dtype, device=x.device)
    return torch.cat([x, zeros], 1).unflatten(1, [count, chunk])


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
