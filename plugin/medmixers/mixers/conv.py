from torch import Tensor, nn

from medmixers.layers.conv import check_kernel_size, conv_nd


class Conv(nn.Module):
    """Convolution across all channels (Keuth et al. 2025, equation 3), with bias.

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
        kernel_size: edge of the kernel in voxels, odd.
    """

    def __init__(self, dim: int, *, spatial_dims: int, kernel_size: int = 3) -> None:
        super().__init__()
        padding = check_kernel_size(kernel_size) // 2
        self.conv = conv_nd(spatial_dims)(dim, dim, kernel_size, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return self.conv(x)
