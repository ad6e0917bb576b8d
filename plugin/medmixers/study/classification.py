"""Scores of class probabilities, by scikit-learn where it has them.

Macro means are over the classes that the truth holds, so that a class without a case neither counts nor fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.study.pooled import calibration_error
from medmixers.study.rows import ALL_CASES, Value, check_complete, table_rows

Array = NDArray[np.float64]
SUM_TOLERANCE = 1e-3
LEAST_PROBABILITY = 1e-12


def score_classification(file: Path, *, cases: Mapping[str, Any], classes: Sequence[str]) -> Iterator[Value]:
    """Values of all cases together (case ``*``), and per case.

    Args:
        file: probabilities.csv, with the columns case, truth and one per class.
        cases: name -> {"truth": name of its class}.
        classes: names.

    Yields:
        (case, class, metric, value): of all cases "auroc" and "average_precision" (macro one-vs-rest, and per class),
        "f1" (likewise), "balanced_accuracy", "ece"; per case "accuracy", "brier" and "log_loss".

    Raises:
        MissingFileError, InputError: the errors of :func:`read_probabilities`, and a case too few or too many.
    """
    names, labels, probabilities = read_probabilities(file, classes)
    check_complete(names, cases, file, "probabilities")
    for name, label in zip(names, labels, strict=True):
        if str(cases[name]["truth"]) != classes[label]:
            raise InputError(f"{file}: case {name} is {classes[label]!r}, but {cases[name]['truth']!r} in the plan")
    for metric, (macro, per_class) in together(probabilities, labels).items():
        yield ALL_CASES, "", metric, macro
        for name, value in zip(classes, per_class, strict=False):
            yield ALL_CASES, name, metric, value
    for metric, values in by_case(probabilities, labels).items():
        for name, value in zip(names, values, strict=True):
            yield name, "", metric, float(value)


def together(probabilities: Array, labels: NDArray[np.int64]) -> dict[str, tuple[float, list[float]]]:
    """Metric -> its macro value, and its value of each class; empty where it has none.

    Args:
        probabilities: (cases, classes).
        labels: class of each case, (cases,).
    """
    from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

    count = probabilities.shape[1]
    one_hot = np.eye(count, dtype=bool)[labels]
    present: NDArray[np.bool_] = np.isin(np.arange(count), labels)
    curves = {
        "auroc": (roc_auc_score, present & (len(np.unique(labels)) > 1)),
        "average_precision": (average_precision_score, present),
    }
    result: dict[str, tuple[float, list[float]]] = {}
    for metric, (function, defined) in curves.items():
        values = [
            float(function(one_hot[:, c], probabilities[:, c])) if defined[c] else float("nan") for c in range(count)
        ]
        result[metric] = _mean(values), values
    predicted = probabilities.argmax(axis=1)
    options: dict[str, Any] = {"labels": range(count), "average": None, "zero_division": 0.0}
    f1, recall = (np.where(present, f(labels, predicted, **options), np.nan) for f in (f1_score, recall_score))
    result["f1"] = _mean(f1), [float(value) for value in f1]
    result["balanced_accuracy"] = _mean(recall), []
    result["ece"] = float(calibration_error(probabilities, labels, np.ones((1, len(labels))))[0]), []
    return result


def by_case(probabilities: Array, labels: NDArray[np.int64]) -> dict[str, Array]:
    """Metric -> its value of each case, (cases,).

    "accuracy" is 1 or 0; "brier" is the sum over the classes of the squared error (Brier 1950), from 0 to 2.
    """
    one_hot = np.eye(probabilities.shape[1])[labels]
    of_truth = probabilities[np.arange(len(labels)), labels]
    return {
        "accuracy": (probabilities.argmax(axis=1) == labels).astype(float),
        "brier": ((probabilities - one_hot) ** 2).sum(axis=1),
        "log_loss": -np.log(np.maximum(of_truth, LEAST_PROBABILITY)),
    }


def read_probabilities(file: Path, classes: Sequence[str]) -> tuple[list[str], NDArray[np.int64], Array]:
    """Case names, class of each case (cases,) and probabilities (cases, classes) of one run.

    Raises:
        MissingFileError: there is no such file.
        InputError: a missing column, an unknown class, a case twice, or probabilities that do not sum to 1.
    """
    names, labels, values = [], [], []
    for line, row in table_rows(file, ("case", "truth", *classes))[1]:
        names.append(row["case"])
        label, probabilities = parse_row(row, classes, f"{file}, line {line}")
        labels.append(label)
        values.append(probabilities)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file} holds case {twice} twice")
    if not names:
        raise InputError(f"{file} holds no case")
    return names, np.array(labels), np.array(values)


def parse_row(row: Mapping[str, str], classes: Sequence[str], where: str) -> tuple[int, list[float]]:
    """Class number and probabilities of a row of a table."""
    if row["truth"] not in classes:
        raise InputError(f"{where}: truth must be one of {', '.join(classes)}, got {row['truth']!r}")
    try:
        values = [float(row[name]) for name in classes]
    except (TypeError, ValueError):
        raise InputError(f"{where}: probabilities must be numbers, got {[row[name] for name in classes]}") from None
    if not (all(0 <= value <= 1 + SUM_TOLERANCE for value in values) and abs(sum(values) - 1) <= SUM_TOLERANCE):
        raise InputError(f"{where}: probabilities must lie between 0 and 1 and sum to 1, got {values}")
    return classes.index(row["truth"]), values


def _mean(values: Any) -> float:
    known = [float(value) for value in values if np.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")
