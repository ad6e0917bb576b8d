from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from medmixers.layers.conv import check_spatial_dims
from medmixers.layers.sizes import check_feature_size


class RandomMixing(nn.Module):
    """A frozen random mixture of all positions (RandFormer, Yu et al. 2023, equation 6).

    Row m of the matrix is the softmax of uniform random numbers, y[m] = sum_n R[m, n] x[n]. The matrix is a buffer:
    saved with the weights, never trained.

    Args:
        dim: channels C (any; the matrix does not see them).
        spatial_dims: 2 or 3.
        feature_size: spatial size that the matrix is made for; memory is its product squared.
    """

    mixing: Tensor

    def __init__(self, dim: int, *, spatial_dims: int, feature_size: Sequence[int]) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.feature_size = tuple(feature_size)
        tokens = prod(self.feature_size)
        self.register_buffer("mixing", torch.softmax(torch.rand(tokens, tokens), dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *feature_size) -> the same shape. ValueError for another size."""
        check_feature_size(x, self.feature_size, "random_mixing")
        return nn.functional.linear(x.flatten(2), self.mixing.to(x.dtype)).view_as(x)
