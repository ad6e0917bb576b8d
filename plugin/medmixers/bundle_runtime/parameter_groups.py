"""Layer-wise learning rates for fine-tuning, and their schedule: layers near the image learn slower."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from monai.optimizers import WarmupCosineSchedule

from medmixers.errors import InputError

if TYPE_CHECKING:
    from torch import nn

# Layers in the order of the forward pass: a group of names, and their numbers. What follows, the head or decoder,
# is the last layer. As in timm, a downsampling belongs to the block after it.
STEM = re.compile(r"(?:encoder\.)?stem\.")
NUMBERED = (
    re.compile(r"(?:encoder|stages|encoder\.stages)\.(\d+)\.(?:blocks\.)?(\d+)?"),
    re.compile(r"(?:transformer|token_processor)\.(\d+)\."),
)


def parameter_groups(network: nn.Module, *, learning_rate: float, layer_decay: float | None) -> list[Any]:
    """What an optimizer takes as ``params``: all parameters alike, or one group per layer with its learning rate.

    The rule of timm and BEiT: layer i of n has the learning rate ``learning_rate * layer_decay ** (n - 1 - i)``. The
    stem is the first layer, each block of the encoder is one, and decoder or head are the last. Weight decay stays that
    of the optimizer. Frozen parameters are left out.

    Args:
        network: of :func:`medmixers.create_network`, or a wrapper for distributed training.
        learning_rate: of the last layer.
        layer_decay: factor from one layer to the layer before it, above 0 and at most 1; None: no groups.

    Raises:
        InputError: ``layer_decay`` out of range, or a network without numbered layers.
    """
    if layer_decay is None:
        return list(network.parameters())
    if isinstance(layer_decay, bool) or not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay must be above 0 and at most 1, got {layer_decay!r}")
    places = layer_places([name for name, _ in network.named_parameters()])
    layers = sorted(set(places.values()))
    if len(layers) < 3:
        raise InputError(f"layer_decay: {type(network).__name__} has no stem and numbered stages to decay over")
    groups: dict[int, list[nn.Parameter]] = {index: [] for index in range(len(layers))}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[layers.index(places[name])].append(parameter)
    return [
        {"params": members, "lr": learning_rate * layer_decay ** (len(layers) - 1 - index)}
        for index, members in groups.items()
        if members
    ]


class WarmupCosine(WarmupCosineSchedule):
    """MONAI's schedule; ``end_lr`` is the end of the largest learning rate, and smaller ones end lower in proportion.

    MONAI's own would raise the rates of early layers to ``end_lr``.
    """

    def get_lr(self) -> list[float]:
        """The learning rate of each group."""
        largest = max(self.base_lrs)
        factor = self.lr_lambda(self.last_epoch)
        if self.last_epoch >= self.warmup_steps and largest > 0:
            factor = max(factor, self.end_lr / largest)
        return [rate * factor for rate in self.base_lrs]


def layer_places(names: list[str]) -> dict[str, tuple[int, ...]]:
    """Name of a parameter -> place of its layer; places sort in the order of the forward pass."""
    return {name: _place(name.removeprefix("module.")) for name in names}


def _place(name: str) -> tuple[int, ...]:
    if STEM.match(name):
        return (0,)
    for group, pattern in enumerate(NUMBERED, start=1):
        if found := pattern.match(name):
            return (group, *(int(number) for number in found.groups(default="0")))
    return (len(NUMBERED) + 1,)
