"""The one rule that divides cases: every n-th of the sorted names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from medmixers.errors import InputError

PARTS = ("training", "validation", "test")
Name = TypeVar("Name", str, int)


def every_nth(names: Iterable[Name], *, every: int, fold: int = 0) -> set[Name]:
    """Of the sorted names without repetition, number ``fold`` and every n-th after it.

    Args:
        names: of cases or groups.
        every: n.
        fold: number of the first one, from 0 to n - 1. Validation takes fold 0 by default; converters set the last
            one apart to test.
    """
    return set(sorted(set(names))[fold::every])


def check_part(part: str) -> None:
    """Raise InputError for an unknown part of a data set."""
    if part not in PARTS:
        raise InputError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
