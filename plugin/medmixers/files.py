"""Atomic writes, and the check that an output does not overwrite an input."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medmixers.errors import InputError

RAW_FOLDERS = ("imagesTr", "imagesTs", "labelsTr", "labelsTs")  # nnU-Net's raw data


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path for a file or a folder that takes the name ``target`` at the end; nothing is left after an error.

    The path has the target's own name, in a temporary folder next to it: some writers choose the format by the ending.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield folder / target.name
        os.replace(folder / target.name, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_overwriting_inputs(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that could replace an input or nnU-Net's raw data. Nothing is written or read here.

    Refused: an output that is an input (also through a link, or in other capitals on a file system that ignores them),
    a folder that directly holds an input file, and any place inside imagesTr, imagesTs, labelsTr or labelsTs.

    Args:
        output: the file or folder that will be written.
        inputs: the files and folders that are read.

    Raises:
        InputError: one line that names both.
    """
    output = Path(output)
    raw = {name.casefold(): name for name in RAW_FOLDERS}
    for part in (*Path(os.path.abspath(output)).parts, *output.resolve().parts):
        if part.casefold() in raw:
            raise InputError(f"output {str(output)!r} lies in {part}, the raw data; give another place")
    for path in map(Path, inputs):
        if _same(output, path):
            raise InputError(f"output {str(output)!r} is the input {str(path)!r}; give another place")
        folders = (path.parent, path.resolve().parent) if path.is_file() and output.is_dir() else ()
        if any(_same(output, folder) for folder in folders):
            raise InputError(f"output folder {str(output)!r} holds the input {str(path)!r}; give another folder")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist
        return one.resolve() == other.resolve()
