"""Numbers that a paper prints, beside ours: which entry and data set is which row and column of results/published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

from medmixers.registry import valid_names
from medmixers.results.published import PublishedFigure, published
from medmixers.study.engine.lines import Reader

QUANTITIES = {"auroc": "auc", "dice": "dice", "hd95": "hd95"}  # metrics that mean the same in the papers


@dataclass(frozen=True)
class Printed:
    """What the key ``published`` of a study says.

    Args:
        paper: its key in results/published.json.
        data: data set of the study -> data set as the paper names it.
        entries: entry of the study -> protocol (None where the paper has one only) and name of the row.
    """

    paper: str
    data: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)

    def of(self, dataset: str, metric: str, entries: Sequence[str]) -> dict[str, Any] | None:
        """Numbers of a data set's entries: ``{"paper", "where", "values": {entry: text}}``; None without any."""
        asked = self.data.get(dataset), QUANTITIES.get(metric)
        column = [row for row in _rows(self.paper) if None not in asked and (row.task, row.quantity) == asked]
        values, where = {}, []
        for entry in entries:
            rows = [row for row in column if (row.protocol, row.name) == self.entries.get(entry)]
            if texts := list(dict.fromkeys(map(_text, rows))):
                values[entry] = " or ".join(texts)
                where += [row.where for row in rows]
        return {"paper": self.paper, "where": ", ".join(dict.fromkeys(where)), "values": values} if values else None


def read_printed(content: Any, data: Sequence[str], entries: Sequence[str], reader: Reader) -> Printed | None:
    """The key ``published``; None without it. Names that the paper or the study lacks are faults.

    Args:
        content: of the key.
        data: names of the study's data sets.
        entries: names of the study's entries.
        reader: of the same content.
    """
    if content is None:
        return None
    reader.known("paper", "data", "entries")
    papers = list(dict.fromkeys(row.paper for row in published()))
    paper = reader.choice("paper", papers)
    if paper is None:
        reader.fault(None, f"published lacks 'paper'; valid: {', '.join(papers)}")
        return None
    rows = _rows(paper)
    tasks = Reader(reader.content.get("data"), (*reader.place, "data"), reader.faults)
    tasks.known(*data)
    named = {key: tasks.choice(key, [row.task for row in rows if row.task]) for key in tasks.content}
    blocks = reader.content.get("entries")
    if not isinstance(blocks, list):
        reader.fault("entries", "entries must be a list, as - {protocol: PROTOCOL, names: {ENTRY: NAME}}")
        blocks = []
    found: dict[str, tuple[str | None, str]] = {}
    for index, block in enumerate(blocks):
        _read_block(Reader(block, (*reader.place, "entries", index), reader.faults), rows, entries, found)
    return Printed(paper, {key: task for key, task in named.items() if task is not None}, found)


def _read_block(
    block: Reader, rows: Sequence[PublishedFigure], entries: Sequence[str], found: dict[str, tuple[str | None, str]]
) -> None:
    block.known("protocol", "names")
    protocols = dict.fromkeys(row.protocol for row in rows)
    protocol = block.choice("protocol", [each for each in protocols if each])
    valid = list(dict.fromkeys(row.name for row in rows if row.protocol == protocol))
    names = Reader(block.content.get("names"), (*block.place, "names"), block.faults)
    names.known(*entries)
    for entry, name in names.content.items():
        if name not in valid:
            names.fault(entry, f"the paper has no row {name!r} of this protocol; valid: {valid_names(name, valid)}")
        elif entry in found:
            names.fault(entry, f"entry {entry!r} stands twice in published")
        else:
            found[entry] = protocol, str(name)


@cache
def _rows(paper: str) -> tuple[PublishedFigure, ...]:
    return tuple(row for row in published() if row.paper == paper)


def _text(row: PublishedFigure) -> str:
    """As printed, with percentages as shares: 87.21 % ± 0.35 is 0.8721 ± 0.0035."""
    per_cent = Decimal(100) if row.unit == "%" else Decimal(1)
    spread = "" if row.spread is None else f" ± {row.spread / per_cent:f}"
    return f"{row.value / per_cent:f}{spread}"
