"""Checks and changes of a tensor's spatial size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

INTERPOLATIONS = {2: "bilinear", 3: "trilinear"}


def check_image(x: Tensor, spatial_dims: int, in_channels: int) -> None:
    """Raise ValueError unless ``x`` is (B, in_channels, *spatial) with ``spatial_dims`` spatial axes."""
    if x.ndim != spatial_dims + 2 or x.shape[1] != in_channels:
        axes = {2: "H, W", 3: "D, H, W"}[spatial_dims]
        raise ValueError(
            f"expected an image of shape (B, {in_channels}, {axes}): {spatial_dims} spatial dimensions, "
            f"{in_channels} channel(s); got shape {tuple(x.shape)}"
        )


def check_feature_size(x: Tensor, feature_size: Sequence[int], owner: str) -> None:
    """Raise ValueError unless the spatial size of ``x`` is the one that ``owner`` was built for."""
    if tuple(x.shape[2:]) != tuple(feature_size):
        raise ValueError(
            f"{owner} was built for feature size {tuple(feature_size)}, got {tuple(x.shape[2:])}; "
            "build the network with the input_size of your images"
        )


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad the end of every spatial axis of (B, C, *spatial) with zeros to the next multiple of ``multiple``."""
    missing = [-size % multiple for size in x.shape[2:]]
    if not any(missing):
        return x
    return F.pad(x, [p for extra in reversed(missing) for p in (0, extra)])


def pad_for_instance_norm(x: Tensor, stride: int) -> Tensor:
    """Pad as :func:`pad_to_multiple` does, and leave two positions at least after downsampling by ``stride``.

    Instance norm raises in training where a channel has one position. If every axis is ``stride`` long, the last is
    padded by another ``stride``.
    """
    x = pad_to_multiple(x, stride)
    return F.pad(x, (0, stride)) if all(size == stride for size in x.shape[2:]) else x


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first ``size`` voxels of every spatial axis: undoes the padding."""
    for axis, length in enumerate(size):
        x = x.narrow(axis + 2, 0, length)
    return x


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bi- or trilinear interpolation to ``size``, corners not aligned."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode=INTERPOLATIONS[x.ndim - 2], align_corners=False)
