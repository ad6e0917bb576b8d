"""The long table of scores: one row per entry, seed, case and class, as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.study.rows import ALL_CASES, table_rows

REQUIRED = ("entry", "seed", "case", "value")
OPTIONAL = ("dataset", "fold", "group", "class", "metric")
NO_SCORE = ("", "nan", "na")  # as pandas and R write it
LOWER_IS_BETTER = (
    "hd", "hd95", "asd", "assd", "masd", "mae", "mse", "rmse", "brier", "ece", "loss", "log_loss", "nll",
)  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """One metric on one data set.

    Args:
        dataset, metric: names; empty where the table has no such column.
        entries: names, sorted.
        seeds: of each entry, sorted.
        cases: names, sorted.
        groups: number of each case's group, (cases,); every case is its own group where the table has none.
        values: of each entry, (seeds of the entry, cases), mean over classes and folds; NaN where there is no score
            or the case is not whole.
        whole: whether every training has all rows of a case, (cases,).
        lower_is_better: whether a smaller value is better.
        folds: number of each group's fold, (groups,), where each group is in one of several folds; else None.
    """

    dataset: str
    metric: str
    entries: tuple[str, ...]
    seeds: tuple[tuple[str, ...], ...]
    cases: tuple[str, ...]
    groups: NDArray[np.int64]
    values: tuple[NDArray[np.float64], ...]
    whole: NDArray[np.bool_]
    lower_is_better: bool = False
    folds: NDArray[np.int64] | None = None


def read_scores(file: str | Path, *, smaller_is_better: bool = False) -> list[Scores]:
    """Read a CSV file with the columns entry, seed, case and value; dataset, fold, group, class and metric may follow.

    An empty value or "nan" is a case or class without a score (a structure that is absent and was not predicted). A row
    that is not there is something else: nobody knows its score. A case of which one training has fewer rows than
    another, of any class, is not whole. Rows of all cases together (case ``*``) are passed over: what they can show
    needs the probabilities of each case.

    Args:
        file: the CSV file.
        smaller_is_better: of every metric; else of those in :data:`LOWER_IS_BETTER`.

    Returns:
        One :class:`Scores` per data set and metric, sorted.

    Raises:
        MissingFileError: there is no such file.
        InputError: a missing column, a value that is no number, a case in two groups, or the same score twice; the
            message names the line.
    """
    tables = _read(Path(file), ("dataset", "metric"))
    return [
        builder.build(dataset, metric, lower_is_better=smaller_is_better or metric.lower() in LOWER_IS_BETTER)
        for (dataset, metric), builder in sorted(tables.items())
    ]


def read_class_scores(file: str | Path) -> dict[tuple[str, str, str], Scores]:
    """As :func:`read_scores`, but (dataset, metric, class) -> the scores of this class alone."""
    tables = _read(Path(file), ("dataset", "metric", "class"))
    return {
        (dataset, metric, name): builder.build(dataset, metric, lower_is_better=metric.lower() in LOWER_IS_BETTER)
        for (dataset, metric, name), builder in tables.items()
    }


def _read(path: Path, by: Sequence[str]) -> dict[tuple[str, ...], _Builder]:
    tables: dict[tuple[str, ...], _Builder] = {}
    only_pooled = False
    for line, row in table_rows(path, REQUIRED)[1]:
        if row["case"] == ALL_CASES:
            only_pooled = True
            continue
        key = tuple(row.get(name, "") for name in by)
        tables.setdefault(key, _Builder(path)).add(row, line)
    if not tables and only_pooled:
        raise InputError(f"{path} holds values of all cases together only; a comparison needs a value of each case")
    if not tables:
        raise InputError(f"{path} holds no row")
    return tables


class _Builder:
    """Collect the rows of one data set and metric."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str, str], list[tuple[str, float]]] = {}  # class and value
        self.seen: dict[tuple[str | None, ...], int] = {}
        self.group_of: dict[str, str] = {}
        self.folds_of: dict[str, set[str]] = {}

    def add(self, row: dict[str, str], line: int) -> None:
        where = f"{self.path}, line {line}"
        entry, seed, case = (row[name] for name in ("entry", "seed", "case"))
        if not (entry and seed and case):
            raise InputError(f"{where}: entry, seed and case must not be empty")
        key = (entry, seed, case, row.get("fold"), row.get("class"))
        if key in self.seen:
            raise InputError(f"{where}: the score of {entry}, seed {seed}, case {case} is in line {self.seen[key]} too")
        self.seen[key] = line
        group = row.get("group") or case
        if self.group_of.setdefault(case, group) != group:
            raise InputError(f"{where}: case {case} is in the groups {self.group_of[case]} and {group}")
        self.folds_of.setdefault(group, set()).add(row.get("fold") or "")
        self.rows.setdefault((entry, seed, case), []).append((row.get("class") or "", _number(row["value"], where)))

    def build(self, dataset: str, metric: str, *, lower_is_better: bool) -> Scores:
        entries = sorted({entry for entry, _, _ in self.rows})
        cases = sorted(self.group_of)
        names = sorted(set(self.group_of.values()))
        position = {name: place for place, name in enumerate(names)}
        seeds = tuple(tuple(sorted({s for e, s, _ in self.rows if e == entry}, key=by_number)) for entry in entries)
        whole = self._whole(cases)
        found = (
            [[_mean(self.rows.get((entry, seed, case), ())) for case in cases] for seed in own]
            for entry, own in zip(entries, seeds, strict=True)
        )
        values = tuple(np.where(whole, each, np.nan) for each in found)
        groups = np.array([position[self.group_of[case]] for case in cases])
        folds = self._folds(names)
        return Scores(
            dataset, metric, tuple(entries), seeds, tuple(cases), groups, values, whole, lower_is_better, folds
        )

    def _whole(self, cases: Sequence[str]) -> NDArray[np.bool_]:
        """Whether every training has as many rows of a case, class by class, as any other has."""
        trainings = {(entry, seed) for entry, seed, _ in self.rows}

        def classes(training: tuple[str, str], case: str) -> tuple[str, ...]:
            return tuple(sorted(name for name, _ in self.rows.get((*training, case), ())))

        return np.array([len({classes(training, case) for training in trainings}) == 1 for case in cases])

    def _folds(self, groups: Sequence[str]) -> NDArray[np.int64] | None:
        names = sorted({fold for folds in self.folds_of.values() for fold in folds})
        if len(names) < 2 or any(len(folds) > 1 for folds in self.folds_of.values()):
            return None
        return np.array([names.index(next(iter(self.folds_of[group]))) for group in groups])


def _number(text: str, where: str) -> float:
    if text.lower() in NO_SCORE:
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: value must be a number, got {text!r}") from None
    if not np.isfinite(value):
        raise InputError(f"{where}: value must be finite, got {text!r}")
    return value


def _mean(rows: Sequence[tuple[str, float]]) -> float:
    known = [value for _, value in rows if np.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")


def by_number(seed: str) -> tuple[int, str]:
    """Order of seeds: numbers as numbers."""
    return (int(seed), seed) if seed.isdigit() else (0, seed)
