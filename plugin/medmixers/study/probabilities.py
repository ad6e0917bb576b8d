"""Class probabilities of all trainings on one data set, for metrics of all cases together such as AUROC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.registry import valid_names
from medmixers.study.classification import parse_row
from medmixers.study.pooled import POOLED
from medmixers.study.rows import table_rows
from medmixers.study.table import LOWER_IS_BETTER, Scores, by_number, read_scores

Array = NDArray[np.float64]
COLUMNS = ("dataset", "entry", "seed", "fold", "case", "group", "truth")  # all others are classes
REQUIRED = ("entry", "seed", "case", "truth")


@dataclass(frozen=True)
class PooledScores:
    """One metric of all cases together, on one data set.

    Args:
        dataset, metric: names; the metric is a key of ``POOLED``.
        entries: names, sorted.
        seeds: of each entry, sorted.
        cases: names of the cases of groups that every training predicted in whole, sorted.
        groups: number of each case's group, (cases,).
        labels: class of each case, (cases,).
        classes: names.
        probabilities: of each entry, (seeds of the entry, cases, classes).
        left_out: the other groups.
        lower_is_better: whether a smaller value is better.
    """

    dataset: str
    metric: str
    entries: tuple[str, ...]
    seeds: tuple[tuple[str, ...], ...]
    cases: tuple[str, ...]
    groups: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    probabilities: tuple[Array, ...]
    left_out: int = 0

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER

    def measure(self, model: Array, counts: Array) -> Array:
        """The metric of one model, (cases, classes), on draws, (draws, cases) -> (draws,)."""
        return POOLED[self.metric](model, self.labels, counts)


@dataclass(frozen=True)
class Prediction:
    """Probabilities of one case by one training."""

    case: str
    group: str
    label: int
    probabilities: list[float]


Training = tuple[str, str]  # entry, seed


def pooled_scores(
    dataset: str, metric: str, classes: tuple[str, ...], trainings: Mapping[Training, Mapping[str, Prediction]]
) -> PooledScores:
    """Put the predictions of all trainings on their common groups of cases.

    Args:
        dataset, metric: names.
        classes: names, in the order of the probabilities.
        trainings: (entry, seed) -> case -> its prediction.

    Raises:
        InputError: an unknown metric, no common case, or a case with two truths or groups.
    """
    if metric not in POOLED:
        raise InputError(f"unknown metric {metric!r} of probabilities; valid: {valid_names(metric, POOLED)}")
    facts: dict[str, tuple[str, int]] = {}
    for predictions in trainings.values():
        for case, each in predictions.items():
            known = facts.setdefault(case, (each.group, each.label))
            if known != (each.group, each.label):
                raise InputError(f"case {case} has two groups or truths in data set {dataset!r}")
    lacking = {group for case, (group, _) in facts.items() if any(case not in each for each in trainings.values())}
    common = sorted(case for case, (group, _) in facts.items() if group not in lacking)
    if not common:
        raise InputError(f"no case, or group of cases, of data set {dataset!r} was predicted by every training")
    entries = sorted({entry for entry, _ in trainings})
    seeds = tuple(tuple(sorted((s for e, s in trainings if e == entry), key=by_number)) for entry in entries)
    names = sorted({facts[case][0] for case in common})
    position = {name: place for place, name in enumerate(names)}
    return PooledScores(
        dataset=dataset,
        metric=metric,
        entries=tuple(entries),
        seeds=seeds,
        cases=tuple(common),
        groups=np.array([position[facts[case][0]] for case in common]),
        labels=np.array([facts[case][1] for case in common]),
        classes=classes,
        probabilities=tuple(
            np.array([[trainings[entry, seed][case].probabilities for case in common] for seed in own])
            for entry, own in zip(entries, seeds, strict=True)
        ),
        left_out=len(lacking),
    )


def read_any_table(
    file: str | Path, metric: str | None, *, smaller_is_better: bool = False
) -> list[Scores] | list[PooledScores]:
    """Read one metric of a table of scores, or of one of probabilities, which has the column truth.

    Args:
        file: the CSV file.
        metric: None where the table of scores holds one metric; of probabilities, "auroc".
        smaller_is_better: of a table of scores, as of :func:`~medmixers.study.table.read_scores`.

    Raises:
        MissingFileError: there is no such file.
        InputError: several metrics or another one than asked for, and the errors of the table's reader.
    """
    if "truth" in table_rows(Path(file), ())[0]:
        return read_probability_table(file, metric or "auroc")
    scores = read_scores(file, smaller_is_better=smaller_is_better)
    found = sorted({each.metric for each in scores})
    if metric is None and len(found) > 1:
        raise InputError(f"{file} holds {', '.join(found)}; the margin is in the units of one: choose it by --metric")
    chosen = [each for each in scores if metric in (None, each.metric)]
    if not chosen:
        raise InputError(f"{file} has no metric {metric!r}; valid: {valid_names(metric, found)}")
    return chosen


def read_probability_table(file: str | Path, metric: str) -> list[PooledScores]:
    """Read a CSV file with the columns entry, seed, case, truth and one per class; dataset, group and fold may follow.

    Raises:
        MissingFileError: there is no such file.
        InputError: a missing column, a bad row, a case twice in one training; the message names the line.
    """
    path = Path(file)
    columns, rows = table_rows(path, REQUIRED)
    tables: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in rows:
        tables.setdefault(row.get("dataset", ""), []).append((line, row))
    if not tables:
        raise InputError(f"{path} holds no row")
    others = [name for name in columns if name not in COLUMNS]
    return [_one_dataset(path, name, metric, others, own) for name, own in sorted(tables.items())]


def _one_dataset(
    path: Path, dataset: str, metric: str, columns: list[str], rows: list[tuple[int, dict[str, str]]]
) -> PooledScores:
    classes = tuple(name for name in columns if any(row[name] for _, row in rows))
    trainings: dict[Training, dict[str, Prediction]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        entry, seed, case = (row[name] for name in ("entry", "seed", "case"))
        if not (entry and seed and case):
            raise InputError(f"{where}: entry, seed and case must not be empty")
        label, values = parse_row(row, classes, where)
        own = trainings.setdefault((entry, seed), {})
        if case in own:
            raise InputError(f"{where}: {entry}, seed {seed} has case {case} before; each case has one fold")
        own[case] = Prediction(case, row.get("group") or case, label, values)
    return pooled_scores(dataset, metric, classes, trainings)
