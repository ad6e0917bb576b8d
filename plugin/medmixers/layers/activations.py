"""Activations by name, those of Yu et al. 2023 among them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medmixers.registry import Registry


class SquaredReLU(nn.Module):
    """relu(x)^2 (So et al. 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.square(torch.relu(x))


class StarReLU(nn.Module):
    """scale * relu(x)^2 + bias with a learnable scalar scale and bias (Yu et al. 2023, section 2.3).

    The start values 1 and 0 are those of timm and of the authors' training; the closed form for normal input,
    0.8944 and -0.4472, is not used by them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.square(torch.relu(x)) + self.bias


ACTIVATIONS: Registry[Callable[[], nn.Module]] = Registry("activation")
for _name, _activation in (
    ("gelu", nn.GELU),
    ("relu", nn.ReLU),
    ("silu", nn.SiLU),
    ("squared_relu", SquaredReLU),
    ("star_relu", StarReLU),
):
    ACTIVATIONS.register(_name, _activation)
