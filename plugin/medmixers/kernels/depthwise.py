"""Depthwise convolution (one group per channel) in the fastest way that the device offers, as operators of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medmixers.kernels.eager import CHANNELS_LAST
from medmixers.kernels.fastest import Function, fastest
from medmixers.kernels.operators import operator, takes_operators
from medmixers.kernels.plain_depthwise import plain_depthwise_conv, plain_weight_gradient, under_autocast

# Chunk sizes for the weight gradient: channels, and elements per slab. oneDNN's channels-last kernel takes ten times
# as long for 1024 channels of 7x7 as for 512. For 64 channels of 48^3 it takes three times as long as for their slabs.
CHANNELS, SLAB_NUMBERS = 256, 2**19

FASTEST, TORCH, TRITON = "fastest", "torch", "triton"  # ways of an operator
PLAIN: Mapping[str, Function] = {"convolve": plain_depthwise_conv, "weight_gradient": plain_weight_gradient}


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the size. Reference: :func:`plain_depthwise_conv`.

    In training on a CPU it runs channels-last, whatever the layout of its input. The input gradient is a convolution
    with the mirrored kernel. Both give the same numbers as oneDNN's contiguous kernels, several times sooner.
    On a GPU :func:`medmixers.kernels.fastest.fastest` chooses between torch's kernels and Triton's for each shape.
    Networks compiled by torch.compile do the same. Everywhere else torch's own operator runs: without a backward pass,
    changing the layout costs more than it saves, and exported graphs must load without this package.

    Args:
        x: feature map, (B, C, *spatial).
        weight: odd kernels, (C, 1, *kernel).
        bias: (C,) or None.

    Returns:
        (B, C, *spatial), in the layout of ``x``.
    """
    if not torch.jit.is_scripting():
        layout = _fast_layout(x, weight, bias)
        if layout is not None:
            own = _layout(x)
            x, weight, bias = under_autocast(x, weight, bias)
            return convolve(x.contiguous(memory_format=layout), weight, bias, FASTEST).contiguous(memory_format=own)
    return plain_depthwise_conv(x, weight, bias)


def _fast_layout(x: Tensor, weight: Tensor, bias: Tensor | None) -> torch.memory_format | None:
    """The layout in which the operator computes; None where torch's own operator must run or is faster."""
    if not takes_operators(x, weight, bias):
        return None
    if x.is_cuda:
        return torch.contiguous_format if x.is_contiguous() else None
    is_small = x.ndim == 4 and max(weight.shape[2:]) <= 3  # 2D kernels up to 3: a change of layout costs too much
    if x.device.type == "cpu" and torch.is_grad_enabled() and not is_small:
        return CHANNELS_LAST[x.ndim]
    return None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, by: str) -> Tensor:
    convolved = _way("convolve", by, x, weight.shape[2:])(x, weight, bias)
    return convolved.contiguous(memory_format=_layout(x))


def _empty_map(x: Tensor, weight: Tensor, bias: Tensor | None, by: str) -> Tensor:
    return torch.empty_like(x, memory_format=_layout(x))


def _weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int], by: str) -> Tensor:
    return _way("weight_gradient", by, x, kernel)(x, grad, tuple(kernel)).contiguous()


def _empty_weight(x: Tensor, grad: Tensor, kernel: Sequence[int], by: str) -> Tensor:
    return x.new_empty(x.shape[1], 1, *kernel)


def _layout(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else CHANNELS_LAST[x.ndim]


def _mirrored(weight: Tensor) -> Tensor:
    return weight.flip(list(range(2, weight.ndim)))


def _keep_of_convolve(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.by = inputs
    ctx.save_for_backward(x, weight)


def _gradients_of_convolve(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    grad = grad.contiguous(memory_format=_layout(x))
    needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
    return (
        convolve(grad, _mirrored(weight), None, ctx.by) if needs_x else None,
        weight_gradient(x, grad, weight.shape[2:], ctx.by) if needs_weight else None,
        grad.sum([0, *range(2, grad.ndim)]) if needs_bias else None,
        None,
    )


def _keep_of_weight_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, grad, _, ctx.by = inputs
    ctx.save_for_backward(x, grad)


def _gradients_of_weight_gradient(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
    """The weight gradient is linear in ``x`` and in ``grad``; ``change`` has the shape of the weight."""
    x, grad = ctx.saved_tensors
    needs_x, needs_grad, *_ = ctx.needs_input_grad
    return (
        convolve(grad, _mirrored(change), None, ctx.by) if needs_x else None,
        convolve(x, change, None, ctx.by) if needs_grad else None,
        None,
        None,
    )


# plain_depthwise_conv of a contiguous or channels-last x, in its layout; ``by`` is FASTEST, TORCH or TRITON.
convolve = operator(
    "depthwise_conv(Tensor x, Tensor weight, Tensor? bias, str by) -> Tensor",
    _convolve,
    fake=_empty_map,
    keep=_keep_of_convolve,
    gradients=_gradients_of_convolve,
)
# plain_weight_gradient: x and the output's gradient, (B, C, *spatial) -> (C, 1, *kernel).
weight_gradient = operator(
    "depthwise_weight_gradient(Tensor x, Tensor grad, SymInt[] kernel, str by) -> Tensor",
    _weight_gradient,
    fake=_empty_weight,
    keep=_keep_of_weight_gradient,
    gradients=_gradients_of_weight_gradient,
)


def _way(operation: str, by: str, x: Tensor, kernel: Sequence[int]) -> Function:
    """The function that computes an operation, a key of PLAIN, on the device of ``x``."""
    if by == TORCH or (x.is_cuda and by == FASTEST and _needs_torchs_own()):
        return PLAIN[operation]
    if by == FASTEST and not x.is_cuda:
        return _weight_gradient_in_parts if operation == "weight_gradient" else PLAIN[operation]
    candidates = gpu_candidates(operation, x.dtype, max(kernel))
    if by == TRITON:
        if len(candidates) == 1:
            raise ValueError(f"Triton is not installed, or its kernels do not take {x.dtype}, kernel {tuple(kernel)}")
        return candidates[1]
    return lambda *arguments: fastest(candidates, *arguments)(*arguments)


def _needs_torchs_own() -> bool:
    """Whether timing must not decide: in deterministic mode and while CUDA captures a graph."""
    repeatable = torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic
    return repeatable or torch.cuda.is_current_stream_capturing()


@cache
def gpu_candidates(operation: str, dtype: torch.dtype, kernel_size: int) -> tuple[Function, ...]:
    """torch's operator, then Triton's where Triton is installed and supports the dtype and the kernel size.

    Triton does not come with torch for Windows or CPUs.
    """
    plain = PLAIN[operation]
    try:
        from medmixers.kernels import depthwise_triton as by_triton
    except ImportError:
        return (plain,)
    if dtype not in by_triton.DTYPES or kernel_size > by_triton.MAX_KERNEL_SIZE:
        return (plain,)
    return plain, by_triton.OPERATIONS[operation]


def _weight_gradient_in_parts(x: Tensor, grad: Tensor, kernel: Sequence[int]) -> Tensor:
    """:func:`plain_weight_gradient` of channels-last tensors on a CPU, CHANNELS at a time and in float32 at least.

    In bfloat16 oneDNN leaves taps unwritten where a volume is small beside the kernel (5x9x6 and kernel 7).
    """
    if x.dtype in (torch.bfloat16, torch.float16):
        return _weight_gradient_in_parts(x.float(), grad.float(), kernel).to(x.dtype)
    if all(size <= extent for size, extent in zip(x.shape[2:], kernel, strict=True)):
        # Contiguous: at 6^3 and kernel 7 it takes a quarter of the time.
        return plain_weight_gradient(x.contiguous(), grad.contiguous(), kernel)
    parts = zip(x.split(CHANNELS, 1), grad.split(CHANNELS, 1), strict=True)
    return torch.cat([_weight_gradient_of_slabs(*part, kernel) for part in parts])


def _weight_gradient_of_slabs(x: Tensor, grad: Tensor, kernel: Sequence[int]) -> Tensor:
    """Sum of the weight gradients of slabs along the first spatial axis, each of about SLAB_NUMBERS elements."""
    x, grad = (part.contiguous(memory_format=CHANNELS_LAST[x.ndim]) for part in (x, grad))
    size, radius = x.shape[2], kernel[0] // 2
    step = max(1, SLAB_NUMBERS * size // prod(x.shape[1:]))
    if 2 * step >= size:  # two slabs bring no gain
        return plain_weight_gradient(x, grad, kernel)
    total = x.new_zeros(x.shape[1], 1, *kernel)
    for start in range(0, size, step):
        stop = min(start + step, size)
        first, last = max(start - radius, 0), min(stop + radius, size)
        missing = [0] * (2 * x.ndim - 6) + [radius - (start - first), radius - (last - stop)]
        for image, image_grad in zip(x.split(1), grad.split(1), strict=True):
            slab = image[:, :, first:last]
            slab = F.pad(slab, missing) if any(missing) else slab
            total += plain_weight_gradient(slab, image_grad[:, :, start:stop], kernel, pads_first_axis=False)
    return total
