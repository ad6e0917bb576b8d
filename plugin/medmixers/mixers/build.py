"""Build a token mixer by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from medmixers.mixers import TOKEN_MIXERS
from medmixers.registry import check_options, locate, option_names


def mixer_option_names(name: str) -> list[str]:
    """Options of the token mixer ``name``, without ``spatial_dims``."""
    return [option for option in option_names(locate(TOKEN_MIXERS[name].target)) if option != "spatial_dims"]


def create_mixer(name: str, dim: int, *, spatial_dims: int, **options: Any) -> nn.Module:
    """Build the token mixer ``name`` for ``dim`` channels.

    Raises:
        ValueError: an unknown name or option (the message lists the valid ones), or a value out of range.
    """
    check_options(f"token mixer {name!r}", options, mixer_option_names(name))
    return locate(TOKEN_MIXERS[name].target)(dim, spatial_dims=spatial_dims, **options)
