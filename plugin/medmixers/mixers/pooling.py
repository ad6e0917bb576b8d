import torch
from torch import Tensor, nn

from medmixers.kernels.average_pool import average_minus_input
from medmixers.layers.conv import check_kernel_size, check_spatial_dims
from medmixers.layers.sizes import has_known_size, is_exporting


class Pooling(nn.Module):
    """Local average minus the input (PoolFormer, Yu et al. 2022, equation 4).

    The average counts the voxels inside the image only. The subtraction cancels the block's own shortcut.
    It equals ``nn.AvgPool(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)`` minus the input,
    and also takes half precision and 3D feature maps smaller than the kernel.

    Args:
        dim: channels C; any number, because nothing is learned.
        spatial_dims: 2 or 3.
        kernel_size: edge of the window in voxels, odd.
        identity_on_small_maps: return a map unchanged if one of its axes is shorter than the kernel, as in the 3D code
            of Keuth et al. 2025 (torch's AvgPool3d refuses such maps).
    """

    def __init__(
        self, dim: int, *, spatial_dims: int, kernel_size: int = 3, identity_on_small_maps: bool = False
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.kernel_size = check_kernel_size(kernel_size)
        self.identity_on_small_maps = identity_on_small_maps

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        if not self.identity_on_small_maps:
            return self._pool(x)
        is_small = min(list(x.shape[2:])) < self.kernel_size
        if not torch.jit.is_scripting():
            if is_exporting() and not has_known_size(x):  # the program takes small and large maps
                return torch.cond(is_small, torch.clone, self._pool, (x,))
        return x if is_small else self._pool(x)

    def _pool(self, x: Tensor) -> Tensor:
        return average_minus_input(x, self.kernel_size)
