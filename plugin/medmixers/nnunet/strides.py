"""Downsampling of each level and axis, in nnU-Net's form: one list of strides per level, the first all ones.

nnU-Net derives the scales of deep supervision from the strides: 1 over the product so far, for all levels but the last.
Our networks follow the pooling that nnU-Net planned for its U-Net on the same data. So they leave an anisotropic axis
alone where nnU-Net does. A stem of stride 4 is two of nnU-Net's steps: its scales are 1, 1/4, 1/8 and 1/16.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from medmixers.errors import InputError
from medmixers.peers import split_name
from medmixers.registry import locate, option_names
from medmixers.variants import NETWORKS

# Networks with fixed strides, the same on each axis.
# network                    scales of its outputs     multiple that a patch must have
# MedUNeXt                   1, 1/2, 1/4, 1/8, 1/16    32
# Token-UNet as released     1, 1/2                    8
# MONAI's (no such heads)    1, 1/2                    32
FIXED_STRIDES = {
    "medmixers.networks.med_unext.MedUNeXt": (2, 2, 2, 2, 2),
    "medmixers.networks.token_unet_released.TokenUNetReleased": (2, 4),
}
HEADLESS_STRIDES = (2, 16)


def is_nnunets_own(name: str) -> bool:
    """Whether it is a network of nnU-Net: its levels and kernels are those that nnU-Net plans."""
    return split_name(name)[0] == "nnunet"


def level_halvings(name: str, options: Mapping[str, Any]) -> list[int] | None:
    """Number of halvings of each level after the image; None if the network's strides are fixed.

    Raises:
        InputError: a stem stride that is not a power of 2.
    """
    row = NETWORKS[name]
    chosen = {**row.arguments, **options}
    if row.encoder is not None and "stage_strides" in option_names(locate(row.encoder)):
        stem = chosen.get("stem_stride", 4)
        if not isinstance(stem, int) or stem < 1 or stem & (stem - 1):
            raise InputError(f"stem_stride must be a power of 2 to be planned, got {stem!r}")
        first = [stem.bit_length() - 1] if stem > 1 else []
        return first + [1] * (len(chosen["dims"]) - 1)
    target = locate(row.target)
    if "strides" in option_names(target) and not split_name(name)[0]:
        channels = chosen.get("channels", inspect.signature(target).parameters["channels"].default)
        return [1] * (len(channels) - 1)
    return None


def planned_strides(
    name: str, options: Mapping[str, Any], *, patch_size: Sequence[int], pools: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Strides of a network for a patch, from those that nnU-Net planned for its U-Net.

    nnU-Net stops pooling at an edge of 4 voxels. Where the network has levels left, an axis is halved further as long
    as its size is even and stays at least 2 voxels.

    Args:
        name: of the network.
        options: of the network; ``stem_stride`` and its number of levels count.
        patch_size: in voxels.
        pools: nnU-Net's strides, the first all ones.
    """
    if is_nnunets_own(name):
        return [list(pool) for pool in pools]
    dims = len(patch_size)
    levels = level_halvings(name, options)
    if levels is None:
        fixed = FIXED_STRIDES.get(NETWORKS[name].target, HEADLESS_STRIDES)
        return [[1] * dims, *([stride] * dims for stride in fixed)]
    size, remaining = list(patch_size), [list(pool) for pool in pools[1:]]
    strides = [[1] * dims]
    for halvings in levels:
        stride = [1] * dims
        for _ in range(halvings):
            pool = remaining.pop(0) if remaining else [2 if s % 2 == 0 and s >= 4 else 1 for s in size]
            size = [-(-s // p) for s, p in zip(size, pool, strict=True)]
            stride = [s * p for s, p in zip(stride, pool, strict=True)]
        strides.append(stride)
    return strides


def fitted_patch_size(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """``patch_size`` rounded up to a multiple of the product of the strides, on each axis."""
    products = [prod(axis) for axis in zip(*strides, strict=True)]
    return [-(-int(size) // step) * step for size, step in zip(patch_size, products, strict=True)]


def stride_options(name: str, strides: Sequence[Sequence[int]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's strides as options of the network.

    Raises:
        InputError: the first are not all ones, or the network cannot have these strides.
    """
    if not strides or set(strides[0]) != {1}:
        raise InputError(f"the first of the plans' strides must be all ones, got {strides!r}")
    if is_nnunets_own(name):
        return {"strides": strides}
    further = tuple(tuple(stride) for stride in strides[1:])
    row = NETWORKS[name]
    chosen = {**row.arguments, **options}
    if row.encoder is not None and "stage_strides" in option_names(locate(row.encoder)):
        if len(further) == len(chosen["dims"]):
            return {"stem_stride": further[0], "stage_strides": further[1:]}
        return {"stem_stride": 1, "stage_strides": further}
    if level_halvings(name, options) is not None:
        return {"strides": further}
    fixed = FIXED_STRIDES.get(row.target, HEADLESS_STRIDES)
    if further != tuple((stride,) * len(strides[0]) for stride in fixed):
        raise InputError(f"network {name!r} has the strides {fixed} after the first, got {strides!r}")
    return {}
