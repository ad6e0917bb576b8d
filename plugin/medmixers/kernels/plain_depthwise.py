"""Depthwise convolution and its weight gradient by torch's own operators: the reference of every fast way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as gradients

WEIGHT_GRADIENTS: dict[int, Any] = {4: gradients.conv2d_weight, 5: gradients.conv3d_weight}


def plain_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the size: as many groups as channels.

    Args:
        x: feature map, (B, C, *spatial).
        weight: odd kernels, (C, 1, *kernel).
        bias: (C,) or None.
    """
    padding = [extent // 2 for extent in weight.shape[2:]]
    if x.ndim == 4:
        return F.conv2d(x, weight, bias, padding=padding, groups=weight.shape[0])
    return F.conv3d(x, weight, bias, padding=padding, groups=weight.shape[0])


def plain_weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int], *, pads_first_axis: bool = True) -> Tensor:
    """Weight gradient of :func:`plain_depthwise_conv`, (C, 1, *kernel).

    Args:
        grad: gradient of the output.
        kernel: extents of the kernel.
        pads_first_axis: False where ``x`` already holds the halo along its first spatial axis.
    """
    padding = [extent // 2 for extent in kernel]
    padding[0] *= pads_first_axis
    shape = (x.shape[1], 1, *kernel)
    return WEIGHT_GRADIENTS[x.ndim](x, shape, grad, padding=padding, groups=x.shape[1])


def under_autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors in the dtypes that autocast gives a convolution.

    The backward pass of a custom function runs outside autocast, so the cast comes before the function.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)  # autocast does not convert float64

    return cast(x), cast(weight), None if bias is None else cast(bias)
