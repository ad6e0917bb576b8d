"""Small instances of every network, and their counts: what the tests and the tables of all networks are made from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from medmixers.factory import create_network
from medmixers.registry import locate
from medmixers.variants import NETWORKS

# Options that make a network small, by name; a value for each stage is cut to the stages that the network has.
SMALL: Mapping[str, Any] = {
    "depths": (1, 1, 1, 1),
    "dims": (32, 32, 64, 64),  # heads of 32 channels
    "channels": (16, 16, 32, 32, 32),
    "decoder_channels": 16,
    "med_depth": 1,
    "processor_layers": 2,
}
SIZE_OPTIONS = ("depths", "dims", "layer_scale_init")  # what the names of one family differ in
COUNTED_AT = {2: (224, 224), 3: (96, 96, 96)}  # image sizes of the networks that are bound to one


def defaults(name: str) -> dict[str, Any]:
    """Every option of the network ``name`` with its value."""
    row, options = NETWORKS[name], {}
    for target in filter(None, (row.target, row.encoder)):
        for parameter in inspect.signature(locate(target)).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                options[parameter.name] = parameter.default
    return {**options, **row.arguments}


def small_options(name: str) -> dict[str, Any]:
    """Options that make the network ``name`` small; none for those whose width is fixed."""
    own = defaults(name)
    return {
        key: value[: len(own[key])] if isinstance(value, tuple) else value for key, value in SMALL.items() if key in own
    }


def create_small(
    name: str, size: Sequence[int], *, in_channels: int = 2, out_channels: int = 3, **options: Any
) -> nn.Module:
    """The network ``name`` with :func:`small_options`, for images of ``size`` where it is bound to one."""
    fixed = {"input_size": tuple(size)} if "input_size" in defaults(name) else {}
    return create_network(
        name,
        spatial_dims=len(size),
        in_channels=in_channels,
        out_channels=out_channels,
        **{**small_options(name), **fixed, **options},
    )


def families() -> dict[str, list[str]]:
    """Names of the networks that differ in depths and widths alone, by a pattern such as ``poolformer_*``.

    Those that need an encoder from elsewhere (RAD-DINO) are left out: it says how they train, size and export.
    """
    groups: dict[str, list[str]] = {}
    for name, row in NETWORKS.items():
        if "encoder" in defaults(name):
            continue
        shape = {key: value for key, value in row.arguments.items() if key not in SIZE_OPTIONS}
        stages = len(row.arguments.get("dims", ()))
        groups.setdefault(repr((row.target, stages, sorted(shape.items()))), []).append(name)
    return {names[0] if len(names) == 1 else f"{names[0].rpartition('_')[0]}_*": names for names in groups.values()}


def forms() -> list[tuple[str, int]]:
    """A network of each family with 2 and 3 dimensions.

    Networks of fixed width, MONAI's, in 2D only: a U-Net of 84 million parameters in 3D takes half a minute per check.
    """
    names = [family[0] for family in families().values()]
    return [(name, dims) for name in names for dims in ((2, 3) if small_options(name) else (2,))]


class FrozenViTB(nn.Module):
    """Stands for an encoder that is not loaded, where only what is trained above it counts."""

    config = SimpleNamespace(hidden_size=768, image_size=518, patch_size=14, num_hidden_layers=12)
    layernorm = nn.Identity()


def count_parameters(name: str, spatial_dims: int) -> int | None:
    """Trainable numbers of the network ``name`` for 1 input channel and 2 outputs; None where it has no such form.

    A network that is bound to an image size is counted at 224 x 224 or 96 x 96 x 96.
    """
    options: dict[str, Any] = {"spatial_dims": spatial_dims, "in_channels": 1, "out_channels": 2}
    if "encoder" in defaults(name):
        options["encoder"] = FrozenViTB()
    if NETWORKS[name].encoder is not None:
        options["input_size"] = COUNTED_AT[spatial_dims]
    try:
        with torch.device("meta"):
            network = create_network(name, **options)
    except ValueError:
        return None
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
