"""Depthwise convolution, one group a channel, in the way that is fast on the device."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as gradients
from torch.utils._python_dispatch import _get_current_dispatch_mode

from medmixers.kernels.eager import CHANNELS_LAST, is_eager, is_eager_on_cpu
from medmixers.kernels.fastest import Function, fastest

CONVOLUTIONS: dict[int, Any] = {4: F.conv2d, 5: F.conv3d}
WEIGHT_GRADIENTS: dict[int, Any] = {4: gradients.conv2d_weight, 5: gradients.conv3d_weight}
# What a weight gradient is computed of at a time. oneDNN's channels-last kernel takes ten times as long for 1024
# channels of 7x7 as for 512, and three times as long for 64 channels of 48^3 as for their slabs.
CHANNELS, SLAB_NUMBERS = 256, 2**19


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the size.

    In training on a CPU it runs channels-last whatever the layout of its input, and its input gradient is a convolution
    with the mirrored kernel: the same numbers, several times sooner than from oneDNN's backward pass on contiguous
    tensors. On a GPU it is torch's own or Triton's, whichever :func:`medmixers.kernels.fastest.fastest` finds faster
    for the shape. Elsewhere it is torch's own (:func:`plain_depthwise_conv`): without a backward pass the two copies
    into the other layout and back cost more than they save.

    Args:
        x: feature map, (B, C, *spatial).
        weight: odd kernels, (C, 1, *kernel).
        bias: (C,) or None.

    Returns:
        (B, C, *spatial), in the layout of ``x``.
    """
    is_small = x.ndim == 4 and max(weight.shape[2:]) <= 3  # whose copies cost more than they save, in training too
    if is_eager_on_cpu(x) and torch.is_grad_enabled() and not is_small:
        way: Function = _channels_last_depthwise_conv
    elif x.is_cuda and is_eager():
        way = _fastest_on_gpu
    else:
        return plain_depthwise_conv(x, weight, bias)
    return way(*under_autocast(x, weight, bias))


def plain_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The reference of :func:`depthwise_conv`: torch's convolution with as many groups as channels."""
    padding = [extent // 2 for extent in weight.shape[2:]]
    return CONVOLUTIONS[x.ndim](x, weight, bias, padding=padding, groups=weight.shape[0])


def under_autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As autocast, where it is on, gives them to a convolution: a custom function sees none in its backward pass."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)
    x, weight = (t if t.dtype == torch.float64 else t.to(dtype) for t in (x, weight))  # which autocast leaves
    return x, weight, bias if bias is None or bias.dtype == torch.float64 else bias.to(dtype)


def _fastest_on_gpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not x.is_contiguous() or _needs_torchs_own():
        return plain_depthwise_conv(x, weight, bias)
    candidates = gpu_candidates(x.dtype, max(weight.shape[2:]))
    return fastest(candidates, x, weight, bias)(x, weight, bias)


def _needs_torchs_own() -> bool:
    """Where a run must repeat a choice by the clock may not decide, a captured graph cannot wait for the clock, and
    counters of operations and tracers (dispatch modes) see torch's operators only."""
    repeatable = torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
    return repeatable or _get_current_dispatch_mode() is not None or torch.cuda.is_current_stream_capturing()


@cache
def gpu_candidates(dtype: torch.dtype, kernel_size: int) -> tuple[Function, ...]:
    """Torch's own, and Triton's where it is installed (not with torch for Windows or CPUs) and takes these."""
    try:
        from medmixers.kernels import depthwise_triton as by_triton
    except ImportError:
        return (plain_depthwise_conv,)
    if dtype not in by_triton.DTYPES or kernel_size > by_triton.MAX_KERNEL_SIZE:
        return (plain_depthwise_conv,)
    return plain_depthwise_conv, by_triton.triton_depthwise_conv


def _channels_last_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    layout = torch.contiguous_format if x.is_contiguous() else CHANNELS_LAST[x.ndim]
    return _ChannelsLastDepthwise.apply(x.contiguous(memory_format=CHANNELS_LAST[x.ndim]), weight, bias, layout)


class _ChannelsLastDepthwise(torch.autograd.Function):
    """x: channels-last -> the convolution, in ``layout``. Its backward pass is made of what torch differentiates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layout: torch.memory_format) -> Tensor:
        ctx.layout, ctx.has_bias = layout, bias is not None
        ctx.save_for_backward(x, weight)
        return plain_depthwise_conv(x, weight, bias).contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
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
        return grad_x, grad_weight, grad_bias, None


def _weight_gradient(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """The weight gradient, CHANNELS at a time."""
    if all(size <= extent for size, extent in zip(x.shape[2:], weight.shape[2:], strict=True)):
        return plain_weight_gradient(x.contiguous(), weight, grad.contiguous())  # at 6^3, kernel 7 in a quarter
    parts = zip(x.split(CHANNELS, 1), weight.split(CHANNELS), grad.split(CHANNELS, 1), strict=True)
    return torch.cat([_weight_gradient_of_slabs(*part) for part in parts])


def _weight_gradient_of_slabs(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Sum of the weight gradients of slabs along the first spatial axis, each of about SLAB_NUMBERS."""
    x, grad = (part.contiguous(memory_format=CHANNELS_LAST[x.ndim]) for part in (x, grad))
    size, radius = x.shape[2], weight.shape[2] // 2
    step = max(1, SLAB_NUMBERS * size // prod(x.shape[1:]))
    if 2 * step >= size:  # no gain was measured from two slabs
        return plain_weight_gradient(x, weight, grad)
    total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    for start in range(0, size, step):
        stop = min(start + step, size)
        first, behind = max(start - radius, 0), min(stop + radius, size)
        missing = [0] * (2 * x.ndim - 6) + [radius - (start - first), radius - (behind - stop)]
        for image, image_grad in zip(x.split(1), grad.split(1), strict=True):
            slab = image[:, :, first:behind]
            slab = F.pad(slab, missing) if any(missing) else slab
            total += plain_weight_gradient(slab, weight, image_grad[:, :, start:stop], pads_first_axis=False)
    return total.to(weight.dtype)


def plain_weight_gradient(x: Tensor, weight: Tensor, grad: Tensor, *, pads_first_axis: bool = True) -> Tensor:
    """The weight gradient of :func:`plain_depthwise_conv`, by torch's own operator."""
    padding = [extent // 2 for extent in weight.shape[2:]]
    padding[0] *= pads_first_axis
    return WEIGHT_GRADIENTS[x.ndim](x, weight.shape, grad, padding=padding, groups=weight.shape[0])
