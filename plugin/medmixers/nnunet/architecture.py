"""What nnU-Net's plans name: one function that builds any segmentation network of this package.

nnU-Net resolves ``architecture.network_class_name`` of its plans with ``pydoc.locate`` and calls the result
with ``input_channels``, ``num_classes``, ``arch_kwargs`` and ``deep_supervision``. The function returns the
plain network and no wrapper, so a checkpoint's keys are those of ``medmixers.create_network``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medmixers.factory import create_network
from medmixers.variants import NETWORKS

if TYPE_CHECKING:
    from torch import nn

# Public API: it stands in every saved plans.json. Its last component is unique because nnU-Net, when it
# cannot import the path, silently looks for that component in dynamic_network_architectures.
NETWORK_CLASS_NAME = "medmixers.nnunet.architecture.create_network_from_plans"


def create_network_from_plans(
    input_channels: int,
    num_classes: int,
    deep_supervision: bool = False,
    *,
    name: str,
    spatial_dims: int,
    **options: Any,
) -> nn.Module:
    """Build the network that nnU-Net's plans describe.

    Args:
        input_channels: channels of the image, with the previous stage's one-hot labels in a cascade.
        num_classes: channels of the logits: classes with background, or regions.
        deep_supervision: must be False: the networks return one tensor.
        name: a segmentation network of :func:`medmixers.list_networks`.
        spatial_dims: 2 or 3.
        options: options of :func:`medmixers.create_network`; lists, JSON's only sequences, become tuples.

    Returns:
        The module, which maps (B, input_channels, *spatial) to logits (B, num_classes, *spatial).

    Raises:
        ValueError: deep supervision, a classifier's name, or what :func:`medmixers.create_network` raises.
    """
    if deep_supervision:
        raise ValueError(
            f"network {name!r} has no deep supervision heads, got deep_supervision=True; "
            "train it with a trainer of medmixers, which turns it off"
        )
    if NETWORKS[name].task != "segmentation":
        valid = ", ".join(sorted(key for key, row in NETWORKS.items() if row.task == "segmentation"))
        raise ValueError(f"network {name!r} is no segmentation network; valid: {valid}")
    return create_network(
        name,
        spatial_dims=spatial_dims,
        in_channels=input_channels,
        out_channels=num_classes,
        **{key: _tuples(value) for key, value in options.items()},
    )


def plans_architecture(name: str, *, spatial_dims: int, **options: Any) -> dict[str, Any]:
    """The ``architecture`` entry of a configuration in nnU-Net's plans, ready for JSON.

    ``strides``, which stock plans hold, is left out: nnU-Net 2.8 reads it for deep supervision's scales only.
    """
    return {
        "network_class_name": NETWORK_CLASS_NAME,
        "arch_kwargs": {"name": name, "spatial_dims": spatial_dims, **options},
        "_kw_requires_import": [],
    }


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
