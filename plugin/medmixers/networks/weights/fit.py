"""Adapt a checkpoint's tensor to ours: input channels, 2D kernels in 3D, linear layers as pointwise convolutions."""

from __future__ import annotations

import torch
from torch import Tensor


def fit(value: Tensor, own: Tensor, *, is_first: bool = False) -> tuple[Tensor | None, str]:
    """``value`` in the shape of ``own``, and the changes made; None if it does not fit.

    Args:
        value: of the checkpoint.
        own: of the network.
        is_first: whether it is the kernel of a convolution of the image, which takes other numbers of channels.
    """
    changes = []
    if is_first and value.ndim >= 4 and own.ndim >= 4 and value.shape[1] != own.shape[1]:
        changes.append(f"input channels {value.shape[1]} -> {own.shape[1]}")
        value = adapt_input_channels(value, own.shape[1])
    if value.ndim == 2 and own.ndim > 2 and value.shape == own.shape[:2] and own[0, 0].numel() == 1:
        value = value.reshape(own.shape)  # linear layers of timm's and of the authors' networks
    if value.ndim == 4 and own.ndim == 5 and value.shape[:2] == own.shape[:2]:
        depth = own.shape[2]
        changes.append("inflated to 3D")
        value = value.unsqueeze(2).expand(-1, -1, depth, -1, -1) / depth
    if value.shape != own.shape:
        return None, ""
    return value.to(own.dtype), ", ".join(changes)


def adapt_input_channels(kernel: Tensor, channels: int) -> Tensor:
    """The kernel of a first convolution for another number of image channels.

    From RGB it follows timm: the sum for one channel; else the kernels are repeated and multiplied by 3 / channels.
    From any other number, an image with equal channels gets the same answer as before: copies of a kernel share its
    weight, and kernels that no channel is left for are added to the others.

    Args:
        kernel: (C, channels before, *size).
        channels: of the image.
    """
    before = kernel.shape[1]
    target = torch.arange(max(before, channels)) % channels
    source = torch.arange(max(before, channels)) % before
    weight = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    if before == 3 and channels > 1:
        adapted = weight[:, torch.arange(channels) % 3] * (3 / channels)
    else:
        shares = weight[:, source] / torch.bincount(source)[source].view(1, -1, *[1] * (kernel.ndim - 2))
        adapted = weight.new_zeros(len(kernel), channels, *kernel.shape[2:]).index_add_(1, target, shares)
    return adapted.to(kernel.dtype)
