from torch import Tensor, nn

from medmixers.kernels.average_pool import average_minus_input
from medmixers.layers.conv import check_kernel_size, check_spatial_dims


class Pooling(nn.Module):
    """Local average minus the input (PoolFormer, Yu et al. 2022, equation 4).

    The average counts the voxels inside the image only. The subtraction cancels the block's own shortcut.
    It equals ``nn.AvgPool(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)`` minus the input,
    and also takes half precision and 3D feature maps smaller than the kernel.

    Args:
        dim: channels C; any number, because nothing is learned.
        spatial_dims: 2 or 3.
        kernel_size: edge of the window in voxels, odd.
    """

    def __init__(self, dim: int, *, spatial_dims: int, kernel_size: int = 3) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.kernel_size = check_kernel_size(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return average_minus_input(x, self.kernel_size)
