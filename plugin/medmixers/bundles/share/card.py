"""docs/model_card.md of a packed bundle, from its metadata and the CSV of an evaluation. No torch here."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.errors import InputError, MissingFileError

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
    licence = metadata.get("data_licence", "the licence is not known here").rstrip(".")
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
        data_licence=f"Data: {licence}; check what it allows before you share weights trained on it.",
        models="\n".join(f"- {line}" for line in models),
        package_version=package_version,
    )


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
        return Metrics({name: _finite(values) for name, values in pairs.items()}, by_case=False)
    columns = {name: _numbers([row[k] if k < len(row) else "" for row in rows]) for k, name in enumerate(header)}
    values = {name: _finite(column) for name, column in columns.items() if column}
    if not values:
        raise InputError(f"{str(path)!r} holds no metrics: a row for each case and columns of numbers are needed")
    return Metrics(values, by_case=True)


def _numbers(cells: Sequence[str]) -> list[float] | None:
    """None where one of them is no number."""
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return None


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def metrics_table(metrics: Metrics, source: str) -> str:
    """Mean, standard deviation, median and range over the cases, or the values, in Markdown; ``source`` is the file."""
    if not metrics.by_case:
        rows = [f"| {name} | {f'{values[0]:.4f}' if values else '-'} |" for name, values in metrics.values.items()]
        head = [f"Of all cases together, from `{source}`, measured by who packed this bundle:", ""]
        return "\n".join([*head, "| metric | value |", "|---|---|", *rows])
    lines = [
        f"Of the cases in `{source}`, measured by who packed this bundle:",
        "",
        "| metric | cases | mean | standard deviation | median | smallest | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in metrics.values.items():
        numbers = "- | - | - | - | -"
        if values:
            deviation = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
            middle = f"{statistics.mean(values):.4f} | {deviation} | {statistics.median(values):.4f}"
            numbers = f"{middle} | {min(values):.4f} | {max(values):.4f}"
        lines.append(f"| {name} | {len(values)} | {numbers} |")
    return "\n".join(lines)
