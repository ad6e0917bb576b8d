"""Freeze parts of a network, for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medmixers.errors import InputError
from medmixers.layers.conv import is_integer
from medmixers.registry import valid_names


def freeze(network: nn.Module, frozen: int | Sequence[str]) -> None:
    """Exclude parameters from training: their gradients are not computed, and optimizers leave them as they are.

    Args:
        network: changed in place.
        frozen: names of modules, for example ("encoder",) or ("encoder.stem", "encoder.stages.0"); or a number of
            stages of a MetaFormer's encoder, counted from the stem, which is frozen too.

    Raises:
        ValueError: a module or a number of stages that the network does not have.
    """
    for name in _stages(network, frozen) if is_integer(frozen) else _names(frozen):
        modules = dict(network.named_modules())
        if name not in modules or not name:
            tops = [child for child, _ in network.named_children()]
            raise InputError(
                f"frozen: there is no module {name!r}; valid: {valid_names(name, tops)}, and modules in them"
            )
        modules[name].requires_grad_(False)


def _names(frozen: int | Sequence[str]) -> list[str]:
    if isinstance(frozen, str) or not isinstance(frozen, Sequence) or not all(isinstance(n, str) for n in frozen):
        raise InputError(f"frozen must be a number of stages or a sequence of modules' names, got {frozen!r}")
    return list(frozen)


def _stages(network: nn.Module, frozen: object) -> list[str]:
    stages = getattr(getattr(network, "encoder", None), "stages", None)
    if not isinstance(stages, nn.ModuleList):
        raise InputError(f"frozen={frozen!r}: {type(network).__name__} has no stages to count; name its modules")
    count = int(str(frozen))
    if not 0 <= count <= len(stages):
        raise InputError(f"frozen must be 0 to {len(stages)} stages, got {count}")
    return ["encoder.stem", *(f"encoder.stages.{stage}" for stage in range(count))] if count else []
