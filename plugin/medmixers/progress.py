"""Progress on stderr where a person waits. Silent where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Announce = Callable[[str], None]


def progress(items: Iterable[T], what: str, *, total: int | None = None) -> Iterable[T]:
    """``items`` with a bar that counts them.

    Args:
        items: what is worked on, one by one.
        what: name of the work.
        total: number of items; None takes their length, where they have one.
    """
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, disable=None, leave=False)


@contextmanager
def steps(what: str) -> Iterator[Announce]:
    """A function that shows the name of the step that begins, with the number of steps and the time so far."""
    from tqdm import tqdm

    bar = "{desc}: step {n_fmt}, {elapsed}{postfix}"
    with tqdm(desc=what, disable=None, leave=False, bar_format=bar) as shown:

        def announce(step: str) -> None:
            shown.set_postfix_str(step, refresh=False)
            shown.update()
            shown.refresh()

        yield announce


def note(line: str) -> None:
    """Write a line to stderr, above a bar that is shown."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def silent(step: str) -> None:
    """Announce nothing."""
