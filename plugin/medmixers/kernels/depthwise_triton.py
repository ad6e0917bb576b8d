"""Depthwise convolution on a GPU by two Triton kernels.

They compute what torch's own operators compute. Their speed is not measured yet.

torch's kernels (ATen's DepthwiseConv3d.cu) load a voxel once per tap. Here a loaded voxel serves several taps: the
sums of neighbouring planes stay in registers. Neighbouring threads take neighbouring voxels of a plane in memory
order, so loads and stores are coalesced for every plane size. Sums are in float32 and in a fixed order, without
atomics: the same input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_KERNEL_SIZE = 9  # largest tested size; the sums of larger kernels would spill from the registers
SIZES = ("channels", "depth", "height", "width")  # not specialised: a new size must not compile again
POSITIONS = 512  # voxels of a plane per program of the convolution, four per thread of 128
SUMS, SUM_POSITIONS = 64, 128  # weight gradient: sums per thread, and voxels of a plane at a time
PROGRAMS = 4096  # weight gradient: about this many programs on every GPU, so that the order of its sums is fixed


def triton_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of stride 1 that keeps the size, by Triton.

    Reference: :func:`medmixers.kernels.plain_depthwise.plain_depthwise_conv`. A voxel that is not finite can reach up
    to 7 planes further than in the reference: the kernel multiplies taps outside a plane's reach by zero.

    Args:
        x: feature map, (B, C, *spatial) in 2D or 3D, of DTYPES; computed contiguous.
        weight: odd kernels up to MAX_KERNEL_SIZE, (C, 1, *kernel).
        bias: (C,) or None.
    """
    if x.ndim == 4:
        return triton_depthwise_conv(x.unsqueeze(2), weight.unsqueeze(2), bias).squeeze(2)
    x, weight = x.contiguous(), weight.contiguous()
    batch, channels, depth, height, width = x.shape
    planes = 1 if depth == 1 else 4 if weight.shape[2] <= 5 else 8
    positions = min(POSITIONS, triton.next_power_of_2(height * width))
    programs = batch * channels * triton.cdiv(depth, planes) * triton.cdiv(height * width, positions)
    out = torch.empty_like(x)
    _run(_convolve, programs, (x, weight, bias, out), (*x.shape[1:], *weight.shape[2:], planes, positions))
    return out


def triton_weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int]) -> Tensor:
    """Weight gradient of :func:`triton_depthwise_conv`, (C, 1, *kernel), by Triton.

    Reference: :func:`medmixers.kernels.plain_depthwise.plain_weight_gradient`.

    Args:
        x: feature map, (B, C, *spatial) in 2D or 3D, of DTYPES; computed contiguous.
        grad: gradient of the output, in the shape of ``x``.
        kernel: extents of the kernel.
    """
    if x.ndim == 4:
        return triton_weight_gradient(x.unsqueeze(2), grad.unsqueeze(2), (1, *kernel)).squeeze(2)
    x, grad = x.contiguous(), grad.contiguous()
    batch, channels, _, height, width = x.shape
    planes, columns = (triton.next_power_of_2(extent) for extent in (kernel[0], kernel[2]))
    columns = min(columns, SUMS // planes)
    positions = min(SUM_POSITIONS, triton.next_power_of_2(height * width))
    work = channels * kernel[1] * triton.cdiv(kernel[2], columns)
    parts = max(1, min(batch * triton.cdiv(height * width, positions), triton.cdiv(PROGRAMS, work)))
    partial = torch.empty(parts, channels, 1, *kernel, dtype=torch.float32, device=x.device)
    sizes = (batch, parts, *x.shape[1:], *kernel, planes, columns, positions)
    _run(_correlate, work * parts, (x, grad, partial), sizes)
    return partial.sum(0).to(x.dtype)


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "convolve": triton_depthwise_conv,
    "weight_gradient": triton_weight_gradient,
}


def _run(kernel: Any, programs: int, tensors: Sequence[Tensor | None], numbers: Sequence[int]) -> None:
    plain = [t if t is None else t.as_subclass(Tensor) for t in tensors]  # Triton does not take MONAI's MetaTensor
    with torch.cuda.device_of(tensors[0]):
        # Fused multiply-add: Triton plans to turn it off by default.
        kernel[programs,](*plain, *numbers, enable_fp_fusion=True)


# 32 bits hold the size of a plane; the offset of a plane in a batch of volumes needs 64.
@triton.jit(do_not_specialize=SIZES)
def _convolve(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    channels: tl.tensor,
    depth: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    KZ: tl.constexpr,
    KY: tl.constexpr,
    KX: tl.constexpr,
    PLANES: tl.constexpr,
    POSITIONS: tl.constexpr,
) -> None:
    """One program: POSITIONS voxels of PLANES successive planes of one channel's output."""
    area = height * width
    blocks, chunks = tl.cdiv(area, POSITIONS), tl.cdiv(depth, PLANES)
    program = tl.program_id(0)
    volume = program // (blocks * chunks)
    first = program // blocks % chunks * PLANES
    position = program % blocks * POSITIONS + tl.arange(0, POSITIONS)[None, :]
    row, column = position // width, position % width
    z = first + tl.arange(0, PLANES)[:, None]
    start = volume.to(tl.int64) * depth * area
    taps = weight + volume % channels * (KZ * KY * KX)

    total = tl.zeros((PLANES, POSITIONS), tl.float32)
    for plane in range(tl.maximum(first - KZ // 2, 0), tl.minimum(first + PLANES + KZ // 2, depth)):
        kz = plane - z + KZ // 2  # the tap by which each output plane sees this plane
        reached = (kz >= 0) & (kz < KZ)
        voxels = x + start + tl.cast(plane, tl.int64) * area + position
        for ky in range(KY):
            y = row + ky - KY // 2
            for kx in tl.static_range(KX):
                x_at = column + kx - KX // 2
                inside = (y >= 0) & (y < height) & (x_at >= 0) & (x_at < width)
                value = tl.load(voxels + (ky - KY // 2) * width + kx - KX // 2, inside, 0.0)
                tap = tl.load(taps + (kz * KY + ky) * KX + kx, reached, 0.0)
                total += value.to(tl.float32) * tap.to(tl.float32)
    if bias is not None:
        total += tl.load(bias + volume % channels).to(tl.float32)
    tl.store(out + start + z.to(tl.int64) * area + position, total, (z < depth) & (position < area))


@triton.jit(do_not_specialize=("batch", "parts", *SIZES))
def _correlate(
    x: tl.tensor,
    grad: tl.tensor,
    partial: tl.tensor,
    batch: tl.tensor,
    parts: tl.tensor,
    channels: tl.tensor,
    depth: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    KZ: tl.constexpr,
    KY: tl.constexpr,
    KX: tl.constexpr,
    PLANES: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
) -> None:
    """One program: the gradient of taps (:, ky, COLUMNS of kx) of one channel, summed over one part of the voxels."""
    groups: tl.constexpr = (KX + COLUMNS - 1) // COLUMNS
    area = height * width
    blocks = tl.cdiv(area, POSITIONS)
    program = tl.program_id(0)  # neighbouring programs read the same voxels
    ky = program // groups % KY
    part = program // (groups * KY) % parts
    channel = program // (groups * KY) // parts
    kx = program % groups * COLUMNS + tl.arange(0, COLUMNS)[:, None, None]
    kz = tl.arange(0, PLANES)[None, :, None]

    total = tl.zeros((COLUMNS, PLANES, POSITIONS), tl.float32)
    for item in range(part, batch * blocks, parts):
        start = tl.cast(item // blocks * channels + channel, tl.int64) * depth * area
        position = item % blocks * POSITIONS + tl.arange(0, POSITIONS)[None, None, :]
        y, x_at = position // width + ky - KY // 2, position % width + kx - KX // 2
        inside = (position < area) & (y >= 0) & (y < height) & (x_at >= 0) & (x_at < width) & (kx < KX)
        voxels = x + start + position + (ky - KY // 2) * width + kx - KX // 2
        for plane in range(depth):
            z = plane - kz + KZ // 2  # the output plane that sees this plane by tap kz
            seen = (z >= 0) & (z < depth) & (kz < KZ) & (position < area)
            value = tl.load(voxels + tl.cast(plane, tl.int64) * area, inside, 0.0)
            change = tl.load(grad + start + z.to(tl.int64) * area + position, seen, 0.0)
            total += value.to(tl.float32) * change.to(tl.float32)
    taps = ((part * channels + channel) * KZ + kz) * (KY * KX) + ky * KX + kx
    tl.store(partial + taps, tl.sum(total, 2, keep_dims=True), (kz < KZ) & (kx < KX))
