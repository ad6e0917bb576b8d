"""Read each description and each folder of a data set once, until it changes on disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from medmixers.errors import InputError

T = TypeVar("T")
# Clocks of file systems tick every few milliseconds, so a change within this time may leave the same time stamp.
TICK_NS = 100_000_000
Stamp = tuple[int, int, int]


def stamp(path: str) -> Stamp | None:
    """Time of change, size and number of a file or folder; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def kept(read: Callable[[str], T]) -> Callable[[str], T]:
    """Keep what ``read`` returns for a path until the file or folder changes. Errors are not kept.

    A file that changed less than TICK_NS ago may change again without a trace, so its reading is not kept.
    """
    readings: dict[str, tuple[Stamp | None, T]] = {}

    @wraps(read)
    def reading(path: str) -> T:
        now = stamp(path)
        if path not in readings or readings[path][0] != now:
            value = read(path)
            if now is None or time.time_ns() - now[0] < TICK_NS:
                readings.pop(path, None)
                return value
            readings[path] = now, value
        return readings[path][1]

    return reading


@kept
def listing(folder: str) -> Mapping[str, bool]:
    """Name of each entry of a folder, and whether it is a file or a link to one. OSError: there is no such folder."""
    with os.scandir(folder) as entries:
        return {entry.name: entry.is_file() for entry in entries}


class Files:
    """Whether files exist, from one listing per folder: a call per file would cost minutes on a network drive."""

    def __init__(self) -> None:
        self._listings: dict[str, Mapping[str, bool]] = {}

    def __contains__(self, path: str | Path) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._listings:
            try:
                self._listings[folder] = listing(folder or ".")
            except OSError:
                self._listings[folder] = {}
        # File systems that ignore case know a file by other names than the listed one.
        return self._listings[folder][name] if name in self._listings[folder] else os.path.isfile(path)


@kept
def read_json(path: str) -> Any:
    """Content of a JSON file.

    Callers share it and must not change it.

    Raises:
        InputError: the file is not JSON, or nests too deeply.
    """
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:  # UnicodeDecodeError is one
            raise InputError(f"{path} is not valid JSON: {error}") from None
        except RecursionError:
            raise InputError(f"{path} is not valid JSON: it nests too deeply") from None
