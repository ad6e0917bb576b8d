"""Replace the token mixers of a trained network, stage by stage, and put them back.

Modules are known by the names of their classes: a packed bundle carries its own copy of them, in a package named after
this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.mixers.pooling import Pooling

REPLACEMENTS = ("identity", "pooling", "mean")
MIXER_OF_BLOCK = {"MetaFormerBlock": "token_mixer", "MEDBlock": "sem"}  # class of a block -> its token mixer
QKV_ATTENTION = ("GlobalAttention", "LocalAttention", "DilatedAttention", "AttentionLayer")
OWN = re.compile(r"(medmixers(_[0-9a-f]{8})?|torch)\.")  # timm has a MetaFormerBlock too
TOKEN_POOLING, TOKEN_SPREADING = "TokenPooling", "TokenSpreading"  # to tokens and back, in Token-UNet


class FirstInput(nn.Module):
    """Return the first input, whatever follows."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """x: (B, C, *spatial) -> the same tensor."""
        return x


@dataclass
class Place:
    """Where a network mixes tokens: the blocks of one stage, or the tokens of a Token-UNet.

    Args:
        name: "stage 1", "tokens" or "attention of tokens".
        path: of the stage's blocks in the network.
        mixer: names of the mixers' classes.
        slots: parent and attribute of each mixer, which "identity" and "pooling" replace.
        attentions: modules whose attention "mean" makes uniform.
        has_shape: whether a mixer gives a map of its input's shape, which "pooling" needs.
    """

    name: str
    path: str
    mixer: str
    slots: list[tuple[nn.Module, str]] = field(default_factory=list)
    attentions: list[nn.Module] = field(default_factory=list)
    has_shape: bool = True

    @property
    def replacements(self) -> list[str]:
        """Replacements that this place can have."""
        can = {"identity": bool(self.slots), "pooling": bool(self.slots) and self.has_shape}
        return [name for name in REPLACEMENTS if can.get(name, bool(self.attentions))]


def places_of(network: nn.Module) -> list[Place]:
    """All places, in the order of the network.

    Raises:
        InputError: the network has none.
    """
    stages: dict[str, Place] = {}
    for name, module in network.named_modules():
        attribute = next((MIXER_OF_BLOCK[kind] for kind in _kinds(module) if kind in MIXER_OF_BLOCK), None)
        if attribute is None:
            continue
        path, mixer = name.rpartition(".")[0], getattr(module, attribute)
        place = stages.setdefault(path, Place(f"stage {len(stages) + 1}", path, _snake(mixer)))
        place.slots.append((module, attribute))
        place.attentions += [each for each in mixer.modules() if _is(each, *QKV_ATTENTION)]
    found = [*stages.values(), *_token_places(network)]
    if not found:
        raise InputError(
            f"{type(network).__name__} has no token mixer that can be replaced: our networks with MetaFormer or MED "
            "blocks or with tokens have"
        )
    return found


def _token_places(network: nn.Module) -> list[Place]:
    """The tokens of a Token-UNet, and the attention among them."""
    tokens, attention = Place("tokens", "", "", has_shape=False), Place("attention of tokens", "", "")
    for name, module in network.named_modules():
        parent = network.get_submodule(name.rpartition(".")[0])
        if _is(module, TOKEN_SPREADING):
            tokens.slots.append((parent, name.rpartition(".")[2]))
        elif _is(module, TOKEN_POOLING):
            tokens.path, tokens.mixer = name, _snake(module)
            tokens.attentions.append(module)
        elif _is(module, "MultiheadAttention", "AttentionLayer"):
            attention.path, attention.mixer = attention.path or name.rpartition(".")[0], _snake(module)
            attention.attentions.append(module)
    return [place for place in (tokens, attention) if place.attentions] if tokens.attentions else []


@contextmanager
def replaced(network: nn.Module, places: Sequence[Place], replacement: str, *, kernel_size: int = 3) -> Iterator[None]:
    """Within this context the mixers of some places are replaced. Afterwards the network is as before.

    Args:
        network: that the places were found in.
        places: each must have the replacement.
        replacement: "identity": the mixer returns its input; the tokens of a Token-UNet add nothing. "pooling": local
            average minus the input, as :class:`medmixers.mixers.pooling.Pooling`. "mean": attention with equal weights
            over all keys that a query attends to.
        kernel_size: of "pooling".
    """
    kept: list[tuple[nn.Module, str, nn.Module]] = []
    zeroed: list[tuple[Tensor, Tensor]] = []
    try:
        for place in places:
            if replacement == "mean":
                parts = [part for module in place.attentions for part in _score_weights(module)]
                zeroed += [(part, part.clone()) for part in parts]
                for part in parts:
                    part.zero_()
                continue
            for parent, attribute in place.slots:
                kept.append((parent, attribute, getattr(parent, attribute)))
                new = FirstInput() if replacement == "identity" else _pooling(network, kernel_size)
                setattr(parent, attribute, new)
        yield
    finally:
        for parent, attribute, module in kept:
            setattr(parent, attribute, module)
        for part, before in zeroed:
            part.copy_(before)


def _pooling(network: nn.Module, kernel_size: int) -> Pooling:
    dims = next(vars(module)["spatial_dims"] for module in network.modules() if "spatial_dims" in vars(module))
    return Pooling(1, spatial_dims=dims, kernel_size=kernel_size)  # it learns nothing, so any number of channels fits


def _score_weights(module: nn.Module) -> list[Tensor]:
    """Parameters that decide on attention: with zeros, all scores are equal, and so all weights of a softmax."""
    if _is(module, TOKEN_POOLING):
        last = [each for each in module.get_submodule("scores").modules() if isinstance(each, nn.Linear)][-1]
        layers = [(last.weight, last.bias, last.out_features)]
    elif isinstance(module, nn.MultiheadAttention):
        layers = [(module.in_proj_weight, module.in_proj_bias, module.embed_dim)]
    else:
        qkv = module.get_submodule("qkv")
        assert isinstance(qkv, nn.Linear)
        layers = [(qkv.weight, qkv.bias, qkv.out_features // 3)]  # the queries come first
    return [part.detach()[:rows] for *parts, rows in layers for part in parts if part is not None]


def _kinds(module: nn.Module) -> list[str]:
    return [kind.__name__ for kind in type(module).__mro__ if OWN.match(kind.__module__)]


def _is(module: nn.Module, *names: str) -> bool:
    return any(kind in names for kind in _kinds(module))


def _snake(module: nn.Module) -> str:
    """GroupedConv -> grouped_conv, as the tables of networks and mixers name it."""
    kinds = [kind for kind in _kinds(module) if not kind.startswith("Fast")]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kinds[0]).lower()
