"""``create_network`` and the lists of names. torch is imported when a network is built, not before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmixers.mixers import TOKEN_MIXERS
from medmixers.registry import check_options, locate, option_names
from medmixers.variants import NETWORKS

if TYPE_CHECKING:
    from torch import nn


def list_networks() -> list[str]:
    """Names that :func:`create_network` takes."""
    return sorted(NETWORKS)


def list_mixers() -> list[str]:
    """Names that the option ``mixer`` of the MetaFormer networks takes."""
    return sorted(TOKEN_MIXERS)


def stage_mixers(name: str, options: Mapping[str, Any]) -> set[str]:
    """Token mixers of a network with these options; empty for one that has none."""
    mixer = {**NETWORKS[name].arguments, **options}.get("mixer", ())
    return {mixer} if isinstance(mixer, str) else set(mixer)


def needs_input_size(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a network with these options is built for one image size, and takes it as ``input_size``."""
    chosen = {**NETWORKS[name].arguments, **options}
    mixers = stage_mixers(name, options)
    return (
        NETWORKS[name].size_bound
        or bool(chosen.get("positional_embedding"))
        or any(TOKEN_MIXERS[mixer].size_bound for mixer in mixers)
    )


def create_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    pretrained: str | Path | None = None,
    warm_start: bool = False,
    activation_checkpointing: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a network by its name, untrained unless ``pretrained`` is given.

    Args:
        name: one of :func:`list_networks`.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes (or sigmoid channels) of the logits.
        pretrained: a weights file, or "timm:NAME"; see :func:`medmixers.networks.weights.load_weights`, which also
            reports what it did. MetaFormer networks only.
        warm_start: let ``pretrained`` come from a network with other token mixers.
        activation_checkpointing: in training compute each block's activations again in the backward pass, which
            saves memory and costs a second forward. The same results, random numbers and keys of the state dict.
        options: what the network's and its encoder's constructors take by keyword, for example ``mixer``,
            ``kernel_size``, ``norm``; they override what the name fixes.

    Returns:
        The module. It maps images (B, in_channels, *spatial) to logits, (B, out_channels) of a classifier and
        (B, out_channels, *spatial) of a segmentation network.

    Raises:
        ValueError: an unknown name or option (the message lists the valid ones), a value out of range, or weights
            that do not fit.
        OSError: weights that cannot be found or downloaded.
    """
    from medmixers.layers.conv import check_positive, check_spatial_dims

    check_spatial_dims(spatial_dims)
    check_positive(in_channels=in_channels, out_channels=out_channels)
    network = _build(name, spatial_dims, in_channels, out_channels, options)
    if pretrained is not None:
        from medmixers.networks.weights import load_weights

        load_weights(network, pretrained, warm_start=warm_start)
    if activation_checkpointing:
        from medmixers.layers.checkpointing import checkpoint_blocks

        checkpoint_blocks(network, [locate(path) for path in NETWORKS[name].blocks])
    if NETWORKS[name].fast:
        from medmixers.kernels.fast_module import install

        install(network, [locate(path) for path in NETWORKS[name].fast])
    return network


def _build(name: str, spatial_dims: int, in_channels: int, out_channels: int, options: Mapping[str, Any]) -> nn.Module:
    row = NETWORKS[name]
    target = locate(row.target)
    encoder = locate(row.encoder) if row.encoder else None
    encoder_names = option_names(encoder) if encoder else []
    arguments = {**row.arguments, **options}
    check_options(f"network {name!r}", arguments, option_names(target) + encoder_names)
    own = {key: value for key, value in arguments.items() if key not in encoder_names}
    if encoder is None:
        return target(spatial_dims, in_channels, out_channels, **own)
    shared = {key: value for key, value in arguments.items() if key in encoder_names}
    return target(encoder(spatial_dims, in_channels, **shared), out_channels, **own)
