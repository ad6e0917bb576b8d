"""The parameters of commands, read from their signatures, for reading words and for help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, get_args

Command = Callable[..., Any]
Size = tuple[int, ...]  # the annotation of a flag such as 96,96,96


def commands_of(group: Any) -> dict[str, Command]:
    """Name -> command: the methods of a group's class, or a group of one command."""
    return {name: getattr(group(), name) for name in vars(group) if not name.startswith("_")}


def declared(command: Command) -> list[inspect.Parameter]:
    """Parameters with a name of their own; a command may take free options too."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]


def free(command: Command) -> inspect.Parameter | None:
    """The parameter for free options of a network, or for the words of another command; None without one."""
    parameters = inspect.signature(command).parameters.values()
    return next((each for each in parameters if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)), None)


def usage(path: Sequence[str], command: Command) -> str:
    """``medmixers demo data OUT [--FLAG VALUE ...]``."""
    required = [each for each in declared(command) if each.default is each.empty]
    words = ["medmixers", *path, *(each.name.upper() for each in required if each.kind is not each.KEYWORD_ONLY)]
    rest = free(command)
    if rest is not None and rest.kind is rest.VAR_POSITIONAL:
        words.append(f"[{rest.name.upper()} ...]")
        words += [f"--{each.name} VALUE" for each in required if each.kind is each.KEYWORD_ONLY]
    elif rest is not None or any(each.default is not each.empty for each in declared(command)):
        words.append("[--FLAG VALUE ...]")
    return " ".join(words)


def kind_of(parameter: inspect.Parameter) -> Any:
    """The type of its value: ``int`` for ``int | None``."""
    annotation = parameter.annotation
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    return kinds[0] if isinstance(annotation, UnionType) else annotation
