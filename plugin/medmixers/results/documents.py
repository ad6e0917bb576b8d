"""The README and the guides: fill in the tables between their markers, or say which documents are out of date."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from medmixers.errors import InputError
from medmixers.files import written_whole
from medmixers.results import measured, network_facts
from medmixers.results.clients import clients_table, recorded_clients
from medmixers.results.inputs import faults_table, inputs_table
from medmixers.results.tables import TABLES

START, END = "<!-- table: {name} -->", "<!-- end of table -->"
INPUT_CASES = "tests/inputs/cases.json"  # what the tests hold about each kind of input
_MARKER = re.compile(r"(<!-- table: [^>]* -->|<!-- end of table -->)")


def documents(checkout: Path) -> list[Path]:
    """README.md and the guides of a checkout."""
    return [checkout / "README.md", *sorted((checkout / "plugin" / "docs").glob("*.md"))]


def fill(text: str, tables: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace what stands between the markers of a document.

    Args:
        text: the document.
        tables: name -> Markdown.

    Returns:
        The document, and the names of the tables it shows.

    Raises:
        InputError: a table of an unknown name, or a start without its end.
    """
    parts, names, name = [], [], None
    for piece in _MARKER.split(text):
        start = _MARKER.fullmatch(piece) is not None and piece != END
        if start or piece == END:
            if start == (name is not None):
                raise InputError(f"{piece!r} must stand {'after the end' if start else 'after the start'} of a table")
            name = piece.removeprefix("<!-- table: ").removesuffix(" -->") if start else None
            if name is not None:
                if name not in tables:
                    raise InputError(f"unknown table {name!r}; valid: {', '.join(tables)}")
                names.append(name)
            parts.append(piece)
        else:
            parts.append(piece if name is None else f"\n{tables[name]}\n")
    if name is not None:
        raise InputError(f"{START.format(name=name)!r} has no {END!r} after it")
    return "".join(parts), names


def render(checkout: Path) -> dict[Path, str]:
    """The text of every document with current tables, in memory.

    Raises:
        InputError: wrong markers, or a table that no document shows.
    """
    sections, facts = measured(), network_facts()
    tables = {name: table(sections, facts) for name, table in TABLES.items()}
    cases = json.loads((checkout / INPUT_CASES).read_text(encoding="utf-8"))
    render_rows = {"others": faults_table}
    tables["clients"] = clients_table(recorded_clients())
    tables |= {f"inputs-{kind}": render_rows.get(kind, inputs_table)(rows) for kind, rows in cases.items()}
    rendered, shown = {}, set()
    for path in documents(checkout):
        try:
            rendered[path], names = fill(path.read_text(encoding="utf-8"), tables)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from None
        shown.update(names)
    if missing := [name for name in tables if name not in shown]:
        raise InputError(f"no document holds {START.format(name=missing[0])!r}")
    return rendered


def outdated(checkout: Path) -> dict[Path, str]:
    """Documents with other tables than the recorded figures give, and what their text must be."""
    return {path: text for path, text in render(checkout).items() if path.read_text(encoding="utf-8") != text}


def write(checkout: Path) -> list[Path]:
    """Write the outdated documents and return them."""
    changed = outdated(checkout)
    for path, text in changed.items():
        with written_whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return list(changed)
