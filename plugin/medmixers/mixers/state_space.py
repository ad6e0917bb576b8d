import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.kernels.selective_scan import selective_scan
from medmixers.layers.conv import check_positive, check_spatial_dims
from medmixers.layers.precision import without_autocast
from medmixers.mixers.global_attention import head_count

STEP_SIZES = (1e-3, 1e-1)  # at the start, log-uniform; decay rates are uniform in (1, 16): both as in Mamba-2


class StateSpace(nn.Module):
    """A selective state space, scanned forwards and backwards over all positions in raster order.

    The recurrence is that of Mamba-2 (Dao and Gu 2024, section 3): per head a state H (state_size, head_dim) decays and
    takes up the token, H_t = exp(-rate step_t) H_(t-1) + step_t b_t x_t, and y_t = c_t H_t. The step, b and c depend on
    the token. The second scan runs from the last token to the first, as in Vision Mamba (Zhu et al. 2024). Both use the
    same parameters, and their outputs are added. Without Mamba's short convolution and gate, this is the token mixing.

    Time and memory are linear in tokens. The scan is computed exactly, in full precision under autocast too, by
    :func:`medmixers.kernels.selective_scan.selective_scan`.

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
        self.heads = head_count(dim, head_dim)
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
        mixed = selective_scan(taken, decay, b, c)
        mixed = mixed + selective_scan(taken.flip(1), decay.flip(1), b.flip(1), c.flip(1)).flip(1)
        return mixed.flatten(2).to(projected.dtype)
