"""A CSV table that a training extends after each epoch, and with which a resumed training goes on."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.files import written_whole

PROGRESS_COLUMNS = ("epoch", "epochs", "seconds", "steps", "loss", "validation", "peak_memory_mib")
NORM_COLUMNS = ("epoch", "layer", "mean", "largest", "updates", "not_finite")


class EpochTable:
    """The table of one training.

    Args:
        path: of the CSV file.
        columns: "epoch", which counts from 1, and others.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns, self.begun = path, columns, False

    def begin(self, epoch: int) -> None:
        """Before an epoch. The first one of a process drops the rows of epochs that a resumed training repeats."""
        if self.begun:
            return
        self.begun = True
        kept = [row for row in read_rows(self.path, self.columns) if int(row["epoch"]) < epoch]
        with written_whole(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, epoch: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """After an epoch: its rows, without the column "epoch"."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerows({"epoch": epoch, **row} for row in rows)


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of the file; none where it does not exist. A row that a killed training left half-written is dropped."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row.get(name) is not None for name in columns)]
