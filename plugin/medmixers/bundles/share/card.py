"""docs/model_card.md of a packed bundle, from its metadata and the CSV file of an evaluation."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.bundles.render.card import render_metrics, render_model_card
from medmixers.errors import InputError, MissingFileError
from medmixers.tasks.texts import check_config_text


def model_card(name: str, metadata: Mapping[str, Any], *, models: Sequence[str], metrics: str, code: str) -> str:
    """Text of docs/model_card.md; see :func:`medmixers.bundles.render.card.render_model_card`."""
    return render_model_card(metadata, name=name, models=models, metrics=metrics, code=code)


class Metrics(NamedTuple):
    """What an evaluation measured.

    Args:
        values: name -> the value of each case, or one value of all cases together; those that are not finite, of a
            structure that is missing for example, are left out.
        by_case: which of both.
    """

    values: Mapping[str, Sequence[float]]
    by_case: bool

    def means(self) -> dict[str, float]:
        """Name -> mean over the cases, of what has values."""
        return {name: statistics.fmean(values) for name, values in self.values.items() if values}


def read_metrics(path: str | Path) -> Metrics:
    """The CSV that an evaluation writes: a row a case (`val_mean_dice_raw.csv`), or NAME,VALUE rows (`metrics.csv`).

    Columns that are not numbers name the case and are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no case, no column of numbers, or a table of something else.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no metrics file {str(path)!r}")
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if "prediction" in header or header[:1] == ["class"]:
        what = "probabilities" if "prediction" in header else "a summary"
        raise InputError(f"{str(path)!r} holds {what}, no metrics: give metrics.csv or *_raw.csv of the same folder")
    if len(header) == 2 and _numbers(header[1:]):
        pairs = {row[0]: _numbers(row[1:]) or [] for row in (header, *rows)}
        return Metrics(_finite_of(path, pairs), by_case=False)
    columns = {name: _numbers([row[k] if k < len(row) else "" for row in rows]) for k, name in enumerate(header)}
    values = _finite_of(path, {name: column for name, column in columns.items() if column})
    if not values:
        raise InputError(f"{str(path)!r} holds no metrics: a row for each case and columns of numbers are needed")
    return Metrics(values, by_case=True)


def _numbers(cells: Sequence[str]) -> list[float] | None:
    """None where one of them is no number."""
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return None


def _finite_of(path: Path, columns: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Finite values by name. The names become a part of the metadata, so MONAI must not evaluate them."""
    for name in columns:
        check_config_text(f"the name of a metric in {path}", name)
    return {name: [value for value in values if math.isfinite(value)] for name, values in columns.items()}


def metrics_table(metrics: Metrics, source: str) -> str:
    """Mean, standard deviation, median and range over the cases, or the values, in Markdown; ``source`` is the file."""
    return render_metrics(metrics.values, by_case=metrics.by_case, source=source)
