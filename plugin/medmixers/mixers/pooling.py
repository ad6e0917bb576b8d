from typing import Any

import torch
from torch import Tensor, nn

from medmixers.layers.conv import check_kernel_size, check_spatial_dims


class Pooling(nn.Module):
    """Local average minus the input (PoolFormer, Yu et al. 2022, equation 4).

    The average counts the voxels inside the image only; the subtraction cancels the block's own shortcut. The same
    as ``nn.AvgPool(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)`` minus the input, but
    faster on a CPU, and for half precision and feature maps smaller than the kernel in 3D too. Computed in float32
    and rounded once.

    Args:
        dim: channels C (any; nothing is learned).
        spatial_dims: 2 or 3.
        kernel_size: edge of the window in voxels, odd.
    """

    def __init__(self, dim: int, *, spatial_dims: int, kernel_size: int = 3) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.kernel_size = check_kernel_size(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # The plain function wherever no gradient is asked for: tracing cannot save a custom autograd function.
        box_sum = _BoxSum.apply if wide.requires_grad and torch.is_grad_enabled() else _box_sum
        mean = box_sum(wide, self.kernel_size) / _window_voxels(x, self.kernel_size)
        return (mean - wide).to(x.dtype)


class _BoxSum(torch.autograd.Function):
    """Sum over the window around each voxel. It is its own adjoint, so no padded copy or weight gradient is made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel_size: int) -> Tensor:
        ctx.kernel_size = kernel_size
        return _box_sum(x, kernel_size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _BoxSum.apply(grad, ctx.kernel_size), None


def _box_sum(x: Tensor, kernel_size: int) -> Tensor:
    """Shifted sums, one axis after the other."""
    for axis in range(2, x.ndim):
        size, total = x.shape[axis], x.clone()
        for shift in range(1, min(kernel_size // 2, size - 1) + 1):
            length = size - shift
            total.narrow(axis, 0, length).add_(x.narrow(axis, shift, length))
            total.narrow(axis, shift, length).add_(x.narrow(axis, 0, length))
        x = total
    return x


def _window_voxels(x: Tensor, kernel_size: int) -> Tensor:
    """How many voxels of the window around each position lie inside the image, (*spatial)."""
    radius, count = kernel_size // 2, torch.ones((), device=x.device)
    for axis, size in enumerate(x.shape[2:], start=2):
        position = torch.arange(size, device=x.device)
        inside = (position + radius).clamp(max=size - 1) - (position - radius).clamp(min=0) + 1
        count = count * inside.view([-1] + [1] * (x.ndim - axis - 1))
    return count
