"""Score the predictions of a study: one scorer for nnU-Net's and MONAI's runs, from files on disk.

A run's rows go to ``runs/ID/scores.csv``, and :func:`join` puts those of all runs into one table. A row is one value of
one case and class. Values of all cases together, such as AUROC, have the case ``*``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingFileError
from medmixers.study.classification import score_classification
from medmixers.study.engine.records import read_plan
from medmixers.study.rows import ALL_CASES, COLUMNS, NSD_TOLERANCE, Value, named, table_rows, write_table
from medmixers.study.segmentation import score_segmentation

Plan = Mapping[str, Any]


def score_run(study_folder: Path, run: Mapping[str, Any], plan: Plan) -> None:
    """Score the predictions of one run and write ``runs/ID/scores.csv``, whole or not at all.

    Args:
        study_folder: folder of the study.
        run: row of ``plan["runs"]``; with "cases", only these were predicted, else the data set's "test" cases.
        plan: content of plan.json.

    Raises:
        MissingFileError: a truth, or a prediction of a case that was to be predicted.
        InputError: a prediction of another case, on another grid than its truth, or without meaning.
    """
    dataset = dataset_of(plan, run)
    folder = Path(study_folder) / "runs" / run["id"]
    if dataset["kind"] == "classification":
        values: Iterable[Value] = score_classification(
            folder / "probabilities.csv", cases=cases_of(dataset, run), classes=tuple(dataset["classes"])
        )
    else:
        tolerance = float(plan["question"].get("nsd_tolerance") or NSD_TOLERANCE)
        values = score_segmentation(
            folder / "predictions",
            cases=cases_of(dataset, run),
            classes=dataset["classes"],
            ignore_label=dataset.get("ignore_label"),
            tolerance=tolerance,
        )
    same = {"dataset": run["dataset"], "entry": run["entry"], "seed": run["seed"], "fold": _or_empty(run.get("fold"))}
    groups = {name: _or_empty(case.get("group")) or name for name, case in dataset["cases"].items()}
    rows = [
        {**same, "case": case, "group": groups.get(case, ALL_CASES), "class": name, "metric": metric, "value": value}
        for case, name, metric, value in values
    ]
    write_table(folder / "scores.csv", COLUMNS, rows)


def dataset_of(plan: Plan, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data set of a run."""
    return next(each for each in plan["datasets"] if each["name"] == run["dataset"])


def cases_of(dataset: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Cases that a run predicts, by name."""
    names = run.get("cases") or dataset["test"]
    unknown = [name for name in names if name not in dataset["cases"]]
    if unknown:
        raise InputError(f"data set {dataset['name']} has no case {named(unknown)}")
    return {name: dataset["cases"][name] for name in names}


def join(study_folder: Path) -> Path:
    """Write the rows of all finished runs into ``scores.csv``, in the plan's order, and return its path.

    Raises:
        MissingFileError: no run has scores yet.
    """
    folder = Path(study_folder)
    plan = read_plan(folder)
    files = [folder / "runs" / run["id"] / "scores.csv" for run in plan["runs"]]
    rows: list[dict[str, str]] = []
    for file in files:
        if file.is_file():
            rows.extend(row for _, row in table_rows(file, ())[1])
    if not rows:
        raise MissingFileError(f"no run of {folder} has scores yet")
    write_table(folder / "scores.csv", COLUMNS, rows)
    return folder / "scores.csv"


def _or_empty(value: Any) -> str:
    return "" if value is None else str(value)
