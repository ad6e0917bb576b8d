"""Files that appear whole or not at all, and the one line that an error is worth. No torch here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path for a file or a folder that takes the name ``target`` at the end; nothing is left after an error.

    It has the target's own name, in a temporary folder beside it: writers that go by the ending find it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield folder / target.name
        os.replace(folder / target.name, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def first_line(error: BaseException) -> str:
    """What an error says in its first line that is not empty, or its kind where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def one_line(error: BaseException) -> str:
    """All that an error says, where its first line alone says too little."""
    return " ".join(str(error).split())
