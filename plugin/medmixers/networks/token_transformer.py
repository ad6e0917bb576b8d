"""What stands between TokenLearner and TokenFuser: the published Transformer, blocks of timm, or a module of a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from medmixers.errors import InputError
from medmixers.registry import locate
from medmixers.variants import NETWORKS

LAYERS, HEADS = 4, 8  # of the published Transformer


def published_transformer(dim: int, *, layers: int, heads: int) -> nn.Module:
    """Pre-norm encoder layers without positional embedding (section 3.3), (B, N, dim) -> the same shape."""
    if layers and dim % heads:
        raise InputError(f"tokens of width {dim} cannot be split into transformer_heads={heads}")
    arguments: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    return nn.Sequential(*(nn.TransformerEncoderLayer(dim, heads, 4 * dim, **arguments) for _ in range(layers)))


def named_transformer(
    name: str, dim: int, *, num_tokens: int, layers: int | None, options: Mapping[str, Any]
) -> nn.Module:
    """A module over tokens, (B, num_tokens, dim) -> the same shape, by the name of :class:`TokenUNet`'s option.

    Args:
        name: "timm:NAME", or the dotted path of a module's class, which is built with ``dim`` and ``num_tokens``.
        layers: of timm's network the first ones; None takes all.
        options: further arguments of the class.
    """
    library, _, own = name.rpartition(":")
    if library:
        path = f"{NETWORKS[name].target.rpartition('.')[0]}.token_blocks"
        arguments: tuple[Any, ...] = (own, dim)
        options = {"num_tokens": num_tokens, "layers": layers}
    else:
        path, arguments = name, (dim, num_tokens)
    try:
        target = locate(path)
    except (ImportError, AttributeError, ValueError) as error:
        missing = f"cannot be imported: {error}"
        if library and isinstance(error, AttributeError):
            missing = "has no blocks over tokens"
        raise InputError(f"transformer {name!r} {missing}; valid: timm:NAME, or package.module.Class") from error
    if not library and not (isinstance(target, type) and issubclass(target, nn.Module)):
        raise InputError(f"transformer {name!r} is no class of torch.nn.Module; valid: timm:NAME, or such a class")
    try:
        module: nn.Module = target(*arguments, **options)
    except TypeError as error:
        raise InputError(f"transformer {name!r} with options {dict(options)} cannot be built: {error}") from error
    return module


def check_transformer(
    name: str | None, layers: int | None, heads: int | None, options: Mapping[str, Any] | None
) -> None:
    """Raise InputError for an option that this transformer does not read."""
    given = {"transformer_layers": layers, "transformer_heads": heads, "transformer_options": options}
    read: tuple[str, ...] = ("transformer_layers", "transformer_heads")
    if name is not None:
        read = read[:1] if ":" in name else ("transformer_options",)
    if wrong := [option for option, value in given.items() if value is not None and option not in read]:
        raise InputError(f"transformer {name!r} has no option {', '.join(wrong)}; valid: {', '.join(read)}")
    if name is not None and layers is not None and layers < 1:
        raise InputError(f"transformer {name!r} needs at least 1 layer, got transformer_layers={layers}")
