from torch import Tensor, nn

from medmixers.layers.conv import check_spatial_dims
from medmixers.layers.linear_attention import linear_attention


class SimplifiedAttention(nn.Module):
    """softmax_C(x) (softmax_N(x)^T x): linear attention without weights (Xue et al. 2026, figure 2C).

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
    """

    def __init__(self, dim: int, *, spatial_dims: int) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return linear_attention(x, x, x)
