"""Networks of MONAI by name, ``monai:SwinUNETR``, untrained.

The module has a builder for each of their names, with MONAI's own options as keyword-only parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from medmixers.errors import InputError
from medmixers.networks.peers import Peer, build_peer
from medmixers.variants import NETWORKS

STRIDE = 32  # MONAI's segmentation networks take sizes that their strides divide; five halvings are the most
SIZE = "img_size"
# What create_network passes by position -> the names that MONAI gives it.
GIVEN = (("spatial_dims",), ("in_channels", "n_input_channels"), ("out_channels", "num_classes"))
HIDDEN = {"pretrained", "progress", "weights", "self"}  # no peer starts from downloaded weights
# Functions that take their class's options as **kwargs.
CLASSES = {"resnet": "ResNet", "se": "SENet", "densenet": "DenseNet"}
FIXED_BY_NAME = {"block", "layers", "block_inplanes", "groups", "reduction"}


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if f"monai:{name}" not in NETWORKS:
        raise AttributeError(name)
    build, options = _monai(name)
    if NETWORKS[f"monai:{name}"].size_bound:
        options["input_size"] = inspect.Parameter("input_size", inspect.Parameter.KEYWORD_ONLY, default=None)
    positional = [inspect.Parameter(each[0], inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in GIVEN]
    build.__signature__ = inspect.Signature([*positional, *options.values()])  # type: ignore[attr-defined]
    build.__doc__ = f"MONAI's {name}, with its own options."
    return build


def _monai(network: str) -> tuple[Callable[..., nn.Module], dict[str, inspect.Parameter]]:
    nets = import_module("monai.networks.nets")
    target = getattr(nets, network)
    parameters = dict(inspect.signature(target).parameters)
    passes_on = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for start, name in CLASSES.items():
        if passes_on and network.lower().startswith(start):
            own = inspect.signature(getattr(nets, name)).parameters.items()
            parameters = {**{key: each for key, each in own if key not in FIXED_BY_NAME}, **parameters}
    names = [next((name for name in each if name in parameters), "") for each in GIVEN]
    taken = {*names, *HIDDEN, SIZE, "image_size"}
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    options = {key: _option(each) for key, each in parameters.items() if key not in taken and each.kind not in kinds}
    segments, sized = NETWORKS[f"monai:{network}"].task == "segmentation", SIZE in parameters

    def build(spatial_dims: int, in_channels: int, out_channels: int, **chosen: Any) -> nn.Module:
        missing = [key for key, each in options.items() if each.default is each.empty and key not in chosen]
        if missing:
            raise InputError(f"network 'monai:{network}' needs the option {', '.join(missing)}")
        if not names[0] and spatial_dims != 3:
            raise InputError(f"network 'monai:{network}' is 3D, got {spatial_dims=}")
        given = dict(zip(names, (spatial_dims, in_channels, out_channels), strict=True))
        arguments = {**{key: value for key, value in given.items() if key}, **_sized(chosen, sized)}
        if "pretrained" in parameters:
            arguments["pretrained"] = False
        if network == "ViT":
            arguments["classification"] = True
        peer = build_peer(f"monai:{network}", target, arguments)
        return Peer(peer, stride=STRIDE if segments and not sized else None)

    return build, options


def _option(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Any)


def _sized(chosen: Mapping[str, Any], sized: bool) -> dict[str, Any]:
    """The options with ``input_size`` under the peer's own name, for one that is built for an image size."""
    arguments = dict(chosen)
    size = arguments.pop("input_size", None)
    if sized and size is not None:
        arguments[SIZE] = tuple(size)
    return arguments
