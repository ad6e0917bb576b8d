from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from medmixers.layers.conv import check_spatial_dims
from medmixers.layers.sizes import check_feature_size, flatten_positions


class SpatialFC(nn.Module):
    """One learned matrix over the positions, shared by the channels, without bias (Yu et al. 2022, Table 5).

    Args:
        dim: channels C; any number, because the matrix does not depend on them.
        spatial_dims: 2 or 3.
        feature_size: spatial size of the feature map; the matrix has the square of its positions.
    """

    def __init__(self, dim: int, *, spatial_dims: int, feature_size: Sequence[int]) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.feature_size = tuple(feature_size)
        tokens = prod(self.feature_size)
        self.fc = nn.Linear(tokens, tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *feature_size) -> the same shape. ValueError for another size."""
        check_feature_size(x, self.feature_size, "spatial_fc")
        return self.fc(flatten_positions(x)).reshape(x.shape)
