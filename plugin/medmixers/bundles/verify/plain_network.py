"""Build the network of a config from plain values: with the installed code, and without evaluating anything."""

from __future__ import annotations

import re
from pydoc import locate as locate_class
from typing import Any

from medmixers.bundles.verify.subject import SkippedCheck, demand
from medmixers.bundles.verify.targets import installed_path
from medmixers.registry import locate

CREATE = ("medmixers.create_network", "medmixers.factory.create_network")
ENSEMBLE = "medmixers.bundle_runtime.nnunet_inference.FoldEnsemble"
OUR_PLANS = "medmixers.nnunet.architecture.create_network_from_plans"
NNUNET = re.compile(r"dynamic_network_architectures\.architectures\.\w+\.\w+")
LAYER = re.compile(r"torch\.nn\.(modules\.\w+\.)?\w+|dynamic_network_architectures\.building_blocks\.\w+\.\w+")
REFERENCE = re.compile(r"@\w+")
RESERVED = ("_target_", "_requires_", "_disabled_", "_desc_", "_mode_")
OPTIONS = ("pretrained", "warm_start")  # of create_network, which would read a file or the network


def plain_network(config: dict[str, Any]) -> Any:
    """The network of a config's ``network_def``, in evaluation mode on the device "meta".

    Raises:
        SkippedCheck: it is not one of this package or of nnU-Net, or its options need evaluation.
        FailedCheck: there is no such entry.
    """
    import torch

    definition = config.get("network_def")
    demand(isinstance(definition, dict), f"network_def must be an object with a _target_, got {str(definition)[:80]!r}")
    target = installed_path(config["network_def"].get("_target_"))
    plain = {key: _plain(value, config) for key, value in config["network_def"].items() if key not in RESERVED}
    if target in CREATE:
        plain = {key: value for key, value in plain.items() if key not in OPTIONS}
    elif target == ENSEMBLE:
        _check_architecture(plain.get("architecture"))
    else:
        raise SkippedCheck(f"{target} is not of the installed package; without --static the bundle's code runs")
    with torch.device("meta"):
        return locate(target)(**plain).eval()


def _plain(value: Any, config: dict[str, Any]) -> Any:
    """A value with its references to other plain entries put in."""
    if isinstance(value, str) and REFERENCE.fullmatch(value):
        value = config.get(value[1:])
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise SkippedCheck(f"network_def holds {value[:60]!r}; without --static it is evaluated")
    if isinstance(value, dict):
        return {key: _plain(item, config) for key, item in value.items()}
    return [_plain(item, config) for item in value] if isinstance(value, list) else value


def _check_architecture(architecture: Any) -> None:
    """Allow nnU-Net's networks and ours, and torch's layers: plans name classes by any dotted path."""
    demand(isinstance(architecture, dict), "network_def has no architecture")
    name, arguments = installed_path(architecture.get("network_class_name")), architecture.get("arch_kwargs", {})
    architecture["network_class_name"] = name
    if name != OUR_PLANS and not NNUNET.fullmatch(name):
        raise SkippedCheck(f"the plans name the network {name}; without --static it is built")
    for key in architecture.get("_kw_requires_import", ()):
        path = arguments.get(key)
        found = locate_class(path) if isinstance(path, str) and LAYER.fullmatch(path) else None
        if path is not None and not isinstance(found, type):
            raise SkippedCheck(f"the plans name {path!r} as {key}; without --static it is imported")
