"""What a study's folder holds: its plan, its runs with their state, and the scores of every run."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError, MissingFileError
from medmixers.study.classification import read_probabilities
from medmixers.study.engine.records import read_json, read_plan
from medmixers.study.means import entry_means
from medmixers.study.pooled import POOLED
from medmixers.study.probabilities import PooledScores, Prediction, pooled_scores
from medmixers.study.rows import ALL_CASES
from medmixers.study.scores import join
from medmixers.study.table import Scores, read_class_scores, read_scores

Array = NDArray[np.float64]
SCORED, UNFINISHED, NOT_STARTED = "scored", "unfinished", "not started"
METRICS = {
    "segmentation": ("dice", "nsd", "hd95"),
    "classification": (*POOLED, "accuracy", "brier", "log_loss"),
}


@dataclass(frozen=True)
class Run:
    """One training of the plan.

    Args:
        id, dataset, entry, seed, fold: of the plan; fold is empty without folds.
        state: "scored", "unfinished" or "not started".
        last_line: of its log, where it is unfinished.
        facts: of run.json; empty without one.
        curve: epochs and training loss, (epochs, 2).
    """

    id: str
    dataset: str
    entry: str
    seed: str
    fold: str
    state: str
    last_line: str
    facts: Mapping[str, Any]
    curve: Array


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk.

    Args:
        path: its folder.
        plan: content of plan.json.
        runs: in the plan's order.
        tables: scores per case of each data set and metric.
    """

    path: Path
    plan: Mapping[str, Any]
    runs: tuple[Run, ...]
    tables: Mapping[tuple[str, str], Scores] = field(repr=False)

    @property
    def question(self) -> Mapping[str, Any]:
        return self.plan["question"]

    @property
    def control(self) -> str | None:
        """The entry that all others are compared with."""
        compared = self.question.get("compare")
        return self.question.get("control") or (compared.get("control") if isinstance(compared, dict) else None)

    def entry(self, name: str) -> Mapping[str, Any]:
        """The plan's row of an entry."""
        return next((each for each in self.plan["entries"] if each["name"] == name), {"name": name})

    @cached_property
    def class_scores(self) -> Mapping[tuple[str, str, str], Scores]:
        """(dataset, metric, class) -> scores per case of this class."""
        return read_class_scores(self.path / "scores.csv") if self.tables else {}

    @cached_property
    def class_means(self) -> Mapping[tuple[str, str, str, str], float]:
        """(dataset, metric, entry, class) -> mean, for metrics with a score per case and class."""
        return {
            (*key[:2], entry, key[2]): value
            for key, scores in self.class_scores.items()
            if key[2]
            for entry, value in entry_means(scores).items()
        }

    def same_data(self, dataset: str) -> list[str]:
        """Names of the data sets with the same cases and training, itself first: a study may compare in blocks."""
        rows = {row["name"]: (row.get("fingerprint"), row.get("training")) for row in self.plan["datasets"]}
        others = [name for name, row in rows.items() if name != dataset and row[0] and row == rows[dataset]]
        return [dataset, *others]

    def runs_of(self, dataset: str, entry: str | None = None) -> list[Run]:
        """Scored runs of a data set, of one entry where it is given."""
        return [r for r in self.runs if r.dataset == dataset and r.state == SCORED and entry in (None, r.entry)]

    def scores(self, dataset: Mapping[str, Any], metric: str | None = None) -> Scores | PooledScores:
        """Scores on one data set, by the study's metric or another.

        Raises:
            InputError: the metric is none of this kind of data set, or no run has scores.
        """
        metric = metric or dataset.get("metric") or self.question["metric"]
        valid = METRICS[dataset["kind"]]
        if metric not in valid:
            raise InputError(f"{metric} is no metric of {dataset['kind']}; valid: {', '.join(valid)}")
        if not self.runs_of(dataset["name"]):
            raise InputError("no run has scores yet")
        if metric not in POOLED:
            if (dataset["name"], metric) not in self.tables:
                raise InputError(f"no run has a {metric} of its cases")
            return self.tables[dataset["name"], metric]
        return self._pooled(dataset, metric)

    def _pooled(self, dataset: Mapping[str, Any], metric: str) -> PooledScores:
        trainings: dict[tuple[str, str], dict[str, Prediction]] = {}
        for run in self.runs_of(dataset["name"]):
            own = trainings.setdefault((run.entry, run.seed), {})
            own |= _predictions(self._probabilities(run), dataset)
        return pooled_scores(dataset["name"], metric, tuple(dataset["classes"]), trainings)

    def _probabilities(self, run: Run) -> Path:
        return self.path / "runs" / run.id / "probabilities.csv"

    def every_metric(self, dataset: Mapping[str, Any], known: Scores | PooledScores) -> list[Scores | PooledScores]:
        """Scores on one data set by each metric that its runs have.

        Args:
            dataset: its row of the plan.
            known: its scores by one metric; the probabilities are not read again.
        """
        name, kind = dataset["name"], dataset["kind"]
        pooled = known if isinstance(known, PooledScores) else None
        if pooled is None and all(self._probabilities(run).is_file() for run in self.runs_of(name)):
            pooled = self._pooled(dataset, next(iter(POOLED)))
        found: list[Scores | PooledScores] = []
        for metric in METRICS[kind]:
            if metric in POOLED and pooled is not None:
                found.append(replace(pooled, metric=metric))
            elif (name, metric) in self.tables:
                found.append(self.tables[name, metric])
        return found


def share_of_tests(dataset: Mapping[str, Any]) -> float | None:
    """Test cases over those that are trained and validated on, the mean over the folds; None without folds.

    Args:
        dataset: its row of the plan, or of a pack, which has the number instead of the cases.
    """
    parts = [part for name, part in (dataset.get("parts") or {}).items() if name != "test"]
    sizes = [(len(part["test"]), len(part["training"]) + len(part["validation"])) for part in parts]
    shares = [tested / known for tested, known in sizes if known]
    return float(np.mean(shares)) if shares else dataset.get("test_share")


def read_folder(folder: str | Path) -> StudyFolder:
    """Read a study's folder. The table of all scores is written again first.

    Raises:
        MissingFileError: it has no plan, or no run has scores yet.
    """
    path = Path(folder)
    if not (path / "plan.json").is_file():
        raise MissingFileError(f"{path} is not the folder of a study: there is no {path / 'plan.json'}")
    plan = read_plan(path)
    table = join(path)
    try:
        tables = {(each.dataset, each.metric): each for each in read_scores(table)}
    except InputError:
        if not _only_pooled(table):
            raise
        tables = {}
    return StudyFolder(path, plan, tuple(_read_run(path, row) for row in plan["runs"]), tables)


def _only_pooled(table: Path) -> bool:
    with table.open(newline="", encoding="utf-8") as content:
        return all(row["case"] == ALL_CASES for row in csv.DictReader(content))


def _read_run(study: Path, row: Mapping[str, Any]) -> Run:
    folder = study / "runs" / row["id"]
    state, last_line = NOT_STARTED, ""
    if (folder / "scores.csv").is_file():
        state = SCORED
    elif folder.is_dir():
        state = UNFINISHED
        if (folder / "log.txt").is_file():
            lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
            last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    facts = read_json(folder / "run.json") or {}
    fold = "" if row.get("fold") is None else str(row["fold"])
    seed = str(row["seed"])
    curve = _read_curve(folder / "curve.csv")
    return Run(row["id"], row["dataset"], row["entry"], seed, fold, state, last_line, facts, curve)


def _read_curve(file: Path) -> Array:
    if not file.is_file():
        return np.empty((0, 2))
    with file.open(newline="", encoding="utf-8") as content:
        rows = [(float(row["epoch"]), float(row["loss"])) for row in csv.DictReader(content) if row["loss"]]
    return np.array(rows).reshape(-1, 2)


def _predictions(file: Path, dataset: Mapping[str, Any]) -> dict[str, Prediction]:
    names, labels, values = read_probabilities(file, tuple(dataset["classes"]))
    groups = {name: str(case.get("group") or name) for name, case in dataset["cases"].items()}
    return {
        name: Prediction(name, groups[name], int(label), list(row))
        for name, label, row in zip(names, labels, values, strict=True)
    }
