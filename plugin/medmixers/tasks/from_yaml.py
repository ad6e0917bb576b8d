"""Read a user's own task: a YAML file with the fields of :class:`TaskSpec`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import yaml

from medmixers.codes import SegmentCodes, read_segment_codes
from medmixers.errors import InputError, MissingFileError, joined_lines
from medmixers.tasks.palette import BACKGROUND, coloured, with_background
from medmixers.tasks.spec import Label, TaskSpec
from medmixers.tasks.texts import check_config_text

MOST_BYTES = 2**20  # of a file that a person writes


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few hundred bytes of nested ones stand for billions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"line {event.start_mark.line + 1} has the alias *{event.anchor}; write its value out")
        return super().compose_node(parent, index)


def read_yaml(path: str | Path, kind: str, read: Callable[[PlainLoader], Any]) -> Any:
    """What ``read`` makes of the loader of a YAML file that a person wrote.

    Args:
        path: the file.
        kind: what it describes, for the messages: "task" or "study".
        read: gets the loader of the file's text.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is not YAML, has an alias, or is larger than 1 MiB.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no {kind} file {path}")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes; a {kind} file has at most {MOST_BYTES}")
    try:
        return read(PlainLoader(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not valid YAML: {joined_lines(error)}") from None
    except RecursionError:
        raise InputError(f"{path} is not valid YAML for a {kind}: it nests too deeply") from None


def load_task(path: str | Path) -> TaskSpec:
    """The task that a YAML file describes.

    The keys are the fields of :class:`TaskSpec`. ``labels`` is a list of names in the order of their ids, which then
    get the palette's colours (a background black), or ``id: {name: ..., colour: [red, green, blue]}``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, has an alias, or a field is unknown, missing or of another kind; one line with the
            file, the field and what is valid.
    """
    content = read_yaml(path, "task", lambda loader: loader.get_single_data())
    try:
        return TaskSpec(**_read_fields(content))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _read_fields(content: Any) -> dict[str, Any]:
    valid = [field.name for field in fields(TaskSpec)]
    required = [field.name for field in fields(TaskSpec) if field.default is MISSING]
    if not isinstance(content, dict):
        raise InputError(f"a task is 'field: value' lines with {', '.join(required)}")
    unknown = [str(key) for key in content if key not in valid]
    if unknown:
        raise InputError(f"unknown field {unknown[0]!r}; valid: {', '.join(valid)}")
    missing = [name for name in required if name not in content]
    if missing:
        raise InputError(f"missing field {', '.join(missing)}")
    optional = [name for name in content if content[name] is None and name not in required]
    return {name: _READERS[name](name, value) for name, value in content.items() if name not in optional}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} must be text, got {shortened(value)}{_quote_hint(value)}")
    text = " ".join(value.split())
    check_config_text(name, text)
    return text


def _quote_hint(value: Any) -> str:
    return "; put it in quotes" if isinstance(value, bool | int | float) else ""


def _whole(name: str, value: Any) -> int:
    if type(value) is not int:
        raise InputError(f"{name} must be a whole number, got {shortened(value)}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text: its numbers need a point, 1.0e-3
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{name} must be a number, got {shortened(value)}")
    return float(value)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {shortened(value)}")
    return value


def _many(read: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    def read_list(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not value:
            raise InputError(f"{name} must be a list, as [a, b], got {shortened(value)}")
        return tuple(read(f"each of {name}", item) for item in value)

    return read_list


def _labels(name: str, value: Any) -> Mapping[int, Label]:
    if isinstance(value, list):
        first, *others = _many(_text)(name, value)
        return with_background(*others) if first == BACKGROUND.name else coloured(first, *others)
    if not isinstance(value, dict):
        raise InputError(
            f"{name} must be a list of names, or 'id: {{name: ..., colour: [r, g, b]}}', got {shortened(value)}"
        )
    return {_whole("an id of labels", key): _label(f"label {key}", item) for key, item in value.items()}


def _label(name: str, value: Any) -> Label:
    if not isinstance(value, dict) or set(value) != {"name", "colour"}:
        raise InputError(f"{name} must be {{name: ..., colour: [red, green, blue]}}, got {shortened(value)}")
    colour = _many(_whole)(f"colour of {name}", value["colour"])
    if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
        raise InputError(
            f"colour of {name} must be three whole numbers from 0 to 255, got {shortened(value['colour'])}"
        )
    return Label(_text(f"name of {name}", value["name"]), (colour[0], colour[1], colour[2]))


def _regions(name: str, value: Any) -> Mapping[str, tuple[int, ...]]:
    if not isinstance(value, dict):
        raise InputError(f"{name} must be 'label: [ids]' lines, got {shortened(value)}")
    return {_text(f"a name in {name}", key): _many(_whole)(f"{name} {key}", ids) for key, ids in value.items()}


def load_codes(path: str | Path) -> Mapping[str, SegmentCodes]:
    """The codes in a YAML file of the form that the field ``codes`` of a task has.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_task`.
    """
    content = read_yaml(path, "codes", lambda loader: loader.get_single_data())
    try:
        return _codes("codes", content)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _codes(name: str, value: Any) -> Mapping[str, SegmentCodes]:
    if not isinstance(value, dict) or not value:
        raise InputError(f"{name} must be 'label: {{type: [value, scheme, meaning]}}' lines, got {shortened(value)}")
    return {_text(f"a name in {name}", key): _label_codes(f"{name} of {key}", item) for key, item in value.items()}


def _label_codes(name: str, value: Any) -> SegmentCodes:
    codes = read_segment_codes(name, value)
    for part, code in vars(codes).items():
        for text in code or ():
            check_config_text(f"each of {part} in {name}", text)
    return codes


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    **{field.name: _text for field in fields(TaskSpec)},
    "spatial_dims": _whole,
    "channels": _many(_text),
    "labels": _labels,
    "multi_label": _truth,
    "voi_window": _truth,
    "ignore_label": _whole,
    "regions": _regions,
    "codes": _codes,
    "spacing": _many(_number),
    "image_size": _many(_whole),
    "mpp": _number,
    "window": _many(_number),
    "validation_every": _whole,
}
