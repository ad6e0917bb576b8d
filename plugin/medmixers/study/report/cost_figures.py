"""Figures of cost: score over MACs, time and memory, and cost over resolution."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from medmixers.errors import InputError
from medmixers.study.comparison import Comparison
from medmixers.study.report import drawing
from medmixers.study.report.costs import Cost
from medmixers.study.report.drawing import PALETTE, Picture, short
from medmixers.study.report.folder import StudyFolder
from medmixers.study.report.words import basis


def score_over_cost(comparison: Comparison, costs: dict[str, Cost], folder: Path, stem: str) -> Picture | None:
    """Score over MACs, or over parameters where no run recorded MACs. None without either."""
    by_macs = any(cost.gmacs for cost in costs.values())
    amounts = {name: cost.gmacs if by_macs else cost.parameters for name, cost in costs.items()}
    label = "GMACs per forward pass" if by_macs else "parameters"
    rows = [(f"{row.rank:g}", row, amounts[row.entry]) for row in comparison.ranking if amounts[row.entry]]
    if not rows:
        return None
    figure, axes = drawing.new_axes(3.3)
    x = [float(amount or 0) for *_, amount in rows]
    y = [row.mean for _, row, _ in rows]
    axes.errorbar(x, y, np.nan_to_num([row.seed_sd for _, row, _ in rows]), fmt="o", color=PALETTE[0], capsize=3)
    for (place, *_), at_x, at_y in zip(rows, x, y, strict=True):
        axes.annotate(place, (at_x, at_y), xytext=(5, 4), textcoords="offset points")
    axes.set(xlabel=label, ylabel=f"mean {comparison.scores.metric}", xscale="log")
    drawing.plain_numbers(axes.xaxis)
    return drawing.finish(
        figure,
        folder,
        f"{stem}_cost",
        title="Score and cost",
        alt=f"Mean {comparison.scores.metric} over {label}: "
        + "; ".join(f"{row.entry} {row.mean:.4f} at {amount:.4g}" for _, row, amount in rows),
        caption=f"Numbers: place in the ranking table. Bars: standard deviation of the seeds. {basis(comparison)}.",
    )


def time_and_memory(comparison: Comparison, costs: dict[str, Cost], folder: Path, stem: str) -> Picture | None:
    """Training time against peak memory of each entry. None where no run recorded both."""
    places = [(f"{row.rank:g}", row.entry, costs[row.entry]) for row in comparison.ranking]
    rows = [
        (place, entry, cost.train_seconds / 3600, cost.peak_memory_mib / 1024, cost.device)
        for place, entry, cost in places
        if cost.train_seconds and cost.peak_memory_mib
    ]
    if not rows:
        return None
    figure, axes = drawing.new_axes(3.3)
    axes.plot([row[2] for row in rows], [row[3] for row in rows], "o", color=PALETTE[1])
    for place, _, hours, memory, _ in rows:
        axes.annotate(place, (hours, memory), xytext=(5, 4), textcoords="offset points")
    axes.set(xlabel="training, hours", ylabel="peak memory, GiB")
    axes.margins(0.12)
    devices = sorted({row[4] for row in rows if row[4]})
    return drawing.finish(
        figure,
        folder,
        f"{stem}_time_memory",
        title="Time and memory of a training",
        alt="; ".join(f"{entry} {hours:.3g} h, {memory:.3g} GiB" for _, entry, hours, memory, _ in rows),
        caption="Numbers: place in the ranking table. Mean over the trainings of each entry. Device: "
        + (", ".join(devices) or "not recorded")
        + ("; times of different devices cannot be compared." if len(devices) > 1 else "."),
    )


def over_resolution(study: StudyFolder, folder: Path) -> list[Picture]:
    """Time and memory over image size (Keuth et al. 2025, Fig. 2a), from ``profile/*.csv`` in the study's folder."""
    tables = {file.stem: _read_profile(file) for file in sorted((study.path / "profile").glob("*.csv"))}
    drawn = []
    for column, label in (("milliseconds", "time of a forward pass, ms"), ("peak_mib", "peak memory, MiB")):
        curves = {
            (file if len({row["name"] for row in rows}) == 1 else f"{file}: {name}"): points
            for file, rows in tables.items()
            for name in dict.fromkeys(row["name"] for row in rows)
            if len(points := _points(rows, name, column)) > 1
        }
        if curves:
            drawn.append(_curves_over_size(curves, label, column, folder))
    return drawn


def _read_profile(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as content:
        rows = list(csv.DictReader(content))
    if rows and not {"name", "size", "milliseconds", "peak_mib", "error"} <= rows[0].keys():
        raise InputError(f"{file} is not a table of: medmixers profile NAME --sizes ... --csv FILE")
    return rows


def _points(rows: list[dict[str, str]], name: str, column: str) -> list[tuple[float, float]]:
    """Longest extent of the image and the cost, of the sizes that could be measured."""
    known = [row for row in rows if row["name"] == name and not row["error"] and row[column]]
    return sorted((max(float(part) for part in row["size"].split("x")), float(row[column])) for row in known)


def _curves_over_size(curves: dict[str, list[tuple[float, float]]], label: str, column: str, folder: Path) -> Picture:
    figure, axes = drawing.new_axes(3.5)
    styles = drawing.looks(list(curves))
    for name, points in curves.items():
        axes.plot(*np.array(points).T, label=short(name), **styles[name])
    axes.set(xlabel="longest extent of the image, pixels", ylabel=label, xscale="log", yscale="log")
    sizes = sorted({size for points in curves.values() for size, _ in points})
    drawing.plain_numbers(axes.yaxis)
    axes.minorticks_off()
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    ends = "; ".join(f"{name} {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in curves.items())
    return drawing.finish(
        figure,
        folder,
        f"resolution_{column}",
        title=f"Cost over resolution: {label}",
        alt=f"{label} from the smallest to the largest image: {ends}.",
        caption="One forward pass in eval mode, batch 1, as medmixers profile measures it.",
    )
