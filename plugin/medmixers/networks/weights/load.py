"""Load a checkpoint into a network, in place, with a report on every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.mixers.random_mixing import NO_SEED
from medmixers.networks.metaformer import MetaFormerEncoder
from medmixers.networks.peers import Peer
from medmixers.networks.weights.fit import fit
from medmixers.networks.weights.formats import FORMATS, our_names, recognise
from medmixers.networks.weights.requirements import HEAD_OPTIONS, built_options, check_requirements, needed_options
from medmixers.networks.weights.sources import Checkpoint, open_source
from medmixers.networks.weights.transformer import (
    FORMAT,
    check_same_network,
    transformer_keys,
    transformer_weights,
)

HEAD_PREFIXES = ("norm.", "head.", "norms.", "decoder.")
OTHER_HEAD, OTHER_MIXER = "head of another task", "another token mixer"


@dataclass(frozen=True)
class LoadReport:
    """Report of :func:`load_weights` on each key.

    Args:
        loaded: keys loaded without a change.
        adapted: our key -> change that made it fit.
        skipped: key of the checkpoint -> reason for not using it.
        kept: our key -> reason for keeping its start value.
        format: the recognised format, a name of :data:`medmixers.networks.weights.formats.FORMATS`; "" for the
            network's own names.
        part: key of the file that held the tensors; "" for a bare state dict.
    """

    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    skipped: Mapping[str, str]
    kept: Mapping[str, str]
    format: str = ""
    part: str = ""

    def __str__(self) -> str:
        origin = f", format {self.format}" if self.format else ""
        origin += f", from {self.part!r}" if self.part else ""
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.adapted)} adapted{origin}"]
        for title, reasons in (("adapted", self.adapted), ("skipped", self.skipped), ("kept", self.kept)):
            for reason in dict.fromkeys(reasons.values()):
                keys = [key for key, why in reasons.items() if why == reason]
                lines.append(f"{title}, {reason}: {len(keys)}, {keys[0]}" + (" ..." if len(keys) > 1 else ""))
        return "\n".join(lines)


@dataclass
class _Plan:
    """What loading would do, key by key."""

    own: Mapping[str, Tensor]
    fitted: dict[str, Tensor] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    misfits: dict[str, str] = field(default_factory=dict)  # key -> why it does not fit
    of_classes: set[str] = field(default_factory=set)  # misfits that differ in the first axis only


def load_weights(
    network: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    warm_start: bool = False,
    other_classes: bool = False,
) -> LoadReport:
    """Load a checkpoint into a network, in place: exactly, or with the changes that the report names, or not at all.

    Every network takes its own names. MetaFormers also take those of timm, of Yu et al. and of Keuth et al., the
    released Token-UNet those of its authors, ResNet18 timm's, and another library's network those of its library.
    Where a checkpoint's network differs from this one in what no tensor shows (norms, epsilons, order of the head,
    heads of attention), loading raises and names the options to build with. A Token-UNet with blocks of timm takes the
    weights of these blocks alone too.

    Inflation fits 2D weights to a 3D network: a kernel is repeated along the new axis and divided by its length. A
    volume that is constant along that axis then gets the 2D network's answer away from the borders. The first
    convolution is adapted to other channel counts (:func:`medmixers.networks.weights.fit.adapt_input_channels`).
    A classification head with another number of classes is not loaded.

    Args:
        network: of :func:`medmixers.create_network`.
        source: a state dict, or a mapping that holds one; a file that torch wrote; or "timm:NAME", to download by timm.
            Moving averages (``state_dict_ema``) go before plain weights, as in timm.
        warm_start: allow other token mixers than the checkpoint's. Mixers are loaded if they fit, and everything else
            is loaded. Attention weights fit global and local attention (a local head of 16 channels takes half a head
            of 32). The checkpoint's positional embedding is not loaded into a network without one.
        other_classes: leave the last layers out where they have another number of classes, in segmentation too.

    Raises:
        ValueError: keys or shapes that do not fit, a network built of other parts, NaN or infinity, or a file without a
            state dict; nothing is loaded then.
        FileNotFoundError: no such file.
        OSError: timm could not download.
    """
    check_same_network(network, source)
    checkpoint = open_source(source)
    if (of_transformer := transformer_keys(network, checkpoint.tensors)) is not None:
        fitted, skipped, kept = transformer_weights(network, checkpoint.tensors, of_transformer)
        _load(network, fitted, source)
        return LoadReport(tuple(fitted), {}, skipped, kept, FORMAT, checkpoint.part)
    row = recognise(checkpoint.tensors, is_lightning=checkpoint.is_lightning)
    names = our_names(checkpoint.tensors, row) if row else {name: name for name in checkpoint.tensors}
    own = network.state_dict()
    if isinstance(network, Peer):
        row, names = None, {name: name if name in own else f"network.{name}" for name in checkpoint.tensors}
    if not own.keys() & set(names.values()):  # perhaps the network's own names, which look like another format's
        row, names = None, {name: name for name in checkpoint.tensors}
    if len(own.keys() & set(names.values())) < (1 if row else len(own) / 2):
        raise InputError(_another_kind(network, checkpoint))
    plan = _plan(network, {names[name]: value for name, value in checkpoint.tensors.items()}, other_classes)
    needed = needed_options(checkpoint, row) if row else {}
    with_head = {"head.weight", "head.fc2.weight"} & plan.fitted.keys() != set()
    if row:
        check_requirements(network, needed, title=f"{row.name}'s format", with_head=with_head, warm_start=warm_start)
        if not with_head and _has_other_head(network, needed):
            _leave_out_norm(plan)
    _check_misfits(plan, warm_start=warm_start)
    if warm_start:
        plan.skipped |= {name: OTHER_MIXER for name in plan.misfits if name not in own}
        plan.skipped |= {name: OTHER_MIXER for name in plan.misfits if name in names.values() and name in own}
        plan.kept |= {name: OTHER_MIXER for name in plan.misfits if name in own}
    plan.skipped |= dict.fromkeys(checkpoint.loss, "class weights of the loss")
    _load(network, plan.fitted, source)
    loaded = tuple(key for key in plan.fitted if key not in plan.adapted)
    return LoadReport(loaded, plan.adapted, plan.skipped, plan.kept, row.name if row else "", checkpoint.part)


def _load(network: nn.Module, fitted: Mapping[str, Tensor], source: str | Path | Mapping[str, Tensor]) -> None:
    held = {name: value for name, value in fitted.items() if not value.is_meta}
    if broken := [name for name, value in held.items() if not value.isfinite().all()]:
        whose = "the state dict" if isinstance(source, Mapping) else repr(str(source))
        raise InputError(f"{whose} holds NaN or infinity in {len(broken)} tensors, {broken[0]!r} for example")
    network.load_state_dict({**network.state_dict(), **fitted})


def _plan(network: nn.Module, state: Mapping[str, Tensor], other_classes: bool) -> _Plan:
    plan = _Plan(network.state_dict())
    first = _first_convolutions(plan.own, state)
    has_encoder = isinstance(getattr(network, "encoder", None), MetaFormerEncoder)
    heads = HEAD_PREFIXES if has_encoder else ()
    for key, value in state.items():
        own = plan.own.get(key)
        if key.startswith(heads[:2]) and (own is None or value.shape != own.shape):
            plan.skipped[key] = OTHER_HEAD
        elif own is None:
            plan.misfits[key] = "is not in the network"
        elif other_classes and value.shape[1:] == own.shape[1:] and value.shape[:1] != own.shape[:1]:
            plan.skipped[key], plan.kept[key] = OTHER_HEAD, OTHER_HEAD
        else:
            tensor, change = fit(value, own, is_first=key in first)
            if tensor is None:
                plan.misfits[key] = f"has shape {tuple(value.shape)}, the network's is {tuple(own.shape)}"
                plan.of_classes |= {key} if value.shape[1:] == own.shape[1:] else set()
                continue
            plan.fitted[key] = tensor
            if change:
                plan.adapted[key] = change
    for key, own in plan.own.items():
        if key in plan.fitted or key in plan.kept:
            continue
        if key.endswith(("qkv.bias", "proj.bias")) and key.removesuffix("bias") + "weight" in plan.fitted:
            plan.fitted[key] = torch.zeros_like(own)
            plan.adapted[key] = "set to zero: the checkpoint has no such bias"
        elif key.endswith(".seed") and key.removesuffix("seed") + "mixing" in plan.fitted:
            plan.fitted[key] = torch.full_like(own, NO_SEED)
            plan.adapted[key] = "marks a matrix without a seed"
        elif heads and key.startswith(heads):
            plan.kept[key] = OTHER_HEAD
        else:
            plan.misfits.setdefault(key, "is not in the checkpoint")
    return plan


def _first_convolutions(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """Kernels of the image: the first one, and others of its module with the same channels."""
    first = next((key for key, value in own.items() if value.ndim >= 4), None)
    if first is None or first not in state or state[first].ndim < 4:
        return set()
    before, after, module = state[first].shape[1], own[first].shape[1], first.partition(".")[0]
    return {
        key
        for key in own.keys() & state.keys()
        if key.partition(".")[0] == module
        and own[key].ndim >= 4
        and state[key].ndim >= 4
        and (state[key].shape[1], own[key].shape[1]) == (before, after)
    }


def _has_other_head(network: nn.Module, needed: Mapping[str, object]) -> bool:
    built = built_options(network)
    return any(built.get(name, [value]) != [value] for name, value in needed.items() if name in HEAD_OPTIONS)


def _leave_out_norm(plan: _Plan) -> None:
    for key in [key for key in plan.fitted if key.startswith("norm.")]:
        del plan.fitted[key]
        plan.skipped[key] = plan.kept[key] = OTHER_HEAD


def _check_misfits(plan: _Plan, *, warm_start: bool) -> None:
    """Raise ValueError for misfits. ``warm_start`` allows misfits of token mixers."""
    misfits = plan.misfits
    others = [key for key in misfits if not (".token_mixer." in key or key.endswith("pos_embedding"))]
    wrong = others if warm_start else list(misfits)
    if wrong:
        first = min(others or wrong)
        hint = "" if others else "; warm_start=True allows other token mixers"
        if set(wrong) <= plan.of_classes:
            hint = "; load_weights(..., other_classes=True) leaves out layers of another number of classes"
        raise InputError(f"{len(wrong)} keys do not fit, the first: {first} {misfits[first]}{hint}")


def _another_kind(network: nn.Module, checkpoint: Checkpoint) -> str:
    return (
        f"the checkpoint is of another kind of network: none of its {len(checkpoint.tensors)} names, "
        f"{min(checkpoint.tensors)!r} for example, is in {type(network).__name__}; valid: the network's own weights, "
        f"or a format of the same network ({', '.join(row.name for row in FORMATS)})"
    )
