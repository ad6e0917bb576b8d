"""Networks of MONAI and classifiers of timm, by name: ``monai:SwinUNETR``, ``timm:convnext_tiny``.

The module has an attribute for each of these names: a builder with the peer's own options as keyword-only parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.sizes import crop, pad_for_instance_norm
from medmixers.registry import valid_names
from medmixers.variants import NETWORKS, PEER

STRIDE = 32  # MONAI's segmentation networks take sizes that their strides divide; five halvings are the most
SIZE = "img_size"
# What create_network passes by position -> the names that MONAI gives it.
GIVEN = (("spatial_dims",), ("in_channels", "n_input_channels"), ("out_channels", "num_classes"))
HIDDEN = {"pretrained", "progress", "weights", "self"}  # no peer starts from downloaded weights
# Functions that take their class's options as **kwargs.
CLASSES = {"resnet": "ResNet", "se": "SENet", "densenet": "DenseNet"}
FIXED_BY_NAME = {"block", "layers", "block_inplanes", "groups", "reduction"}
TIMM_OPTIONS = ("drop_rate", "drop_path_rate", "global_pool")


class Peer(nn.Module):
    """A network that may need a multiple of 32 as size, and may return more than its logits.

    Args:
        network: images (B, in_channels, *spatial) to logits, or to a sequence that starts with them.
        pads: pad the end of each axis to a multiple of 32 and crop the logits.
    """

    def __init__(self, network: nn.Module, *, pads: bool) -> None:
        super().__init__()
        self.network, self.pads = network, pads

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) -> logits, (B, K) or (B, K, *spatial)."""
        logits = self.network(pad_for_instance_norm(x, STRIDE) if self.pads else x)
        logits = logits if isinstance(logits, Tensor) else logits[0]
        return crop(logits, x.shape[2:]) if self.pads else logits


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if not PEER.fullmatch(name):
        raise AttributeError(name)
    library, _, network = name.partition(":")
    build, options = _timm(network) if library == "timm" else _monai(network)
    if NETWORKS[name].size_bound:
        options["input_size"] = inspect.Parameter("input_size", inspect.Parameter.KEYWORD_ONLY, default=None)
    positional = [inspect.Parameter(each[0], inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in GIVEN]
    build.__signature__ = inspect.Signature([*positional, *options.values()])  # type: ignore[attr-defined]
    build.__doc__ = f"{name}, with the options of its library."
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
        return _built(f"monai:{network}", target, arguments, pads=segments and not sized)

    return build, options


def _timm(network: str) -> tuple[Callable[..., nn.Module], dict[str, inspect.Parameter]]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = {name: inspect.Parameter(name, keyword, default=None) for name in TIMM_OPTIONS}

    def build(spatial_dims: int, in_channels: int, out_channels: int, **chosen: Any) -> nn.Module:
        import timm

        if spatial_dims != 2:
            raise InputError(f"network 'timm:{network}' is 2D, got {spatial_dims=}")
        if not timm.is_model(network):
            valid = valid_names(network, timm.list_models(), listing="timm.list_models()")
            raise InputError(f"timm has no network {network!r}; valid: {valid}")
        fixed = bool((timm.get_pretrained_cfg(network) or timm.models.PretrainedCfg()).fixed_input_size)
        arguments = _sized({key: value for key, value in chosen.items() if value is not None}, fixed)
        return _built(
            f"timm:{network}",
            timm.create_model,
            {"model_name": network, "in_chans": in_channels, "num_classes": out_channels, **arguments},
            pads=False,
        )

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


def _built(name: str, target: Callable[..., nn.Module], arguments: Mapping[str, Any], *, pads: bool) -> nn.Module:
    with torch.device("cpu"):  # some read values of tensors; the meta device has none
        try:
            network = target(**arguments)
        except (ValueError, TypeError, KeyError, AssertionError, RuntimeError) as error:
            raise InputError(f"network {name!r} cannot be built: {error}") from error
    return Peer(network, pads=pads).to(torch.get_default_device())
