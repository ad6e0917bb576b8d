"""What nnU-Net's plans name: one function that builds any segmentation network of this package.

nnU-Net resolves ``architecture.network_class_name`` of its plans with ``pydoc.locate`` and calls the result
with ``input_channels``, ``num_classes``, ``arch_kwargs`` and ``deep_supervision``. The function returns the
plain network and no wrapper, so a checkpoint's keys are those of ``medmixers.create_network``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from medmixers.errors import InputError
from medmixers.factory import create_network, needs_input_size
from medmixers.mixers import TOKEN_MIXERS
from medmixers.nnunet.strides import fitted_patch_size, planned_strides, stride_options
from medmixers.registry import locate, option_names
from medmixers.variants import NETWORKS

if TYPE_CHECKING:
    from torch import Tensor, nn

# Public API: it stands in every saved plans.json. Its last component is unique because nnU-Net, when it
# cannot import the path, silently looks for that component in dynamic_network_architectures.
NETWORK_CLASS_NAME = "medmixers.nnunet.architecture.create_network_from_plans"
# Attention and random mixing relate all pairs of a stage's tokens; at 32^3 of them a step already takes 2 * 10^9 pairs
# in each block, and a random matrix 4 GiB.
MOST_PAIRWISE_TOKENS = 32**3


def create_network_from_plans(
    input_channels: int,
    num_classes: int,
    deep_supervision: bool = False,
    *,
    name: str,
    spatial_dims: int,
    strides: Sequence[Sequence[int]] | None = None,
    **options: Any,
) -> nn.Module:
    """Build the network that nnU-Net's plans describe.

    The heads of deep supervision exist whether it is on or off, so the state dict is the same; off, they are frozen,
    because a head that takes no part in the loss would stop a distributed training. A network without such heads
    returns its own logits at half size beside the full ones: nnU-Net gives the last output no weight.

    Args:
        input_channels: channels of the image, with the previous stage's one-hot labels in a cascade.
        num_classes: channels of the logits: classes with background, or regions.
        deep_supervision: return a list of logits; nnU-Net switches ``network.decoder.deep_supervision`` later.
        name: a segmentation network of :func:`medmixers.list_networks`.
        spatial_dims: 2 or 3.
        strides: downsampling of each level and axis, the first all ones; :func:`plans_architecture` writes it. None:
            the published strides, and no heads.
        options: options of :func:`medmixers.create_network`; lists, JSON's only sequences, become tuples.

    Returns:
        The module, which maps (B, input_channels, *spatial) to logits (B, num_classes, *spatial), or to a list of them.

    Raises:
        ValueError: a classifier's name, deep supervision without strides, strides that the network cannot have, or
            what :func:`medmixers.create_network` raises.
    """
    check_segmentation(name)
    if deep_supervision and strides is None:
        raise InputError(f"deep supervision of network {name!r} needs strides in the plans' arch_kwargs, got none")
    options = {key: _tuples(value) for key, value in options.items()}
    if strides is not None:
        options.update(stride_options(name, strides, options))
    has_heads = "aux_heads" in network_option_names(name)
    if has_heads and strides is not None:
        options["aux_heads"] = True
    network: Any = create_network(
        name, spatial_dims=spatial_dims, in_channels=input_channels, out_channels=num_classes, **options
    )
    if strides is not None:
        if not has_heads:
            supervise_by_halved_logits(network)
        network.decoder.deep_supervision = deep_supervision
        if has_heads and not deep_supervision:
            network.decoder.seg_layers[1:].requires_grad_(False)
    return network


def plans_architecture(
    name: str, *, patch_size: Sequence[int], pools: Sequence[Sequence[int]], options: Mapping[str, Any]
) -> tuple[dict[str, Any], list[int]]:
    """The ``architecture`` entry of a configuration in nnU-Net's plans, and the patch size that fits it.

    Args:
        name: a segmentation network.
        patch_size: in voxels, as nnU-Net planned it.
        pools: the strides that nnU-Net planned for its U-Net, the first all ones; ours follow them as far as they go.
        options: of :func:`medmixers.create_network`; a stem_stride becomes part of the strides.

    Returns:
        The entry, ready for JSON, and ``patch_size`` rounded up to a multiple of the strides.
    """
    check_segmentation(name)
    strides = planned_strides(name, options, patch_size=patch_size, pools=pools)
    patch = fitted_patch_size(patch_size, strides)
    arguments = {key: value for key, value in options.items() if key not in ("stem_stride", "stage_strides", "strides")}
    if needs_input_size(name, options):
        arguments["input_size"] = patch
    architecture = {
        "network_class_name": NETWORK_CLASS_NAME,
        "arch_kwargs": {"name": name, "spatial_dims": len(patch), "strides": strides, **arguments},
        "_kw_requires_import": [],
    }
    return architecture, patch


def check_segmentation(name: str) -> None:
    """Raise ValueError, naming the valid ones, unless ``name`` is a segmentation network."""
    if NETWORKS[name].task != "segmentation":
        valid = ", ".join(sorted(key for key, row in NETWORKS.items() if row.task == "segmentation"))
        raise InputError(f"network {name!r} is no segmentation network; valid: {valid}")


def network_option_names(name: str) -> list[str]:
    """Options that ``create_network`` takes for this network, without ``pretrained``."""
    row = NETWORKS[name]
    return option_names(locate(row.target)) + (option_names(locate(row.encoder)) if row.encoder else [])


def stage_tokens(architecture: Mapping[str, Any], patch_size: Sequence[int]) -> list[int]:
    """Positions of the feature map that the token mixers of each stage see; empty for a network without them."""
    row = architecture["arch_kwargs"]
    dims, strides = {**NETWORKS[row["name"]].arguments, **row}.get("dims", ()), row["strides"]
    levels = range(len(strides) - len(dims) + 1, len(strides) + 1)
    steps = [[prod(axis) for axis in zip(*strides[:level], strict=True)] for level in levels]
    return [prod(-(-size // step) for size, step in zip(patch_size, stage, strict=True)) for stage in steps]


def pairwise_excess(architecture: Mapping[str, Any], patch_size: Sequence[int]) -> str:
    """Why a network has too many tokens to relate all pairs of them; empty if it has not."""
    row = architecture["arch_kwargs"]
    tokens = stage_tokens(architecture, patch_size)
    mixers = {**NETWORKS[row["name"]].arguments, **row}.get("mixer", ())
    mixers = [mixers] * len(tokens) if isinstance(mixers, str) else mixers
    for stage, (count, mixer) in enumerate(zip(tokens, mixers, strict=False), start=1):  # the network tells too few
        if TOKEN_MIXERS[mixer].pairwise and count > MOST_PAIRWISE_TOKENS:
            patch = " x ".join(map(str, patch_size))
            return (
                f"{row['name']} with {mixer} relates all pairs of tokens: a patch of {patch} has {count} in "
                f"stage {stage}, the limit is {MOST_PAIRWISE_TOKENS}"
            )
    return ""


def supervise_by_halved_logits(network: Any) -> None:
    """Give a network without heads nnU-Net's switch, by a forward hook: no wrapper, so its keys stay."""
    from torch import nn

    if not hasattr(network, "decoder"):
        network.decoder = nn.Module()
    network.register_forward_hook(_with_halved_logits)


def _with_halved_logits(network: Any, _: Any, logits: Tensor) -> Tensor | list[Tensor]:
    from medmixers.layers.sizes import resize

    if not network.decoder.deep_supervision:
        return logits
    return [logits, resize(logits, [max(1, round(size / 2)) for size in logits.shape[2:]])]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
