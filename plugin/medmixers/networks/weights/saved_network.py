"""The network that a checkpoint of the papers' authors comes from, derived from its tensors and saved arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medmixers.errors import InputError
from medmixers.networks.weights.formats import our_names, recognise
from medmixers.networks.weights.requirements import HEAD_OPTIONS, MIXER_OPTIONS, needed_options
from medmixers.networks.weights.sources import open_source
from medmixers.variants import METAFORMER_SIZES, NETWORKS

# Token mixer that the names of its tensors in a block tell; pooling and identity have none.
MIXER_MARKS = (
    ("local_attention", "qkv.bias"),
    ("global_attention", "qkv.weight"),
    ("random_mixing", "mixing"),
    ("conv", "conv.weight"),
)
WITH_KERNEL = ("pooling", "local_attention", "conv", "grouped_conv")
# Option of mixers -> our default, and the mixers that have it.
INNER = {
    "head_dim": (16, {"global_attention", "local_attention"}),
    "full_attention_tokens": (64, {"local_attention"}),
    "identity_on_small_maps": (False, {"pooling"}),
}


@dataclass(frozen=True)
class SavedNetwork:
    """Arguments of ``create_network`` for a checkpoint.

    Args:
        format: of the checkpoint.
        name: of the network.
        spatial_dims, in_channels, out_channels: as of ``create_network``.
        options: all other options, but ``input_size``.
        input_size: image size that the network is bound to; None if it is not.
    """

    format: str
    name: str
    spatial_dims: int
    in_channels: int
    out_channels: int
    options: Mapping[str, Any]
    input_size: tuple[int, ...] | None = None


def saved_network(
    source: str | Path | Mapping[str, Tensor], *, mixer: str | None = None, kernel_size: int | None = None
) -> SavedNetwork:
    """The network of a checkpoint of Keuth et al. or of the released Token-UNet.

    Args:
        source: as of :func:`medmixers.networks.weights.load_weights`.
        mixer, kernel_size: of a checkpoint that does not tell them: pooling and identity have no tensors, local
            attention's tensors do not depend on its kernel, and a bare state dict has no saved arguments.

    Raises:
        ValueError: another format, or a checkpoint that does not tell its mixer or its kernel.
    """
    checkpoint = open_source(source)
    row = recognise(checkpoint.tensors, is_lightning=checkpoint.is_lightning)
    if row is None or row.name not in ("keuth2025", "MedMaxLab/tokenunet"):
        found = row.name if row else "an unknown one"
        raise InputError(
            f"no network can be derived from a checkpoint of this format ({found}): name the network; valid formats: "
            "keuth2025, MedMaxLab/tokenunet"
        )
    names = our_names(checkpoint.tensors, row)
    state = {names[name]: value for name, value in checkpoint.tensors.items()}
    if row.name == "MedMaxLab/tokenunet":
        return _token_unet(state)
    return _metaformer(state, needed_options(checkpoint, row), mixer, kernel_size)


def _token_unet(state: Mapping[str, Tensor]) -> SavedNetwork:
    stem, head = state["stem.branch.1.weight"], state["head.weight"]
    deepest = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("encoder."))
    widths = [state[f"encoder.{level}.branch.4.weight"].shape[0] for level in range(deepest)]
    tokens = state["token_learner.scores.weight"].shape[0] if "token_learner.scores.weight" in state else 0
    layers = {int(match[1]) for name in state if (match := re.match(r"token_processor\.(\d+)\.", name))}
    processor = "none"
    if layers:
        processor = "attention" if any(name.endswith(".qkv.weight") for name in state) else "mlp_mixer"
    found: dict[str, Any] = {"num_tokens": tokens, "token_processor": processor, "processor_layers": len(layers) or 2}
    rows = {name: row.arguments for name, row in NETWORKS.items() if name.startswith("token_unet_released")}
    name = next((name for name, fixed in rows.items() if {"processor_layers": 2, **fixed} == found), "")
    channels = (head.shape[1], *widths)
    options: dict[str, Any] = {} if channels == (16, 32, 64, 128) else {"channels": channels}
    if not name:
        name, options = "token_unet_released_8_attention", {**found, **options}
    return SavedNetwork("MedMaxLab/tokenunet", name, stem.ndim - 2, stem.shape[1], head.shape[0], options)


def _metaformer(
    state: Mapping[str, Tensor], needed: Mapping[str, Any], mixer: str | None, kernel_size: int | None
) -> SavedNetwork:
    stem, segments = state["encoder.stem.conv.weight"], "decoder.fuse.weight" in state
    last = state["decoder.seg_layers.0.weight" if segments else "head.weight"]
    size, options = _size(state)
    if needed["norm"] == "layer_norm":
        names = ("norm", "norm_eps", *HEAD_OPTIONS)
        options |= {name: needed[name] for name in names if name in needed}
    mixers, kernels = _mixers(state, needed, mixer, kernel_size)
    options["mixer"] = mixers[0] if len(set(mixers)) == 1 else tuple(mixers)
    if any(kernels):
        options["kernel_size"] = kernels[0] if len(set(kernels)) == 1 else tuple(kernels)
    embedded = [f"encoder.stages.{stage}.blocks.0.token_mixer.pos_embedding" in state for stage in range(4)]
    if any(embedded):
        options["positional_embedding"] = True if all(embedded) else tuple(embedded)
    inner = {}
    for name in MIXER_OPTIONS:
        default, owners = INNER[name]
        if needed.get(name, default) != default and owners & set(mixers):
            inner[name] = needed[name]
    options |= {"mixer_options": inner} if inner else {}
    if segments and state["decoder.fuse.weight"].shape[0] != 256:
        options["decoder_channels"] = state["decoder.fuse.weight"].shape[0]
    name = f"metaformer{'_segformer' if segments else ''}_{size}"
    dims = stem.ndim - 2
    return SavedNetwork("keuth2025", name, dims, stem.shape[1], last.shape[0], options, _input_size(state, dims))


def _input_size(state: Mapping[str, Tensor], spatial_dims: int) -> tuple[int, ...] | None:
    """The image size that the last stage's embedding or random matrix stands for; a matrix is taken for a cube's."""
    embedding = state.get("encoder.stages.3.blocks.0.token_mixer.pos_embedding")
    if embedding is not None:
        return tuple(32 * length for length in embedding.shape[2:])
    matrix = state.get("encoder.stages.3.blocks.0.token_mixer.mixing")
    return None if matrix is None else (32 * round(len(matrix) ** (1 / spatial_dims)),) * spatial_dims


def _size(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Name of the size; depths and dims as options of s12 where no size has them."""
    blocks = [[name for name in state if name.startswith(f"encoder.stages.{stage}.blocks.")] for stage in range(4)]
    depths = tuple(1 + max(int(name.split(".")[4]) for name in names) for names in blocks)
    dims = tuple(state[f"encoder.stages.{stage}.blocks.0.norm1.weight"].shape[0] for stage in range(4))
    for name, row in METAFORMER_SIZES.items():
        if (row.depths, row.dims) == (depths, dims):
            return name, {}
    return "s12", {"depths": depths, "dims": dims}


def _mixers(
    state: Mapping[str, Tensor], needed: Mapping[str, Any], mixer: str | None, kernel_size: int | None
) -> tuple[list[str], list[int | None]]:
    """Token mixer and kernel of each stage, from the saved arguments, the tensors, or what the caller says."""
    block = "encoder.stages.3.blocks.0.token_mixer."
    weight, told = state.get(f"{block}conv.weight"), needed.get("mixer")
    chosen = told[3] if told else _mixer_of_tensors(state, block) or mixer
    if chosen is None:
        raise InputError("the checkpoint does not tell its token mixer: give pooling or identity as the mixer")
    if mixer not in (None, chosen):
        raise InputError(f"the checkpoint is of token mixer {chosen!r}, not {mixer!r}")
    kernel = needed["kernel_size"][3] if "kernel_size" in needed else None if weight is None else weight.shape[-1]
    if None not in (kernel, kernel_size) and kernel != kernel_size:
        raise InputError(f"the checkpoint is of kernel size {kernel}, not {kernel_size}")
    kernel = (kernel or kernel_size) if chosen in WITH_KERNEL else None
    if chosen in WITH_KERNEL and kernel is None:
        raise InputError(f"the checkpoint does not tell the kernel size of {chosen}: give it")
    if needed["norm"] == "layer_norm":  # the pretrained hybrid
        return ["pooling", "pooling", chosen, chosen], [3, 3, kernel, kernel]
    return [chosen] * 4, [kernel] * 4


def _mixer_of_tensors(state: Mapping[str, Tensor], block: str) -> str | None:
    found = next((name for name, mark in MIXER_MARKS if f"{block}{mark}" in state), None)
    depthwise = found == "conv" and state[f"{block}conv.weight"].shape[1] == 1
    return "grouped_conv" if depthwise else found
