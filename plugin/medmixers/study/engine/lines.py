"""YAML with the line of every value, and faults that are collected instead of raised one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import yaml

from medmixers.errors import FaultsError
from medmixers.registry import valid_names
from medmixers.tasks.from_yaml import PlainLoader, read_yaml

Place = tuple[str | int, ...]  # keys and indices from the root: ("entries", 0, "mixer")


@dataclass
class Faults:
    """Faults of one file.

    Args:
        path: of the file.
        lines: place -> line of the value, from 1.
        found: line and message of each fault.
    """

    path: Path
    lines: Mapping[Place, int]
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, place: Place, message: str) -> None:
        """Note a fault at a place; a place that the file lacks takes the line of its parent."""
        while place and place not in self.lines:
            place = place[:-1]
        fault = (self.lines.get(place, 1), message)
        if fault not in self.found:
            self.found.append(fault)

    def raise_any(self) -> None:
        """Raise one InputError with a line per fault, in the order of the file."""
        if self.found:
            listed = "".join(f"\n  line {line}: {message}" for line, message in sorted(self.found))
            raise FaultsError(f"{self.path}:{listed}")


def load_with_lines(path: str | Path) -> tuple[Any, Faults]:
    """The content of a YAML file and its lines. Duplicate keys are noted as faults, YAML's last one wins.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is not YAML, has an alias, or is larger than 1 MiB.
    """
    lines: dict[Place, int] = {}
    faults = Faults(Path(path), lines)

    def read(loader: PlainLoader) -> Any:
        node = loader.get_single_node()
        _read_lines(node, (), lines, faults)
        return None if node is None else loader.construct_document(node)

    return read_yaml(path, "study", read), faults


def _read_lines(node: Any, place: Place, lines: dict[Place, int], faults: Faults) -> None:
    if node is None:
        return
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            if inner in lines:
                faults.add(place, f"{key.value!r} stands twice")
            _read_lines(value, inner, lines, faults)
            lines[inner] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _read_lines(value, (*place, index), lines, faults)


class Reader:
    """Read the keys of one mapping; each fault is noted and a default returned."""

    def __init__(self, content: Any, place: Place, faults: Faults) -> None:
        self.place, self.faults = place, faults
        self.content: dict[str, Any] = {}
        if isinstance(content, dict):
            self.content = {str(key): value for key, value in content.items()}
        elif content is not None:
            self.fault(None, f"{self._name} must be 'key: value' lines, got {shortened(content)}")

    @property
    def _name(self) -> str:
        names = [str(part) for part in self.place if isinstance(part, str)]
        return names[-1] if names else "a study"

    def fault(self, key: str | None, message: str) -> None:
        """Note a fault at a key, or at the mapping itself."""
        self.faults.add(self.place if key is None else (*self.place, key), message)

    def known(self, *valid: str) -> None:
        """Note every key that is none of ``valid``."""
        for key in self.content:
            if key not in valid:
                self.fault(key, f"{self._name} has no key {key!r}; valid: {valid_names(key, valid)}")

    def text(self, key: str, default: str | None = None, *, required: bool = False) -> str | None:
        """Text; a number is refused, since YAML may have changed it."""
        value = self.content.get(key)
        if value is None:
            if required:
                self.fault(None, f"{self._name} lacks {key!r}")
            return default
        if not isinstance(value, str) or not value.strip():
            self.fault(key, f"{key} must be text, got {shortened(value)}")
            return default
        return value

    def choice(self, key: str, valid: Any, default: str | None = None, *, listing: str = "") -> str | None:
        """One of the names in ``valid``."""
        value = self.text(key, default)
        if value is not None and value != default and value not in valid:
            self.fault(key, f"unknown {key} {value!r}; valid: {valid_names(value, valid, listing=listing)}")
            return default
        return value

    def number(self, key: str, default: float | None = None, *, low: float = 0, high: float = float("inf")) -> Any:
        """A number above ``low`` and below ``high``."""
        value = self.content.get(key, default)
        if value is None:
            return default
        try:  # YAML 1.1 reads 1e-3 as text
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or not low < number < high:
            limits = f"above {low:g}" + ("" if high == float("inf") else f" and below {high:g}")
            self.fault(key, f"{key} must be a number {limits}, got {shortened(value)}")
            return default
        return number

    def whole(self, key: str, default: int | None = None, *, low: int = 1) -> int | None:
        """A whole number of at least ``low``."""
        value = self.content.get(key, default)
        if value is None:
            return default
        if type(value) is not int or value < low:
            self.fault(key, f"{key} must be a whole number of at least {low}, got {shortened(value)}")
            return default
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.content.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.fault(key, f"{key} must be true or false, got {shortened(value)}")
        return default

    def wholes(self, key: str, default: tuple[int, ...], *, low: int = 0) -> tuple[int, ...]:
        """A list of different whole numbers."""
        value = self.content.get(key)
        if value is None:
            return default
        fits = isinstance(value, list) and value and all(type(item) is int and item >= low for item in value)
        if not fits or len(set(value)) < len(value):
            self.fault(key, f"{key} must be a list of different whole numbers from {low}, got {shortened(value)}")
            return default
        return tuple(value)
