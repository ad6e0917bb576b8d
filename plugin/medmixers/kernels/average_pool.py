"""Local average minus the input: by shifted additions on a CPU, by few passes over memory on a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medmixers.kernels.eager import is_eager
from medmixers.kernels.operators import operator, takes_operators

CACHED_NUMBERS = 2**18  # elements that one core pools at a time, 1 MiB in float32: the fastest of 2^14 to 2^30


def average_minus_input(x: Tensor, kernel_size: int) -> Tensor:
    """The average of the window around each position, inside the image only, minus ``x``.

    It computes in float32 at least and rounds once. Reference: :func:`plain_local_average`. Exported, traced and
    scripted graphs hold the reference. So does a network compiled for inference.

    Args:
        x: feature map, (B, C, *spatial).
        kernel_size: edge of the window in voxels, odd.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if not torch.jit.is_scripting():
        if wide.requires_grad and torch.is_grad_enabled():
            if takes_operators(wide):
                return pool(wide, kernel_size, False).to(x.dtype)
        elif is_eager(wide):
            return _pool(wide, kernel_size, False).to(x.dtype)
    return (plain_local_average(wide, kernel_size) - wide).to(x.dtype)


def plain_local_average(x: Tensor, kernel_size: int, divisor: int | None = None) -> Tensor:
    """The average of the window around each position by torch's own operator; in 3D in the plane, then across planes.

    nn.AvgPool3d refuses feature maps smaller than the kernel, and its backward pass on a GPU adds in no fixed order.

    Args:
        divisor: divides the sum of a window in place of the number of its voxels inside the image; squared in 3D.
    """
    radius = kernel_size // 2
    plane, across = [radius, radius], [radius, 0]
    planes = F.avg_pool2d(
        x.flatten(1, -3), kernel_size, 1, plane, count_include_pad=False, divisor_override=divisor
    ).view_as(x)
    if x.ndim == 4:
        return planes
    return F.avg_pool2d(
        planes.flatten(3), (kernel_size, 1), 1, across, count_include_pad=False, divisor_override=divisor
    ).view_as(x)


def _empty(x: Tensor, kernel_size: int, transposed: bool) -> Tensor:
    return torch.empty_like(x)


def _keep_of_pool(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.kernel_size, ctx.transposed = inputs


def _gradient_of_pool(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return pool(grad, ctx.kernel_size, not ctx.transposed), None, None


def _pool(x: Tensor, kernel_size: int, transposed: bool) -> Tensor:
    """:func:`_pool_maps`, a few channels at a time on a CPU, so that all passes stay within the cache.

    On a GPU torch's operator runs: the number of passes over memory counts there, not the number of additions.
    """
    if x.device.type != "cpu":
        return _pool_by_operator(x, kernel_size, transposed)
    share = _shares(x, kernel_size)
    pooled = torch.empty_like(x)
    maps = max(1, CACHED_NUMBERS * torch.get_num_threads() // share.numel())
    if not x.is_contiguous() or maps >= x.shape[0] * x.shape[1]:
        _pool_maps(x, share, kernel_size, transposed, torch.empty_like(x), pooled)
        return pooled
    parts, targets = x.flatten(0, 1).split(maps), pooled.flatten(0, 1).split(maps)
    scratch = torch.empty_like(parts[0])  # the same for all: touching new memory takes longer than the additions
    for part, target in zip(parts, targets, strict=True):
        _pool_maps(part, share, kernel_size, transposed, scratch[: len(part)], target)
    return pooled


# The window's average minus x, or its transpose, which is the backward pass. It keeps no tensor for that.
pool = operator(
    "pool(Tensor x, int kernel_size, bool transposed) -> Tensor",
    _pool,
    fake=_empty,
    keep=_keep_of_pool,
    gradients=_gradient_of_pool,
)


def _pool_by_operator(x: Tensor, kernel_size: int, transposed: bool) -> Tensor:
    """:func:`_pool_maps` by torch's operator. Under autograd that operator would keep its input.

    Nothing is copied from the host: that would wait for the GPU, and no CUDA graph could hold it.
    """
    ones = x.new_ones(1, 1, *x.shape[2:])
    share = plain_local_average(ones, kernel_size, divisor=1).reciprocal_()
    total = plain_local_average(x * share if transposed else x, kernel_size, divisor=1)
    return torch.sub(total if transposed else total * share, x, out=torch.empty_like(x))


def _pool_maps(x: Tensor, share: Tensor, kernel_size: int, transposed: bool, scratch: Tensor, out: Tensor) -> None:
    """Fill ``out`` with window sums, one axis after the other, times ``share``, minus ``x``; or with its transpose."""
    source, total, other = torch.mul(x, share, out=out) if transposed else x, scratch, out
    for axis in range(-share.ndim, 0):
        _window_sum(source, total, axis, kernel_size // 2)
        source, total, other = total, other, total
    torch.sub(source if transposed else source.mul_(share), x, out=out)


def _window_sum(x: Tensor, total: Tensor, axis: int, radius: int) -> None:
    """Fill ``total`` with the window sums along one axis, by shifted additions without a padded copy."""
    size = x.shape[axis]
    if radius == 0 or size == 1:
        total.copy_(x)
    for shift in range(1, min(radius, size - 1) + 1):
        length = size - shift
        if shift == 1:  # the first two voxels of each window in one pass
            torch.add(x.narrow(axis, 0, length), x.narrow(axis, 1, length), out=total.narrow(axis, 0, length))
            total.narrow(axis, length, 1).copy_(x.narrow(axis, length, 1))
        else:
            total.narrow(axis, 0, length).add_(x.narrow(axis, shift, length))
        total.narrow(axis, shift, length).add_(x.narrow(axis, 0, length))


def _shares(x: Tensor, kernel_size: int) -> Tensor:
    """One over the number of voxels of each position's window that lie inside the image, (*spatial)."""
    share = torch.ones((), dtype=x.dtype, device=x.device)
    for size in x.shape[2:]:
        axis = torch.tensor(_shares_of_axis(size, kernel_size // 2), dtype=x.dtype, device=x.device)
        share = share.unsqueeze(-1) * axis
    return share


@lru_cache(maxsize=256)
def _shares_of_axis(size: int, radius: int) -> tuple[float, ...]:
    return tuple(1 / (min(i + radius + 1, size) - max(i - radius, 0)) for i in range(size))
