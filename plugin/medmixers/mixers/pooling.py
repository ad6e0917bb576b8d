from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.kernels.eager import is_eager
from medmixers.layers.conv import check_kernel_size, check_spatial_dims

CACHED_NUMBERS = 2**18  # that one core pools at a time, 1 MiB in float32: the fastest measured of 2^14 to 2^30


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
        if not is_eager():  # torch's operators alone, for images of any size
            return (average_pool(wide, self.kernel_size) - wide).to(x.dtype)
        pool = _Pool.apply if wide.requires_grad and torch.is_grad_enabled() else _pool
        return pool(wide, self.kernel_size, False).to(x.dtype)


def average_pool(x: Tensor, kernel_size: int, *, divisor: int | None = None) -> Tensor:
    """The average over the window around each voxel by torch's own operator, in 3D plane by plane and then across.

    What is compiled, traced and exported, and the plain reference of the rest. nn.AvgPool3d would refuse feature maps
    smaller than the kernel, and its backward pass on a GPU adds in no fixed order.

    Args:
        divisor: of the sums over a window, instead of its voxels inside the image; squared in 3D.
    """
    radius = kernel_size // 2
    options: dict[str, Any] = {"count_include_pad": False, "divisor_override": divisor}
    planes = F.avg_pool2d(x.flatten(1, -3), kernel_size, 1, radius, **options).view_as(x)
    if x.ndim == 4:
        return planes
    return F.avg_pool2d(planes.flatten(3), (kernel_size, 1), 1, (radius, 0), **options).view_as(x)


class _Pool(torch.autograd.Function):
    """:func:`_pool`, whose transpose is its backward pass: nothing is kept but the kernel size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel_size: int, transposed: bool) -> Tensor:
        ctx.arguments = kernel_size, not transposed
        return _pool(x, kernel_size, transposed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Pool.apply(grad, *ctx.arguments), None, None


def _pool(x: Tensor, kernel_size: int, transposed: bool) -> Tensor:
    """:func:`_pool_maps` of all channels; of a few at a time, so that its passes stay within the cache.

    On a GPU by torch's operator: few passes over memory count there, not the additions.
    """
    share = _shares(x, kernel_size)
    if x.device.type != "cpu":
        return _pool_by_operator(x, share, kernel_size, transposed)
    if not x.is_contiguous():
        return _pool_maps(x, share, kernel_size, transposed)
    maps = max(1, CACHED_NUMBERS * torch.get_num_threads() // share.numel())
    if maps >= x.shape[0] * x.shape[1]:
        return _pool_maps(x, share, kernel_size, transposed)
    pooled = torch.empty_like(x)
    for part, target in zip(x.flatten(0, 1).split(maps), pooled.flatten(0, 1).split(maps), strict=True):
        _pool_maps(part, share, kernel_size, transposed, out=target)
    return pooled


def _pool_by_operator(x: Tensor, share: Tensor, kernel_size: int, transposed: bool) -> Tensor:
    """As :func:`_pool_maps`. As a function of autograd torch's operator would keep its input for a backward pass."""
    total = average_pool(x * share if transposed else x, kernel_size, divisor=1)
    return (total if transposed else total * share) - x


def _pool_maps(x: Tensor, share: Tensor, kernel_size: int, transposed: bool, *, out: Tensor | None = None) -> Tensor:
    """Window sums, one axis after the other, over the windows' voxels, minus ``x``; or the transpose of that map."""
    source = x * share if transposed else x
    total, other = torch.empty_like(x), torch.empty_like(x)
    for axis in range(-share.ndim, 0):
        _window_sum(source, total, axis, kernel_size // 2)
        source, total, other = total, other, total
    source = source if transposed else source.mul_(share)
    return source.sub_(x) if out is None else torch.sub(source, x, out=out)


def _window_sum(x: Tensor, total: Tensor, axis: int, radius: int) -> None:
    """Fill ``total`` with the sums over the window along one axis, by shifted additions without a padded copy."""
    size = x.shape[axis]
    if radius == 0 or size == 1:
        total.copy_(x)
    for shift in range(1, min(radius, size - 1) + 1):
        length = size - shift
        if shift == 1:  # the window's first two voxels in one pass
            torch.add(x.narrow(axis, 0, length), x.narrow(axis, 1, length), out=total.narrow(axis, 0, length))
            total.narrow(axis, length, 1).copy_(x.narrow(axis, length, 1))
        else:
            total.narrow(axis, 0, length).add_(x.narrow(axis, shift, length))
        total.narrow(axis, shift, length).add_(x.narrow(axis, 0, length))


def _shares(x: Tensor, kernel_size: int) -> Tensor:
    """One over the voxels of the window around each position that lie inside the image, (*spatial)."""
    share = torch.ones((), dtype=x.dtype, device=x.device)
    for size in x.shape[2:]:
        axis = torch.tensor(_shares_of_axis(size, kernel_size // 2), dtype=x.dtype, device=x.device)
        share = share.unsqueeze(-1) * axis
    return share


@lru_cache(maxsize=256)
def _shares_of_axis(size: int, radius: int) -> tuple[float, ...]:
    return tuple(1 / (min(i + radius + 1, size) - max(i - radius, 0)) for i in range(size))
