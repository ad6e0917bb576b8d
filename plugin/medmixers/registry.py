"""Names to objects: registries, classes named by a string in a table, and checks of options' names and types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from medmixers.errors import InputError

T = TypeVar("T")
LISTED = 10  # names that an error message lists


class UnknownNameError(KeyError, InputError):
    """A name that its table does not hold. The message gives the nearest valid names."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class Registry(Mapping[str, T]):
    """A read-only view of name -> object, filled through :meth:`register`.

    Args:
        kind: what the names stand for, in the singular ("token mixer"); used in the error messages.
        listing: the command that lists the names.
    """

    def __init__(self, kind: str, *, listing: str = "") -> None:
        self.kind = kind
        self.listing = listing
        self._items: dict[str, T] = {}

    def register(self, name: str, item: T) -> T:
        """Add one row and return it. Raises ValueError for a name that is in use."""
        if name in self._items:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._items[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except (KeyError, TypeError):
            valid = valid_names(name, self._items, listing=self.listing)
            raise UnknownNameError(f"unknown {self.kind} {name!r}; valid: {valid}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def valid_names(wrong: object, valid: Iterable[str], *, listing: str = "") -> str:
    """The valid names for an error message, the nearest to ``wrong`` first.

    More than ten names are shortened to the three nearest and the command that lists all of them.
    """
    names = sorted(set(valid))
    near = near_names(wrong, names)
    if len(names) <= LISTED or not listing:
        return ", ".join([*near, *(name for name in names if name not in near)]) or "none"
    return f"{', '.join(near or names[:3])}, ...; '{listing}' lists all {len(names)}"


def near_names(wrong: object, valid: Iterable[str]) -> list[str]:
    """At most three of the valid names, the nearest to ``wrong`` first; empty if none is near."""
    return get_close_matches(str(wrong), list(valid), n=3)


def locate(path: str) -> Any:
    """The object with this dotted path, ``package.module.Name``."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def option_names(target: Callable[..., Any]) -> list[str]:
    """Names of the keyword-only parameters of a callable: what a caller may choose."""
    parameters = inspect.signature(target).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def check_options(owner: str, options: Iterable[str], valid: Iterable[str], *, listing: str = "") -> None:
    """Raise InputError, naming the valid options, if ``options`` holds another.

    Args:
        owner: what has the options, as the message names it.
        options: the names to check.
        valid: the names that there are.
        listing: the command that lists the valid names.
    """
    names = set(valid)
    unknown = [name for name in options if name not in names]
    if unknown:
        listed = valid_names(unknown[0], names, listing=listing)
        raise InputError(f"{owner} has no option {', '.join(map(repr, unknown))}; valid: {listed}")


def check_types(owner: str, options: Mapping[str, Any], target: Callable[..., Any]) -> None:
    """Raise InputError for the first option with a value that the annotation of ``target``'s parameter excludes.

    Checked are keyword-only parameters of plain types and sequences of them. An integer is a number too.
    """
    parameters = inspect.signature(target, eval_str=True).parameters
    for name, value in options.items():
        known = name in parameters and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        if known and not _fits(value, parameters[name].annotation):
            wanted = type_name(parameters[name].annotation)
            raise InputError(f"{owner}: {name} must be {wanted}, got {value!r}")


def type_name(annotation: Any) -> str:
    """An annotation in words: ``Sequence[int] | None`` is "a sequence of integers or None"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, arguments))
    if origin in (Sequence, tuple):
        return f"a sequence of {_plural(arguments[0])}"
    if origin is Mapping:
        return "a mapping"
    return {**_NAMES, bool: "True or False", NoneType: "None"}.get(annotation, getattr(annotation, "__name__", "any"))


_NAMES: dict[Any, str] = {int: "an integer", float: "a number", str: "text"}


def _plural(annotation: Any) -> str:
    plural = {int: "integers", float: "numbers", str: "texts", bool: "True and False"}
    parts = list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]
    parts = [part for part in parts if part is not NoneType]
    names = [plural.get(part, type_name(part).replace("a sequence", "sequences")) for part in parts]
    return " or ".join(names)


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin in (Sequence, tuple):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if origin is tuple and Ellipsis not in arguments and len(value) != len(arguments):
            return False
        return all(_fits(item, arguments[0]) for item in value)
    if isinstance(value, bool):
        return annotation not in (int, float, str, NoneType) and origin is not Mapping
    plain: dict[Any, type] = {int: Integral, float: Real, bool: bool, str: str, NoneType: NoneType}
    return isinstance(value, plain.get(annotation, Mapping if origin is Mapping else object))
