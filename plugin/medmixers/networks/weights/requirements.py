"""What a checkpoint's names do not tell: norms, epsilons, head order, heads of attention. It must fit all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from medmixers.errors import InputError
from medmixers.layers.activations import ACTIVATIONS
from medmixers.layers.norms import ChannelLayerNorm
from medmixers.mixers import TOKEN_MIXERS
from medmixers.networks.blocks import MetaFormerBlock
from medmixers.networks.classifier import MetaFormerClassifier, MLPHead
from medmixers.networks.metaformer import MetaFormerEncoder
from medmixers.networks.token_unet_released import AttentionLayer
from medmixers.networks.weights.formats import WeightFormat
from medmixers.networks.weights.sources import Checkpoint
from medmixers.registry import locate

HEAD_OPTIONS = ("head_order", "head_norm", "head_norm_eps", "head_mlp_eps")
MIXER_OPTIONS = ("head_dim", "full_attention_tokens", "identity_on_small_maps")
OF_MIXERS = (*MIXER_OPTIONS, "mixer", "kernel_size")
KEUTH_MIXERS = {  # their option `tokenmixer` -> our name
    "loc_attn": "local_attention",
    "full_attn": "global_attention",
    "pooling": "pooling",
    "conv": "conv",
    "sep_conv": "grouped_conv",
    "identity": "identity",
    "random": "random_mixing",
}


def needed_options(checkpoint: Checkpoint, row: WeightFormat) -> dict[str, Any]:
    """Options of the network that the checkpoint comes from. ``mixer`` is one name per stage.

    They come from the format's rules and, for Keuth et al., from the arguments that Lightning saved.
    """
    needed: dict[str, Any] = {}
    for rule in row.rules:
        if not rule.pattern or any(re.search(rule.pattern, name) for name in checkpoint.tensors):
            needed |= rule.options
    if row.name != "keuth2025":
        return needed
    stem = next(value for name, value in checkpoint.tensors.items() if name.endswith("patch_embed.proj.weight"))
    if stem.ndim == 5:  # the released 3D code
        needed |= {"full_attention_tokens": 63, "identity_on_small_maps": True}
    else:
        needed |= {"full_attention_tokens": 64, "identity_on_small_maps": False}
    training = checkpoint.training
    theirs = training.get("tokenmixer", training.get("token_mixer"))
    if theirs is None:
        return needed
    if theirs not in KEUTH_MIXERS:
        raise InputError(f"the checkpoint was trained with token mixer {theirs!r}; valid: {', '.join(KEUTH_MIXERS)}")
    mixer, kernel = KEUTH_MIXERS[theirs], training.get("kernel_size")
    is_hybrid = needed["norm"] == "layer_norm"
    needed["mixer"] = ("pooling", "pooling", mixer, mixer) if is_hybrid else (mixer,) * 4
    if kernel is not None and not (mixer == "pooling" and "token_mixer" in training and stem.ndim == 4):
        needed["kernel_size"] = (3, 3, kernel, kernel) if is_hybrid else (kernel,) * 4
    if "head_dim" in training and needed.get("head_dim") == 16:
        needed["head_dim"] = training["head_dim"]
    return needed


def built_options(network: nn.Module) -> dict[str, list[Any]]:
    """Option -> the values that the network is built with, from its modules; ``mixer`` and its kernel by stage."""
    built: dict[str, list[Any]] = {}
    if isinstance(network, MetaFormerClassifier):
        built["head_order"] = ["pool_norm" if network.pool_first else "norm_pool"]
        built["head_norm"], built["head_norm_eps"] = [[value] for value in _norm_of(network.norm)]
        if isinstance(network.head, MLPHead):
            built["head_mlp_eps"] = [network.head.norm.eps]
    encoder = getattr(network, "encoder", None)
    if isinstance(encoder, MetaFormerEncoder):
        blocks = [block for block in encoder.modules() if isinstance(block, MetaFormerBlock)]
        norms = [_norm_of(block.norm1) for block in blocks]
        built["norm"], built["norm_eps"] = [name for name, _ in norms], [eps for _, eps in norms]
        built["activation"] = [
            _activation_of(block.mlp.get_submodule("act")) for block in blocks if block.mlp is not None
        ]
        mixers: list[Any] = [block.token_mixer for block in blocks]
        built["head_dim"] = [mixer.proj.in_features // mixer.heads for mixer in mixers if hasattr(mixer, "heads")]
        for option in ("full_attention_tokens", "identity_on_small_maps"):
            built[option] = [getattr(mixer, option) for mixer in mixers if hasattr(mixer, option)]
    built["attention_heads"] = [layer.heads for layer in network.modules() if isinstance(layer, AttentionLayer)]
    return built


def check_requirements(
    network: nn.Module, needed: Mapping[str, Any], *, title: str, with_head: bool, warm_start: bool
) -> None:
    """Raise InputError, with the options to build with, unless the network is built as the checkpoint's is.

    Args:
        network: that will load the checkpoint.
        needed: as of :func:`needed_options`.
        title: of the checkpoint, for the message.
        with_head: whether the head is loaded too.
        warm_start: whether the token mixers may differ.
    """
    skipped = (*(() if with_head else HEAD_OPTIONS), *(OF_MIXERS if warm_start else ()))
    wrong = {name: value for name, value in _misbuilt(network, needed) if name not in skipped}
    if wrong:
        options = {name: value for name, value in wrong.items() if name not in MIXER_OPTIONS}
        inner = {name: value for name, value in wrong.items() if name in MIXER_OPTIONS}
        if inner:
            options["mixer_options"] = inner
        listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise InputError(
            f"the checkpoint is of {title}, and this network would give other results with its weights: build the "
            f"network with {listed}"
        )


def _misbuilt(network: nn.Module, needed: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    built = built_options(network)
    for name, value in needed.items():
        if any(other != value for other in built.get(name, ())):
            yield name, value
    encoder = getattr(network, "encoder", None)
    if isinstance(encoder, MetaFormerEncoder) and "mixer" in needed:
        if any(name != other for name, other in zip(needed["mixer"], stage_mixers(encoder), strict=False)):
            yield "mixer", needed["mixer"]
        elif any(
            mixer in ("pooling", "local_attention") and other != kernel
            for mixer, other, kernel in zip(
                needed["mixer"], _kernels(encoder), needed.get("kernel_size", ()), strict=False
            )
        ):
            yield "kernel_size", needed["kernel_size"]


def stage_mixers(encoder: MetaFormerEncoder) -> list[str]:
    """Name of each stage's token mixer; "" for a class that is not in the table."""
    names = {locate(row.target): name for name, row in TOKEN_MIXERS.items()}
    return [names.get(type(mixer), "") for mixer in _first_mixers(encoder)]


def _kernels(encoder: MetaFormerEncoder) -> list[Any]:
    return [getattr(mixer, "kernel_size", None) for mixer in _first_mixers(encoder)]


def _first_mixers(encoder: MetaFormerEncoder) -> Sequence[nn.Module]:
    stages = [[block for block in stage.modules() if isinstance(block, MetaFormerBlock)] for stage in encoder.stages]
    return [blocks[0].token_mixer if blocks else nn.Identity() for blocks in stages]


def _norm_of(norm: nn.Module) -> tuple[str, float | None]:
    if isinstance(norm, ChannelLayerNorm):
        return "layer_norm", norm.eps
    if isinstance(norm, nn.GroupNorm):
        return "group_norm" if norm.num_groups == 1 else "", norm.eps
    return ("none", None) if isinstance(norm, nn.Identity) else ("batch_norm", getattr(norm, "eps", None))


def _activation_of(activation: nn.Module) -> str:
    for name, create in ACTIVATIONS.items():
        made = create()
        same_keys = made.state_dict().keys() == activation.state_dict().keys()
        if type(made) is type(activation) and same_keys:
            return name
    return ""
