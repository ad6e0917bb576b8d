from torch import Tensor, nn

from medmixers.layers.conv import check_spatial_dims


class Identity(nn.Module):
    """No mixing: return the input (IdentityFormer, Yu et al. 2023; the lower baseline of Keuth et al. 2025)."""

    def __init__(self, dim: int, *, spatial_dims: int) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same tensor."""
        return x
