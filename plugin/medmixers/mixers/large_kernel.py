from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.kernels.depthwise import depthwise_conv
from medmixers.layers.conv import check_kernel_size, check_positive, conv_nd


class LargeKernel(nn.Module):
    """Large kernel attention (Visual Attention Network, Guo et al. 2023, equations 1 and 2).

    A large convolution is decomposed into a depthwise convolution, a depthwise convolution with dilation d and a
    pointwise convolution. Their output weighs the input: y = x * conv(x). Parameters and operations grow with
    (K / d)^dims instead of K^dims.

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
        kernel_size: edge K of the convolution that is decomposed, in voxels, odd and at least 7; 21 as published,
            from kernels of 5 and 7. Together they see 2 d - 1 + d (k - 1) voxels per axis, where k is K / d, rounded
            up to an odd number.
        dilation: d, at least 2.
    """

    def __init__(self, dim: int, *, spatial_dims: int, kernel_size: int = 21, dilation: int = 3) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        check_positive(dilation=dilation)
        if check_kernel_size(kernel_size) < 7 or dilation < 2:
            raise InputError(f"kernel_size must be at least 7 and dilation at least 2, got {kernel_size=}, {dilation=}")
        local, distant = 2 * dilation - 1, -(-kernel_size // dilation) | 1  # rounded up, then up to an odd number
        self.local = conv(dim, dim, local, padding=dilation - 1, groups=dim)
        self.distant = conv(dim, dim, distant, padding=dilation * (distant // 2), dilation=dilation, groups=dim)
        self.pointwise = conv(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return x * self.pointwise(self.distant(depthwise_conv(x, self.local.weight, self.local.bias)))
