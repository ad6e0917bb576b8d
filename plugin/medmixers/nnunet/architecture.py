"""The function that nnU-Net's plans name: it builds any segmentation network of this package.

nnU-Net resolves ``architecture.network_class_name`` of its plans with ``pydoc.locate`` and calls the result with
``input_channels``, ``num_classes``, ``arch_kwargs`` and ``deep_supervision``. The function returns the network without
a wrapper, so a checkpoint has the keys of ``medmixers.create_network``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from medmixers.errors import InputError
from medmixers.factory import create_network, needs_input_size
from medmixers.mixers import TOKEN_MIXERS
from medmixers.nnunet.strides import fitted_patch_size, is_nnunets_own, planned_strides, stride_options
from medmixers.registry import locate, option_names, valid_names
from medmixers.variants import NETWORKS

if TYPE_CHECKING:
    from torch import Tensor, nn

# Public API: every saved plans.json holds this path. Its last component is unique: where nnU-Net cannot import the
# path, it silently looks for that component in dynamic_network_architectures.
NETWORK_CLASS_NAME = "medmixers.nnunet.architecture.create_network_from_plans"
RUNTIME_VARIABLE = "MEDMIXERS_RUNTIME"
RUNTIMES = ("torch", "openvino")
# Limit for mixers that relate all pairs of a stage's tokens: 32^3 tokens are 10^9 pairs per block, and a random matrix
# of 4 GiB.
MOST_PAIRWISE_TOKENS = 32**3
# nnU-Net weighs the outputs of deep supervision 1, 1/2, 1/4, ..., sets the last weight to 0 and divides by their sum.
FEWEST_OUTPUTS = 2


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

    The heads of deep supervision exist whether it is on or off, so the state dict is the same. Off, they are frozen:
    distributed training waits for the gradient of every trainable parameter. A network without such heads returns its
    own logits at full and at half size: nnU-Net gives the last output no weight.

    Args:
        input_channels: channels of the image, with the previous stage's one-hot labels in a cascade.
        num_classes: channels of the logits: classes with background, or regions.
        deep_supervision: return a list of logits; nnU-Net switches ``network.decoder.deep_supervision`` later.
        name: a segmentation network of :func:`medmixers.list_networks`.
        spatial_dims: 2 or 3.
        strides: downsampling of each level and axis, the first all ones; :func:`plans_architecture` writes them. None
            takes the published strides and no heads.
        options: options of :func:`medmixers.create_network`; lists, JSON's only sequences, become tuples.

    Environment: MEDMIXERS_RUNTIME=openvino lets OpenVINO compute a network that is built without deep supervision, as
    nnUNetv2_predict builds it, on a CPU: :func:`medmixers.bundle_runtime.openvino_inference.openvino_compile`.

    Returns:
        The module. It maps (B, input_channels, *spatial) to logits (B, num_classes, *spatial), or to a list of them.

    Raises:
        InputError: a classifier's name, deep supervision without strides or with a single output, strides that the
            network cannot have, or the errors of :func:`medmixers.create_network`.
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
        if deep_supervision:
            check_outputs(name, strides)
        if is_nnunets_own(name):
            if deep_supervision:
                network.train_all_heads()
        elif not has_heads:
            supervise_by_halved_logits(network)
        network.decoder.deep_supervision = deep_supervision
        if has_heads and not deep_supervision:
            network.decoder.seg_layers[1:].requires_grad_(False)
    if runtime_from_environment() == "openvino" and not deep_supervision:
        from medmixers.bundle_runtime.openvino_inference import openvino_compile  # it imports torch's tools for ONNX

        openvino_compile(network)
    return network


def runtime_from_environment() -> str:
    """What computes the predictions, by MEDMIXERS_RUNTIME. Raises InputError for another name than ``RUNTIMES`` has."""
    runtime = os.environ.get(RUNTIME_VARIABLE, RUNTIMES[0])
    if runtime not in RUNTIMES:
        raise InputError(f"{RUNTIME_VARIABLE} must be {' or '.join(RUNTIMES)}, got {runtime!r}")
    return runtime


def plans_architecture(
    name: str,
    *,
    patch_size: Sequence[int],
    pools: Sequence[Sequence[int]],
    options: Mapping[str, Any],
    kernels: Sequence[Sequence[int]] | None = None,
) -> tuple[dict[str, Any], list[int]]:
    """The ``architecture`` entry of a configuration in nnU-Net's plans, and the patch size that fits it.

    Args:
        name: a segmentation network.
        patch_size: in voxels, as nnU-Net planned it.
        pools: the strides that nnU-Net planned for its U-Net, the first all ones; ours follow them as far as they go.
        options: of :func:`medmixers.create_network`; a stem_stride becomes part of the strides.
        kernels: the kernel sizes per level that nnU-Net planned; its own networks take them.

    Returns:
        The entry, ready for JSON, and ``patch_size`` rounded up to a multiple of the strides.

    Raises:
        InputError: a classifier's name, or a network with too few levels for deep supervision.
    """
    check_segmentation(name)
    strides = planned_strides(name, options, patch_size=patch_size, pools=pools)
    check_outputs(name, strides)
    patch = fitted_patch_size(patch_size, strides)
    arguments = {key: value for key, value in options.items() if key not in ("stem_stride", "stage_strides", "strides")}
    if is_nnunets_own(name) and kernels is not None:
        arguments.setdefault("kernel_sizes", [list(kernel) for kernel in kernels])
    if needs_input_size(name, options):
        arguments["input_size"] = patch
    architecture = {
        "network_class_name": NETWORK_CLASS_NAME,
        "arch_kwargs": {"name": name, "spatial_dims": len(patch), "strides": strides, **arguments},
        "_kw_requires_import": [],
    }
    return architecture, patch


def check_segmentation(name: str) -> None:
    """Raise InputError, naming the nearest valid ones, unless ``name`` is a segmentation network."""
    if NETWORKS[name].task != "segmentation":
        valid = [key for key, row in NETWORKS.items() if row.task == "segmentation"]
        listed = valid_names(name, valid, listing="medmixers list networks")
        raise InputError(f"network {name!r} is not a segmentation network; valid: {listed}")


def check_outputs(name: str, strides: Sequence[Sequence[int]]) -> None:
    """Raise InputError unless nnU-Net can weigh the outputs of deep supervision: one per level but the lowest."""
    outputs = len(strides) - 1
    if outputs < FEWEST_OUTPUTS:
        raise InputError(
            f"network {name!r} with these options has {outputs} output(s) for deep supervision, and nnU-Net needs "
            f"{FEWEST_OUTPUTS}: with fewer its loss is NaN. Give the network more levels (channels, or depths and dims)"
        )


def network_option_names(name: str) -> list[str]:
    """Options of this network that ``create_network`` takes, without ``pretrained``."""
    row = NETWORKS[name]
    return option_names(locate(row.target)) + (option_names(locate(row.encoder)) if row.encoder else [])


def stage_tokens(architecture: Mapping[str, Any], patch_size: Sequence[int]) -> list[int]:
    """Number of tokens that the mixers of each stage see; empty for a network without token mixers."""
    row = architecture["arch_kwargs"]
    dims, strides = {**NETWORKS[row["name"]].arguments, **row}.get("dims", ()), row["strides"]
    levels = range(len(strides) - len(dims) + 1, len(strides) + 1)
    steps = [[prod(axis) for axis in zip(*strides[:level], strict=True)] for level in levels]
    return [prod(-(-size // step) for size, step in zip(patch_size, stage, strict=True)) for stage in steps]


def pairwise_excess(architecture: Mapping[str, Any], patch_size: Sequence[int]) -> str:
    """Message for a network with too many tokens to relate all pairs of them; empty where it has not."""
    row = architecture["arch_kwargs"]
    tokens = stage_tokens(architecture, patch_size)
    mixers = {**NETWORKS[row["name"]].arguments, **row}.get("mixer", ())
    mixers = [mixers] * len(tokens) if isinstance(mixers, str) else mixers
    for stage, (count, mixer) in enumerate(zip(tokens, mixers, strict=False), start=1):  # the network checks lengths
        if TOKEN_MIXERS[mixer].pairwise and count > MOST_PAIRWISE_TOKENS:
            patch = " x ".join(map(str, patch_size))
            return (
                f"{row['name']} with {mixer} relates all pairs of tokens: a patch of {patch} has {count} in "
                f"stage {stage}, the limit is {MOST_PAIRWISE_TOKENS}"
            )
    return ""


def supervise_by_halved_logits(network: Any) -> None:
    """Add nnU-Net's switch to a network without heads by a forward hook: without a wrapper its keys stay."""
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
