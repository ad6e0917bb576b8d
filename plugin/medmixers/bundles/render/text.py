"""Text of a bundle's files: Jinja2 templates, and JSON as people read it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
WIDTH = 100  # of a line of JSON that holds a whole list or dict
INDENT = 4


def render(template: str, **facts: Any) -> str:
    """Text of a file in ``templates/``; a fact that the template names and the caller does not give is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # dicts keep their order
    environment.filters["listed"] = listed
    return environment.get_template(template).render(**facts)


def render_markdown(template: str, **facts: Any) -> str:
    """:func:`render` with long lines of text wrapped."""
    lines = (_wrap(line.rstrip()) for line in render(template, **facts).splitlines())
    return "\n".join(lines) + "\n"


def listed(values: Iterable[Any], pattern: str = "{}", joint: str = ", ") -> str:
    """Values one after another, each in a pattern; pairs fill a pattern with two places."""
    return joint.join(pattern.format(*(value if isinstance(value, tuple) else (value,))) for value in values)


def readable_json(value: Any) -> str:
    """JSON with a component or a list of plain values on one line where it fits, and the rest indented."""
    return _json(value, 0, "") + "\n"


def _json(value: Any, depth: int, key: str) -> str:
    line = json.dumps(value)
    fits = len(line) + len(key) + INDENT * depth <= WIDTH
    if not isinstance(value, (dict, list)) or not value or (fits and depth and _is_flat(value)):
        return line
    inner, outer = "\n" + " " * INDENT * (depth + 1), "\n" + " " * INDENT * depth
    if isinstance(value, list):
        return f"[{inner}" + f",{inner}".join(_json(item, depth + 1, "") for item in value) + f"{outer}]"
    items = (f"{json.dumps(name)}: {_json(item, depth + 1, name)}" for name, item in value.items())
    return f"{{{inner}" + f",{inner}".join(items) + f"{outer}}}"


def _is_flat(value: dict[str, Any] | list[Any]) -> bool:
    """Whether it holds plain values and lists of plain values only."""
    items = value.values() if isinstance(value, dict) else value
    return not any(isinstance(item, dict) or (isinstance(item, list) and not _is_plain(item)) for item in items)


def _is_plain(items: list[Any]) -> bool:
    return not any(isinstance(item, (dict, list)) for item in items)


def _wrap(line: str) -> str:
    """A long line of text in lines of 110 characters; the lines of an item stay indented."""
    if len(line) <= 110 or line.startswith("|"):
        return line
    return textwrap.fill(
        line,
        width=110,
        subsequent_indent="  " if line.startswith(("- ", "  ")) else "",
        break_long_words=False,
        break_on_hyphens=False,
    )
