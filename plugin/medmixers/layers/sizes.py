"""Checks and changes of a tensor's spatial size."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from medmixers.errors import InputError

INTERPOLATIONS = {2: "bilinear", 3: "trilinear"}


def check_image(x: Tensor, spatial_dims: int, in_channels: int) -> None:
    """Raise ValueError unless ``x`` is (B, in_channels, *spatial) with ``spatial_dims`` spatial axes."""
    if x.ndim != spatial_dims + 2 or x.shape[1] != in_channels:
        axes = {2: "H, W", 3: "D, H, W"}[spatial_dims]
        raise InputError(
            f"expected an image of shape (B, {in_channels}, {axes}): {spatial_dims} spatial dimensions, "
            f"{in_channels} channel(s); got shape {tuple(x.shape)}"
        )


def check_feature_size(x: Tensor, feature_size: Sequence[int], owner: str) -> None:
    """Raise ValueError unless the spatial size of ``x`` is the one that ``owner`` was built for."""
    if tuple(x.shape[2:]) != tuple(feature_size):
        raise InputError(
            f"{owner} was built for feature size {tuple(feature_size)}, got {tuple(x.shape[2:])}; "
            "build the network with the input_size of your images"
        )


def has_known_size(x: Tensor) -> bool:
    """Whether sizes are numbers; False while an export or a trace keeps them open, where no branch may ask for them."""
    return all(isinstance(size, int) for size in x.shape)


def per_axis(value: int | Sequence[int], spatial_dims: int, name: str) -> tuple[int, ...]:
    """``value`` for every spatial axis, or its entries, one an axis. Raises ValueError unless all are integers >= 1."""
    values = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(values) != spatial_dims or not all(isinstance(v, Integral) and v >= 1 for v in values):
        raise InputError(f"{name} must be an integer >= 1, or one an axis ({spatial_dims}), got {value!r}")
    return tuple(map(int, values))


def halvings(value: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """A stride of each axis; ValueError unless each is 1 or 2: kernels of 3 would skip voxels at larger ones."""
    strides = per_axis(value, spatial_dims, "stride")
    if max(strides) > 2:
        raise InputError(f"a stride behind the first level must be 1 or 2 on each axis, got {value!r}")
    return strides


def level_strides(
    value: int | Sequence[int | Sequence[int]], levels: int, spatial_dims: int, name: str
) -> list[tuple[int, ...]]:
    """Strides an axis of each level behind the first: ``value`` for all, or its entries, one a level."""
    values: list[int | Sequence[int]] = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels:
        raise InputError(f"{name} must be 1, 2 or {levels} strides, one a level behind the first; got {value!r}")
    return [halvings(entry, spatial_dims) for entry in values]


def pad_to_multiple(x: Tensor, multiple: int | Sequence[int]) -> Tensor:
    """Pad the end of every spatial axis of (B, C, *spatial) with zeros to the next multiple of ``multiple``."""
    multiples = per_axis(multiple, x.ndim - 2, "multiple")
    missing = [-size % step for size, step in zip(x.shape[2:], multiples, strict=True)]
    if has_known_size(x) and not any(missing):
        return x
    return F.pad(x, [p for extra in reversed(missing) for p in (0, extra)])


def pad_for_instance_norm(x: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Pad as :func:`pad_to_multiple` does, and leave two positions at least after downsampling by ``stride``.

    Instance norm raises in training where a channel has one position. If every axis is as long as its stride, the
    last is padded by another stride.
    """
    strides = per_axis(stride, x.ndim - 2, "stride")
    x = pad_to_multiple(x, strides)
    return F.pad(x, (0, strides[-1])) if tuple(x.shape[2:]) == strides else x


def crop(x: Tensor, size: Sequence[int], *, first_axis: int = 2) -> Tensor:
    """The first ``size`` voxels of every spatial axis, the first of which is ``first_axis``: undoes the padding."""
    # Of a view, torch.export asks whether it is contiguous: then it would hold only for sizes that need no padding, or
    # only for those that do. Of a copy it need not ask.
    narrow = torch.narrow_copy if torch.compiler.is_exporting() else torch.narrow
    for axis, length in enumerate(size, start=first_axis):
        x = narrow(x, axis, 0, length)
    return x


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bi- or trilinear interpolation to ``size``, corners not aligned."""
    if has_known_size(x) and tuple(x.shape[2:]) == tuple(size):
        return x  # as the interpolation would
    return F.interpolate(x, size=tuple(size), mode=INTERPOLATIONS[x.ndim - 2], align_corners=False)
