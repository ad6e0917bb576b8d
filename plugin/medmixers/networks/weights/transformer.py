"""Weights of a Transformer of timm for the bottleneck of a Token-UNet that is built with its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.networks.weights.sources import TIMM_PREFIX

FORMAT = "timm (Transformer over tokens)"
PARTS = ("norm_pre.", "blocks.", "norm.")
NO_TOKENS, LATER, REST = "no part of the Transformer over tokens", "a later block", "no part of the Transformer"


def transformer_keys(network: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, str] | None:
    """Key of a checkpoint -> key of a Token-UNet with a Transformer of timm; None unless the checkpoint is of such one.

    Args:
        network: any.
        tensors: of the checkpoint.
    """
    has_blocks = any(name.startswith("blocks.") for name in tensors)
    if not has_blocks or not _source(network) or any(name.startswith("transformer.") for name in tensors):
        return None
    return {name: f"transformer.{name}" for name in tensors if name.startswith(PARTS)}


def check_same_network(network: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Raise InputError for weights that timm has under another name: heads and activations leave no trace in them."""
    own = _source(network)
    if own and isinstance(source, str) and source.startswith(TIMM_PREFIX) and source.partition(".")[0] != own:
        raise InputError(f"the Transformer over the tokens is {own!r}, and the weights are of {source!r}")


def transformer_weights(
    network: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Tensors for the network; key of the checkpoint -> reason for not using it; our key -> reason for keeping it.

    Raises:
        InputError: a tensor of the Transformer is missing or has another shape.
    """
    own = network.state_dict()
    wanted = {key for key in own if key.startswith("transformer.")}
    blocks = {key.split(".")[2] for key in wanted if key.startswith("transformer.blocks.")}
    fitted, skipped = dict[str, Tensor](), dict[str, str]()
    for name, value in tensors.items():
        key = names.get(name, "")
        if key.startswith("transformer.blocks.") and key.split(".")[2] not in blocks:
            skipped[name] = LATER
        elif not key:
            skipped[name] = NO_TOKENS
        elif key not in own:
            raise InputError(f"{name!r} of the checkpoint is not in the Transformer {_source(network)!r}")
        elif own[key].shape != value.shape:
            raise InputError(
                f"{name!r} has shape {tuple(value.shape)}, the Transformer over the tokens {tuple(own[key].shape)}"
            )
        else:
            fitted[key] = value
    if missing := wanted - fitted.keys():
        raise InputError(f"the checkpoint lacks {len(missing)} tensors of the Transformer, the first: {min(missing)!r}")
    return fitted, skipped, {key: REST for key in own if key not in fitted}


def _source(network: nn.Module) -> str:
    """Name of the blocks over the tokens, "timm:NAME"; "" for a network without."""
    return str(getattr(getattr(network, "transformer", None), "source", ""))
