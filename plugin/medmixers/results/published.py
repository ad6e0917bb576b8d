"""Figures that the papers print, from published.json: one typed row per number.

published.json holds one object per table: the paper's key, where the table stands, its columns and its rows. A row is
``[name, options, *cells]``. Its options, over the table's ``build``, are arguments of ``medmixers.create_network``;
null there means that the table's ``not_built`` says why the network is not built, and a string is the row's own reason.
A cell is the printed number, null where the paper (or the text that was read) has none, or an object with the number
and its ``spread``, ``rederived`` or ``note``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedFigure:
    """One printed number.

    Args:
        paper: key in the references of plugin/docs/networks.md.
        where: table or section of the paper.
        name: of the network, within its table.
        quantity: a name of :func:`quantities`.
        value: as printed; a Decimal keeps the printed digits, trailing zeros too.
        unit: "M" and "G" are 10^6 and 10^9, "1" means no unit.
        task: data set of a score, and what it averages over.
        size: of the image in voxels, where the figure depends on it.
        protocol: how the network was trained, where the paper compares several ways.
        build: arguments of ``medmixers.create_network`` (``name`` is under "network"); None where it is not built.
        not_built: why ``build`` is None.
        spread: printed after the value.
        rederived: what the paper's own description or points give where print disagrees; ``note`` says why.
        note: about this number, its column or its table.
    """

    paper: str
    where: str
    name: str
    quantity: str
    value: Decimal
    unit: str
    task: str | None = None
    size: tuple[int, ...] | None = None
    protocol: str | None = None
    build: Mapping[str, Any] | None = None
    not_built: str | None = None
    spread: Decimal | None = None
    rederived: Decimal | None = None
    note: str | None = None


def quantities() -> dict[str, str]:
    """Quantity -> what it is."""
    return json.loads(PUBLISHED.read_text())["quantities"]


def published() -> list[PublishedFigure]:
    """All figures in the order of the file; absent cells are left out."""
    tables = json.loads(PUBLISHED.read_text(), parse_float=Decimal)["tables"]
    return [figure for table in tables for row in table["rows"] for figure in _row(table, row)]


def _row(table: Mapping[str, Any], row: list[Any]) -> list[PublishedFigure]:
    name, options, *cells = row
    built = isinstance(options, dict)
    shared: dict[str, Any] = {
        "paper": table["paper"],
        "where": table["where"],
        "name": name,
        "protocol": table.get("protocol"),
        "build": {**table["build"], **options} if built else None,
        "not_built": None if built else options or table["not_built"],
    }
    figures = []
    for column, cell in zip(table["columns"], cells, strict=True):
        if cell is None:
            continue
        own = cell if isinstance(cell, dict) else {"value": cell}
        numbers: dict[str, Any] = {key: Decimal(own[key]) for key in ("value", "spread", "rederived") if key in own}
        notes = [text for text in (own.get("note"), column.get("note"), table.get("note")) if text]
        size = tuple(column["size"]) if "size" in column else None
        figures.append(
            PublishedFigure(
                **shared,
                **numbers,
                quantity=column["quantity"],
                unit=column["unit"],
                task=column.get("task"),
                size=size,
                note="; ".join(notes) or None,
            )
        )
    return figures
