"""Depthwise convolution (one group per channel) in the fastest way that the device offers."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from medmixers.kernels.eager import CHANNELS_LAST, is_eager, is_eager_on_cpu
from medmixers.kernels.fastest import Function, fastest
from medmixers.kernels.plain_depthwise import plain_depthwise_conv, plain_weight_gradient, under_autocast

# Chunk sizes for the weight gradient: channels, and elements per slab. oneDNN's channels-last kernel takes ten times
# as long for 1024 channels of 7x7 as for 512. For 64 channels of 48^3 it takes three times as long as for their slabs.
CHANNELS, SLAB_NUMBERS = 256, 2**19


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the size. Reference: :func:`plain_depthwise_conv`.

    In training on a CPU it runs channels-last, whatever the layout of its input. The input gradient is a convolution
    with the mirrored kernel. Both give the same numbers as oneDNN's contiguous kernels, several times sooner.
    On a GPU :func:`medmixers.kernels.fastest.fastest` chooses between torch's kernels and Triton's for each shape.
    Everywhere else torch's own operator runs: without a backward pass, changing the layout costs more than it saves.

    Args:
        x: feature map, (B, C, *spatial).
        weight: odd kernels, (C, 1, *kernel).
        bias: (C,) or None.

    Returns:
        (B, C, *spatial), in the layout of ``x``.
    """
    if not torch.jit.is_scripting():
        way = _fast_way(x, weight, bias)
        if way is not None:
            return way(*under_autocast(x, weight, bias))
    return plain_depthwise_conv(x, weight, bias)


def _fast_way(x: Tensor, weight: Tensor, bias: Tensor | None) -> Function | None:
    is_small = x.ndim == 4 and max(weight.shape[2:]) <= 3  # 2D kernels up to 3: a change of layout costs too much
    if torch.is_grad_enabled() and not is_small and is_eager_on_cpu(x, weight, bias):
        return _channels_last_depthwise_conv
    if x.is_cuda and is_eager(x, weight, bias):
        return _fastest_on_gpu
    return None


def _fastest_on_gpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not x.is_contiguous() or _needs_torchs_own():
        return plain_depthwise_conv(x, weight, bias)
    candidates = gpu_candidates(x.dtype, max(weight.shape[2:]))
    return fastest(candidates, x, weight, bias)(x, weight, bias)


def _needs_torchs_own() -> bool:
    """True where timing must not decide.

    These are deterministic mode, CUDA graph capture, and an active dispatch mode (FLOP counters, tracers). torch has
    no public query for the last.
    """
    repeatable = torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
    return repeatable or _get_current_dispatch_mode() is not None or torch.cuda.is_current_stream_capturing()


@cache
def gpu_candidates(dtype: torch.dtype, kernel_size: int) -> tuple[Function, ...]:
    """torch's operator, then Triton's where Triton is installed and supports the dtype and the kernel size.

    Triton does not come with torch for Windows or CPUs.
    """
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
    """Convolution of a channels-last ``x``, returned in ``layout``. torch can differentiate its backward pass."""

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
    """Weight gradient, computed CHANNELS at a time."""
    if all(size <= extent for size, extent in zip(x.shape[2:], weight.shape[2:], strict=True)):
        # Contiguous: at 6^3 and kernel 7 it takes a quarter of the time.
        return plain_weight_gradient(x.contiguous(), weight, grad.contiguous())
    parts = zip(x.split(CHANNELS, 1), weight.split(CHANNELS), grad.split(CHANNELS, 1), strict=True)
    return torch.cat([_weight_gradient_of_slabs(*part) for part in parts])


def _weight_gradient_of_slabs(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Sum of the weight gradients of slabs along the first spatial axis, each of about SLAB_NUMBERS elements."""
    x, grad = (part.contiguous(memory_format=CHANNELS_LAST[x.ndim]) for part in (x, grad))
    size, radius = x.shape[2], weight.shape[2] // 2
    step = max(1, SLAB_NUMBERS * size // prod(x.shape[1:]))
    if 2 * step >= size:  # two slabs bring no gain
        return plain_weight_gradient(x, weight, grad)
    total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
    for start in range(0, size, step):
        stop = min(start + step, size)
        first, last = max(start - radius, 0), min(stop + radius, size)
        missing = [0] * (2 * x.ndim - 6) + [radius - (start - first), radius - (last - stop)]
        for image, image_grad in zip(x.split(1), grad.split(1), strict=True):
            slab = image[:, :, first:last]
            slab = F.pad(slab, missing) if any(missing) else slab
            total += plain_weight_gradient(slab, weight, image_grad[:, :, start:stop], pads_first_axis=False)
    return total.to(weight.dtype)
