"""Convolution by number of spatial dimensions, and the checks on its sizes."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

from torch import nn

from medmixers.errors import InputError

ConvFactory = Callable[..., Any]  # nn.Conv2d, nn.Conv3d and their transposed forms

CONVS: dict[int, ConvFactory] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONVS: dict[int, ConvFactory] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def is_integer(value: object) -> bool:
    """Whether the value is an integer by type: 2.0 and True are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_spatial_dims(spatial_dims: int) -> None:
    """Raise ValueError unless ``spatial_dims`` is 2 or 3."""
    if not is_integer(spatial_dims) or spatial_dims not in CONVS:
        raise InputError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")


def conv_nd(spatial_dims: int) -> ConvFactory:
    """The convolution class for 2 or 3 spatial dimensions."""
    check_spatial_dims(spatial_dims)
    return CONVS[spatial_dims]


def transposed_conv_nd(spatial_dims: int) -> ConvFactory:
    """The transposed convolution class for 2 or 3 spatial dimensions."""
    check_spatial_dims(spatial_dims)
    return TRANSPOSED_CONVS[spatial_dims]


def check_kernel_size(kernel_size: int) -> int:
    """Return ``kernel_size``. Raise ValueError unless it is odd and positive: the output must keep its size."""
    if not is_integer(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"kernel_size must be an odd integer >= 1, got {kernel_size!r}")
    return int(kernel_size)


def check_positive(**values: int) -> None:
    """Raise ValueError, with the name, unless every value is an integer >= 1."""
    for name, value in values.items():
        if not is_integer(value) or value < 1:
            raise InputError(f"{name} must be an integer >= 1, got {value!r}")
