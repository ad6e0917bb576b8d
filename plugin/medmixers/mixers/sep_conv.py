from torch import Tensor, nn

from medmixers.kernels.depthwise import depthwise_conv
from medmixers.layers.activations import ACTIVATIONS
from medmixers.layers.conv import check_kernel_size, conv_nd


class SepConv(nn.Module):
    """Inverted separable convolution of ConvFormer (Yu et al. 2023, equation 8).

    Pointwise convolution to twice the channels, activation, depthwise convolution, pointwise convolution back.

    Args:
        dim: channels C.
        spatial_dims: 2 or 3.
        kernel_size: edge of the depthwise kernel in voxels, odd.
        activation: name in :data:`medmixers.layers.activations.ACTIVATIONS`.
        bias: whether the three convolutions have biases; False as published.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        kernel_size: int = 7,
        activation: str = "star_relu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        conv, width, padding = conv_nd(spatial_dims), 2 * dim, check_kernel_size(kernel_size) // 2
        self.pwconv1 = conv(dim, width, 1, bias=bias)
        self.act1 = ACTIVATIONS[activation]()
        self.dwconv = conv(width, width, kernel_size, padding=padding, groups=width, bias=bias)
        self.pwconv2 = conv(width, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        x = self.act1(self.pwconv1(x))
        return self.pwconv2(depthwise_conv(x, self.dwconv.weight, self.dwconv.bias))
