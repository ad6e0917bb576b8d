"""The options of a network, read from its constructors' signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from fire import docstrings

from medmixers.registry import locate, option_names, type_name
from medmixers.variants import NETWORKS


def network_options(network: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each option. Importing the network imports torch."""
    row = NETWORKS[network]
    for path in filter(None, (row.target, row.encoder)):
        target = locate(path)
        parameters = inspect.signature(target, eval_str=True).parameters
        meanings = _meanings(target)
        for name in option_names(target):
            default = row.arguments.get(name, parameters[name].default)
            yield name, type_name(parameters[name].annotation), _default(default), meanings.get(name, "")


def _meanings(target: Any) -> dict[str, str]:
    """Name -> meaning, from the section Args; "depths, dims: ..." documents both."""
    found = docstrings.parse(inspect.getdoc(target) or "").args or []
    return {name.strip(): _plain(each.description) for each in found for name in each.name.split(",")}


def _plain(text: str) -> str:
    """Without the marks of a docstring: ``x`` and :data:`x`."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
