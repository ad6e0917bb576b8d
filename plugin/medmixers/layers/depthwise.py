"""Depthwise convolution, one group a channel, in the memory layout that is fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn import grad as gradients

from medmixers.layers.cpu import CHANNELS_LAST, is_eager_on_cpu

CONVOLUTIONS: dict[int, Any] = {4: F.conv2d, 5: F.conv3d}
WEIGHT_GRADIENTS: dict[int, Any] = {4: gradients.conv2d_weight, 5: gradients.conv3d_weight}
SLAB_NUMBERS = 2**19  # of a feature map whose weight gradient is computed at a time, 2 MiB in float32


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the size.

    In training on a CPU it runs channels-last whatever the layout of its input, and its input gradient is a convolution
    with the mirrored kernel: the same numbers, several times sooner than from oneDNN's backward pass on contiguous
    tensors. Elsewhere it is torch's own (:func:`plain_depthwise_conv`): without a backward pass the two copies into the
    other layout and back cost more than they save.

    Args:
        x: feature map, (B, C, *spatial).
        weight: odd kernels, (C, 1, *kernel).
        bias: (C,) or None.

    Returns:
        (B, C, *spatial), in the layout of ``x``.
    """
    if not is_eager_on_cpu(x) or not torch.is_grad_enabled():
        return plain_depthwise_conv(x, weight, bias)
    if torch.is_autocast_enabled("cpu"):  # here, because a custom function sees no autocast in its backward pass
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _ChannelsLastDepthwise.apply(x, weight, bias)


def plain_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The reference of :func:`depthwise_conv`: torch's convolution with as many groups as channels."""
    padding = [extent // 2 for extent in weight.shape[2:]]
    return CONVOLUTIONS[x.ndim](x, weight, bias, padding=padding, groups=weight.shape[0])


class _ChannelsLastDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        channels_last = CHANNELS_LAST[x.ndim]
        ctx.layout = torch.contiguous_format if x.is_contiguous() else channels_last
        ctx.has_bias = bias is not None
        x = x.contiguous(memory_format=channels_last)
        ctx.save_for_backward(x, weight)
        return plain_depthwise_conv(x, weight, bias).contiguous(memory_format=ctx.layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        axes = list(range(2, x.ndim))
        grad = grad.contiguous(memory_format=CHANNELS_LAST[x.ndim])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = plain_depthwise_conv(grad, weight.flip(axes), None).contiguous(memory_format=ctx.layout)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, weight, grad)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum([0, *axes])
        return grad_x, grad_weight, grad_bias


def _weight_gradient(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Sum of the weight gradients of slabs along the first spatial axis, of which each fits into the cache.

    At once oneDNN's channels-last kernel takes three times as long for 64 channels of 48^3.
    """
    size, radius = x.shape[2], weight.shape[2] // 2
    step = max(1, SLAB_NUMBERS * size // max(1, x[0].numel()))
    padding = [extent // 2 for extent in weight.shape[2:]]
    arguments: dict[str, Any] = {"weight_size": weight.shape, "groups": weight.shape[0]}
    if 2 * step >= size:  # no gain was measured from two slabs
        return WEIGHT_GRADIENTS[x.ndim](x, grad_output=grad, padding=padding, **arguments)
    total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    for start in range(0, size, step):
        stop = min(start + step, size)
        first, behind = max(start - radius, 0), min(stop + radius, size)
        missing = [0] * (2 * x.ndim - 6) + [radius - (start - first), radius - (behind - stop)]
        for image, image_grad in zip(x.split(1), grad.split(1), strict=True):
            slab = image[:, :, first:behind]
            slab = F.pad(slab, missing) if any(missing) else slab
            slab_grad = image_grad[:, :, start:stop]
            total += WEIGHT_GRADIENTS[x.ndim](slab, grad_output=slab_grad, padding=[0, *padding[1:]], **arguments)
    return total.to(weight.dtype)
