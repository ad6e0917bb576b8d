"""Names to objects: registries, classes named by a string in a table, and checks of option names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

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
        """Add one row and return it. Raises ValueError for a name that is taken."""
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
    near = get_close_matches(str(wrong), names, n=3)
    if len(names) <= LISTED or not listing:
        return ", ".join([*near, *(name for name in names if name not in near)]) or "none"
    return f"{', '.join(near or names[:3])}, ...; '{listing}' lists all {len(names)}"


def locate(path: str) -> Any:
    """The object with this dotted path, ``package.module.Name``."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def option_names(target: Callable[..., Any]) -> list[str]:
    """Names of the keyword-only parameters of a callable: what a caller may choose."""
    parameters = inspect.signature(target).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def check_options(owner: str, options: Iterable[str], valid: Iterable[str]) -> None:
    """Raise InputError, naming the valid options, if ``options`` holds another."""
    names = set(valid)
    unknown = [name for name in options if name not in names]
    if unknown:
        listed = valid_names(unknown[0], names)
        raise InputError(f"{owner} has no option {', '.join(map(repr, unknown))}; valid: {listed}")
