"""Activations by name, including those of Yu et al. 2023."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from medmixers.registry import Registry


class SquaredReLU(nn.Module):
    """relu(x)^2 (So et al. 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.square(torch.relu(x))


class StarReLU(nn.Module):
    """scale * relu(x)^2 + bias with scalars shared by all channels (Yu et al. 2023, equation 15).

    Args:
        scale: value of the scale, or its start value if it is learned.
        bias: value of the bias, or its start value if it is learned.
        learn_scale: whether the scale is a parameter.
        learn_bias: whether the bias is a parameter.
    """

    def __init__(
        self, *, scale: float = 1.0, bias: float = 0.0, learn_scale: bool = True, learn_bias: bool = True
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), scale)) if learn_scale else scale
        self.bias = nn.Parameter(torch.full((1,), bias)) if learn_bias else bias

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.square(torch.relu(x)) + self.bias


# relu(x)^2 of a standard normal x has mean 1/2 and variance 5/4 (equations 11 to 13)
SCALE, BIAS = 1.25**-0.5, -0.5 * 1.25**-0.5
fixed = partial(StarReLU, learn_scale=False, learn_bias=False)

ACTIVATIONS: Registry[Callable[[], nn.Module]] = Registry("activation")
for _name, _activation in (
    ("gelu", nn.GELU),
    ("relu", nn.ReLU),
    ("silu", nn.SiLU),
    ("squared_relu", SquaredReLU),
    # The six variants of Table 8: both learned, scale alone, bias alone; both fixed, scale alone, bias alone.
    ("star_relu", StarReLU),
    ("star_relu_scale", partial(StarReLU, learn_bias=False)),
    ("star_relu_bias", partial(StarReLU, learn_scale=False)),
    ("star_relu_fixed", partial(fixed, scale=SCALE, bias=BIAS)),
    ("star_relu_fixed_scale", partial(fixed, scale=SCALE)),
    ("star_relu_fixed_bias", partial(fixed, bias=-0.5)),
):
    ACTIVATIONS.register(_name, _activation)
