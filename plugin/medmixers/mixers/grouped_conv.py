from torch import Tensor, nn

from medmixers.kernels.depthwise import depthwise_conv
from medmixers.layers.conv import check_kernel_size, conv_nd


class GroupedConv(nn.Module):
    """Depthwise convolution: one group per channel (Keuth et al. 2025, equation 4), with bias.

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
        kernel_size: edge of the kernel in voxels, odd.
    """

    def __init__(self, dim: int, *, spatial_dims: int, kernel_size: int = 3) -> None:
        super().__init__()
        padding = check_kernel_size(kernel_size) // 2
        self.conv = conv_nd(spatial_dims)(dim, dim, kernel_size, padding=padding, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return depthwise_conv(x, self.conv.weight, self.conv.bias)
