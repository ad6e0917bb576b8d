"""Classifiers of timm by name, ``timm:convnext_tiny``, untrained. The module has a builder for each of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
from torch import nn

from medmixers.errors import InputError
from medmixers.networks.peers import Peer, build_peer


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if not timm.is_model(name):
        raise AttributeError(name)

    def build(
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        drop_rate: float | None = None,
        drop_path_rate: float | None = None,
        global_pool: str | None = None,
        input_size: Sequence[int] | None = None,
    ) -> nn.Module:
        """A classifier of timm, with the options that its networks share. None takes the default of timm.

        Args:
            drop_rate: dropout before the classifier, a probability.
            drop_path_rate: stochastic depth, a probability.
            global_pool: how positions are pooled: avg, max, avgmax, catavgmax; token of a ViT.
            input_size: of the image, for a network that is built for one size.
        """
        if spatial_dims != 2:
            raise InputError(f"network 'timm:{name}' is 2D, got {spatial_dims=}")
        chosen = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, "global_pool": global_pool}
        arguments: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
        known = timm.get_pretrained_cfg(name)
        if known and known.fixed_input_size and input_size is not None:
            arguments["img_size"] = tuple(input_size)
        arguments |= {"model_name": name, "in_chans": in_channels, "num_classes": out_channels}
        return Peer(build_peer(f"timm:{name}", timm.create_model, arguments), stride=None)

    return build
