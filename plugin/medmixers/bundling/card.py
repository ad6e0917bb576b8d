"""docs/model_card.md of a packed bundle, from its metadata and the CSV of an evaluation. No torch here."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.tasks import TASKS

TEMPLATE = """\
# {title}

`{name}` version {version}, {copyright}. Research software: not a medical device, not for clinical use.

## Model
{description}
Input: {channels} ({modality}), {spatial_dims}D. Output: {outputs}.

## Data
{data_source}
{references}

## Metrics
{metrics}

## Intended use and limits
{intended_use}

## Licence
Code and configs: Apache-2.0, see LICENSE. {data_licence}

## Files
{models}
The bundle carries its own copy of the package medmixers {package_version}. `sha256sum -c SHA256SUMS`, run in the
bundle's folder, finds damage.
"""


def model_card(
    name: str, metadata: Mapping[str, Any], *, models: Sequence[str], metrics: str, package_version: str
) -> str:
    """Text of docs/model_card.md.

    Args:
        name: of the bundle.
        metadata: content of its configs/metadata.json.
        models: one line for each form of the weights, absent ones with the reason.
        metrics: text of :func:`metrics_table`, or why there is none.
        package_version: of the vendored code.
    """
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    task = task_of(name)
    data_licence = (
        f"Data: {task.licence}; check what it allows before you share weights trained on it."
        if task
        else "The licence of the data is not known here: check what it allows before you share weights trained on it."
    )
    return TEMPLATE.format(
        title=metadata["name"],
        name=name,
        version=metadata["version"],
        copyright=metadata["copyright"],
        description=metadata["description"],
        channels=", ".join(image["channel_def"].values()),
        modality=image.get("modality", "modality not stated"),
        spatial_dims=len(image["spatial_shape"]),
        outputs=", ".join(f"{key} {value}" for key, value in pred["channel_def"].items()),
        data_source=metadata.get("data_source", "not stated"),
        references="\n".join(f"- {reference}" for reference in metadata.get("references", [])),
        metrics=metrics,
        intended_use=metadata.get("intended_use", "not stated"),
        data_licence=data_licence,
        models="\n".join(f"- {line}" for line in models),
        package_version=package_version,
    )


def task_of(bundle: str) -> Any:
    """The TaskSpec that a bundle's name begins with; None for a task of a user's own."""
    names = [name for name in TASKS if bundle.startswith(f"{name}_")]
    return TASKS[max(names, key=len)] if names else None


def read_metrics(path: str | Path) -> dict[str, list[float]]:
    """Column -> value of each case, from the CSV that an evaluation writes (`val_mean_dice_raw.csv`).

    Columns that are not numbers name the case and are left out, and so are values that are not finite: of a
    structure that is missing, for example.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no case, or no column of numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no metrics file {str(path)!r}")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, list[float]] = {}
    for column in rows[0] if rows else ():
        try:
            values = [float(row[column]) for row in rows]
        except (TypeError, ValueError):
            continue
        columns[column] = [value for value in values if math.isfinite(value)]
    if not columns:
        raise ValueError(f"{str(path)!r} holds no metrics: a row for each case and columns of numbers are needed")
    return columns


def metrics_table(columns: Mapping[str, Sequence[float]], source: str) -> str:
    """Mean, standard deviation, median and range of each column, in Markdown; ``source`` names the file."""
    lines = [
        f"Of the cases in `{source}`, measured by who packed this bundle:",
        "",
        "| metric | cases | mean | standard deviation | median | smallest | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in columns.items():
        numbers = "- | - | - | - | -"
        if values:
            deviation = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
            middle = f"{statistics.mean(values):.4f} | {deviation} | {statistics.median(values):.4f}"
            numbers = f"{middle} | {min(values):.4f} | {max(values):.4f}"
        lines.append(f"| {name} | {len(values)} | {numbers} |")
    return "\n".join(lines)
