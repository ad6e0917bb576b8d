from torch import Tensor, nn

from medmixers.layers.conv import conv_nd
from medmixers.layers.linear_attention import linear_attention


class LinearAttention(nn.Module):
    """softmax_C(Q) (softmax_N(K)^T V), of one head over all positions (Xue et al. 2026, figure 2B).

    Each channel of the keys pools the values over all positions, and a position mixes the pooled values by its query.

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
    """

    def __init__(self, dim: int, *, spatial_dims: int) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        self.query, self.key, self.value = (conv(dim, dim, 1, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return linear_attention(self.query(x), self.key(x), self.value(x))
