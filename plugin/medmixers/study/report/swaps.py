"""The report's table of replaced mixers, from the swap.csv files of ``medmixers study swap``."""

from __future__ import annotations

import csv
from collections.abc import Mapping

import numpy as np

from medmixers.errors import InputError
from medmixers.study.report.folder import Run, StudyFolder
from medmixers.study.report.tables import Table
from medmixers.study.swap_effects import COLUMNS, SWAP_FILE

Row = Mapping[str, str]


def swaps(study: StudyFolder, dataset: str, stem: str) -> Table | None:
    """One row per entry, stage and replacement; None where no run of the data set has a swap.csv.

    Raises:
        InputError: a swap.csv without its columns.
    """
    found: dict[tuple[str, ...], list[tuple[Run, Row]]] = {}
    for run in study.runs:
        file = study.path / "runs" / run.id / SWAP_FILE
        if run.dataset != dataset or not file.is_file():
            continue
        with file.open(newline="", encoding="utf-8") as content:
            reader = csv.DictReader(content)
            if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise InputError(
                    f"{file} lacks the column {', '.join(lacking)}: write it again by medmixers study swap"
                )
            for row in reader:
                key = (run.entry, row["stage"], row["mixer"], row["replacement"], row["metric"])
                found.setdefault(key, []).append((run, row))
    if not found:
        return None
    rows = [
        (
            *key,
            f"{np.mean([float(row['change']) for _, row in own]):+.4f}",
            "; ".join(_one(run, row) for run, row in own),
        )
        for key, own in found.items()
    ]
    return Table(
        f"{stem}_swaps",
        "Mixers of the trained networks replaced, without training again: change of the score on the same cases. "
        "Intervals are over cases and not corrected; n counts cases or groups of them. Scores are those of the "
        "bundle's own evaluation.",
        ("entry", "stage", "mixer", "replaced by", "metric", "mean change", "each training: change, interval, n"),
        tuple(rows),
    )


def _one(run: Run, row: Row) -> str:
    name = f"seed {run.seed}" + (f", fold {run.fold}" if run.fold else "")
    level = f"{100 * (1 - float(row['alpha'])):g} %"
    change, low, high = (float(row[key]) for key in ("change", "low", "high"))
    return f"{name}: {change:+.4f} ({level}: {low:+.4f} to {high:+.4f}; n = {row['cases']})"
