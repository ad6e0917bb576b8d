"""Inference on a CPU in slabs: channels-last feature maps, changed in place, one slab after the other.

A feature map at full resolution is larger than any cache. Additions and activations then wait for memory, and new
tensors wait for pages from the system; together they take longer than the convolutions. Here the output of a
convolution is normalised, activated and summed one slab at a time, in place. Convolutions run channels-last, where
oneDNN copies nothing into a layout of its own. The plain reference is the forward of the module; tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.kernels.eager import CHANNELS_LAST
from medmixers.layers.sizes import INTERPOLATIONS

Where = tuple[int, slice]  # index of a slab: a sample, and a range of its first spatial axis
SLAB = 2**18  # elements per slab and thread, 1 MiB: the size of a core's second cache
INTERPOLATIONS_OF_A_SLAB = {1: "linear", 2: "bilinear"}  # the first spatial axis counts as its batch


def as_rows(x: Tensor) -> Tensor:
    """x: (B, C, *spatial) -> (B, *spatial, C), contiguous; a view if ``x`` is channels-last."""
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim]).movedim(1, -1)


def slabs(rows: Tensor) -> Iterator[Where]:
    """Indices of the parts of ``rows`` (B, *spatial, C) that fit a cache; at least one position of the first axis."""
    step = max(1, SLAB * torch.get_num_threads() // prod(rows.shape[2:]))
    for sample in range(len(rows)):
        for start in range(0, rows.shape[1], step):
            yield sample, slice(start, start + step)


def change_slabs(rows: Tensor, change: Callable[[Tensor, Where], object]) -> None:
    """Let ``change`` alter each slab (n, C) of ``rows`` in place; half precision is changed as float32."""
    for where in slabs(rows):
        part = rows[where].flatten(0, -2)
        wide = part.to(torch.promote_types(rows.dtype, torch.float32))
        change(wide, where)
        if wide.dtype != part.dtype:
            part.copy_(wide)


def instance_norm_factors(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift of instance norm, (B, C): x scale + shift has mean 0 and variance 1 in each channel."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    mean = rows.flatten(1, -2).mean(1, dtype=dtype)
    squares, centred = torch.zeros_like(mean), torch.empty(0, dtype=dtype)
    for sample, part in slabs(rows):
        slab = rows[sample, part].flatten(0, -2)
        torch.sub(slab, mean[sample], out=centred.resize_(slab.shape))
        squares[sample] += centred.square_().sum(0)
    scale = (squares / prod(rows.shape[1:-1]) + eps).rsqrt()
    return scale, -mean * scale


def affine_(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """rows * scale + shift, in place."""
    return torch.addcmul(shift, rows, scale, out=rows)


def instance_norm_(rows: Tensor, eps: float) -> Tensor:
    """Instance norm of ``rows``, (B, *spatial, C), in place."""
    scale, shift = instance_norm_factors(rows, eps)
    change_slabs(rows, lambda part, where: affine_(part, scale[where[0]], shift[where[0]]))
    return rows


def gelu_(x: Tensor) -> Tensor:
    """GELU in place; torch has no module for it."""
    return torch.ops.aten.gelu_(x)


def block_means(rows: Tensor, stride: Sequence[int]) -> Tensor:
    """Means of blocks of ``stride``, each 1 or 2. torch's pooling of channels-last maps takes ten times as long."""
    extents = [size // step for size, step in zip(rows.shape[1:-1], stride, strict=True)]
    pooled = rows.new_empty(len(rows), *extents, rows.shape[-1])
    for sample in range(len(rows)):
        for i in range(extents[0]):
            part = rows[sample, i * stride[0] : (i + 1) * stride[0]]
            for axis, step in enumerate(stride):
                if step == 2:
                    even, odd = part.unflatten(axis, (-1, 2)).unbind(axis + 1)
                    part = even + odd
            torch.div(part[0], prod(stride), out=pooled[sample, i])
    return pooled


def pointwise(rows: Tensor, layer: Any) -> Callable[[Where], Tensor]:
    """rows: (B, *spatial, C) -> slabs (n, K) of the pointwise convolution ``layer``. Each call overwrites the last."""
    weight, bias = layer.weight.flatten(1).t().to(rows.dtype), layer.bias.to(rows.dtype)
    buffer = rows.new_empty(0)  # one buffer for all slabs: new memory costs more than the product

    def at(where: Where) -> Tensor:
        part = rows[where].flatten(0, -2)
        return torch.addmm(bias, part, weight, out=buffer.resize_(len(part), weight.shape[1]))

    return at


def upsampled(rows: Tensor, stride: Sequence[int]) -> Callable[[Where], Tensor]:
    """rows: (B, *spatial, C) -> slabs (n, C) of their linear interpolation to ``stride`` times the size.

    Interpolation acts on each axis alone. The first axis is interpolated at once, the others slab by slab.
    """
    first, *others = map(float, stride)
    mode = INTERPOLATIONS[rows.ndim - 2]
    scale = (first, *(1.0 for _ in others))
    rows = as_rows(F.interpolate(rows.movedim(-1, 1), scale_factor=scale, mode=mode, align_corners=False))
    mode = INTERPOLATIONS_OF_A_SLAB[len(others)]

    def at(where: Where) -> Tensor:
        part = rows[where].movedim(-1, 1)
        fine = F.interpolate(part, scale_factor=tuple(others), mode=mode, align_corners=False)
        return fine.movedim(1, -1).flatten(0, -2)

    return at


def shortcut_slabs(rows: Tensor, project: Any, resample: str, stride: Sequence[int]) -> Callable[[Where], Tensor]:
    """Shortcut of a residual block as slabs (n, C): pooled before ``project`` ("down"), or interpolated after ("up").

    Args:
        project: a pointwise convolution or the identity.
    """
    if resample == "down":
        rows = block_means(rows, stride)
    if resample == "up":
        if not isinstance(project, nn.Identity):
            rows = F.linear(rows, project.weight.flatten(1), project.bias)
        return upsampled(rows, stride)
    if isinstance(project, nn.Identity):
        return lambda where: rows[where].flatten(0, -2)
    return pointwise(rows, project)


def logits_of_slabs(rows: Tensor, features: Callable[[Where], Tensor], last: Any) -> Tensor:
    """The pointwise convolution ``last`` of slabs (n, C) -> logits, (B, K, *spatial), contiguous.

    Args:
        rows: (B, *spatial, any); gives the size.
        features: index of a slab -> the slab (n, C) that ``last`` classifies.
    """
    weight, bias = last.weight.flatten(1).to(rows.dtype), last.bias[:, None].to(rows.dtype)
    logits = rows.new_empty(len(rows), len(weight), *rows.shape[1:-1])
    for sample, part in slabs(rows):
        out = logits[sample, :, part].flatten(1)
        torch.addmm(bias, weight, features((sample, part)).t(), out=out)
    return logits
