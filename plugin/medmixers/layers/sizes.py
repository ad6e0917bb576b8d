"""Checks and changes of a tensor's spatial size."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from medmixers.errors import InputError

if TYPE_CHECKING:
    Ints = Sequence[int]
else:
    Ints = list[int]  # torch.jit.script does not know Sequence; it converts tuples

INTERPOLATIONS = {2: "bilinear", 3: "trilinear"}


def check_image_shape(x: Tensor, spatial_dims: int, in_channels: int) -> None:
    """Raise ValueError unless ``x`` is (B, in_channels, *spatial) with ``spatial_dims`` spatial axes."""
    if x.ndim != spatial_dims + 2 or x.shape[1] != in_channels:
        axes = {2: "H, W", 3: "D, H, W"}[spatial_dims]
        raise InputError(
            f"expected an image of shape (B, {in_channels}, {axes}): {spatial_dims} spatial dimensions, "
            f"{in_channels} channel(s); got shape {_listed(x.shape)}"
        )


def check_feature_size(x: Tensor, feature_size: Ints, owner: str) -> None:
    """Raise ValueError unless the spatial size of ``x`` is the one that ``owner`` was built for."""
    if list(x.shape[2:]) != list(feature_size):
        raise InputError(
            f"{owner} was built for feature size {_listed(feature_size)}, got {_listed(x.shape[2:])}; "
            "build the network with the input_size of your images"
        )


def _listed(sizes: Ints) -> str:
    return "(" + ", ".join([str(size) for size in sizes]) + ")"


def has_known_size(x: Tensor) -> bool:
    """Whether sizes are numbers. An export or a trace keeps them symbolic, and no branch may depend on them."""
    if not torch.jit.is_scripting():
        return all(isinstance(size, int) for size in x.shape)
    return True


def is_exporting() -> bool:
    """Whether torch.export records a graph, of sizes that may change.

    torch.compiler.is_exporting() tells the same, but torch.compile of torch 2.11 takes it for True.
    """
    return torch.compiler._is_exporting_flag


def product_of(sizes: Ints) -> int:
    """Product of sizes: ``math.prod``, which TorchScript does not know."""
    product = 1
    for size in sizes:
        product *= size
    return product


def per_axis(value: int | Sequence[int], spatial_dims: int, name: str) -> tuple[int, ...]:
    """``value`` for every axis, or its entries, one per axis. Raises ValueError unless all are integers >= 1."""
    values = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(values) != spatial_dims or not all(isinstance(v, Integral) and v >= 1 for v in values):
        raise InputError(f"{name} must be an integer >= 1, or one per axis ({spatial_dims}), got {value!r}")
    return tuple(map(int, values))


def halvings(value: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """Strides per axis. Raises ValueError unless each is 1 or 2: kernels of 3 would skip voxels at larger strides."""
    strides = per_axis(value, spatial_dims, "stride")
    if max(strides) > 2:
        raise InputError(f"strides after the first level must be 1 or 2 on each axis, got {value!r}")
    return strides


def level_strides(
    value: int | Sequence[int | Sequence[int]], levels: int, spatial_dims: int, name: str
) -> list[tuple[int, ...]]:
    """Strides per axis of each level after the first: ``value`` for all levels, or its entries, one per level."""
    values: list[int | Sequence[int]] = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels:
        raise InputError(f"{name} must be 1, 2 or {levels} strides, one per level after the first; got {value!r}")
    return [halvings(entry, spatial_dims) for entry in values]


def pad_to_multiple(x: Tensor, multiple: int | Ints) -> Tensor:
    """Pad the end of each spatial axis of (B, C, *spatial) with zeros to the next multiple of ``multiple``."""
    padding: list[int] = []  # torch expects the last axis first
    for size, step in zip(x.shape[2:], _for_each_axis(multiple, x.ndim - 2)):  # noqa: B905  not in TorchScript
        padding = [0, (size + step - 1) // step * step - size] + padding  # torch 2.14 cannot compile -size % step
    if has_known_size(x) and max(padding) == 0:
        return x
    return F.pad(x, padding)


def pad_for_instance_norm(x: Tensor, stride: int | Ints) -> Tensor:
    """Pad as :func:`pad_to_multiple` does, and keep at least two positions after downsampling by ``stride``.

    Instance norm raises in training if a channel has one position. If every axis is as long as its stride, the last
    axis is padded by another stride.
    """
    strides = _for_each_axis(stride, x.ndim - 2)
    x = pad_to_multiple(x, strides)
    return F.pad(x, [0, strides[-1]]) if list(x.shape[2:]) == strides else x


def _for_each_axis(value: int | Ints, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def crop(x: Tensor, size: Ints, first_axis: int = 2) -> Tensor:
    """The first ``size`` voxels of the spatial axes, which start at ``first_axis``: undoes the padding."""
    for axis, length in enumerate(size, start=first_axis):
        x = _narrow(x, axis, length)
    return x


def _narrow(x: Tensor, axis: int, length: int) -> Tensor:
    # torch.export specialises on whether a view is contiguous, i.e. on whether padding was needed. A copy avoids that.
    if not torch.jit.is_scripting():
        if is_exporting():
            return torch.narrow_copy(x, axis, 0, length)
    return torch.narrow(x, axis, 0, length)


def flatten_positions(x: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, C, positions).

    In a compiled graph it is a contiguous copy. torch's group_norm returns a channels-last map for channels-last input,
    but the compiler (2.14) takes the map for contiguous, and its views of the map fail.
    """
    x = x.flatten(2)
    if not torch.jit.is_scripting():
        if torch.compiler.is_compiling():
            return x.clone(memory_format=torch.contiguous_format)
    return x


def resize(x: Tensor, size: Ints) -> Tensor:
    """Bi- or trilinear interpolation to ``size``, corners not aligned."""
    if has_known_size(x) and list(x.shape[2:]) == list(size):
        return x  # the interpolation would return the same values
    return F.interpolate(x, size=list(size), mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def upsample(x: Tensor, strides: Ints) -> Tensor:
    """Bi- or trilinear interpolation to ``strides`` times the size, corners not aligned."""
    scale = [float(stride) for stride in strides]
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=False)
