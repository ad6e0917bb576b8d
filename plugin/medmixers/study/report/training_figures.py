"""Figures of the trainings: loss over epochs, and the gradient of each layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medmixers.bundle_runtime.epoch_table import NORM_COLUMNS, read_rows
from medmixers.study.comparison import Comparison
from medmixers.study.engine.records import GRADIENT_NORMS
from medmixers.study.report import drawing
from medmixers.study.report.costs import epoch_of_reduction
from medmixers.study.report.drawing import Picture, short
from medmixers.study.report.folder import Run, StudyFolder

MOST_CURVES = 8


def loss_curves(study: StudyFolder, comparison: Comparison, folder: Path, stem: str) -> Picture | None:
    """Training loss of each run, and the epoch of 90 % of its reduction (Tshimanga et al. 2026, Fig. 5)."""
    names = [row.entry for row in comparison.ranking]
    runs = {name: [r for r in study.runs_of(comparison.scores.dataset, name) if len(r.curve) > 1] for name in names}
    drawn = [name for name in names if runs[name]]
    if not drawn:
        return None
    shown = drawn[:MOST_CURVES]
    figure, axes = drawing.new_axes(3.6)
    styles = drawing.looks(shown)
    for name in shown:
        style = {key: value for key, value in styles[name].items() if key != "marker"}
        axes.plot([], [], label=short(name), **styles[name])
        for run in runs[name]:
            axes.plot(*run.curve.T, linewidth=0.9, alpha=0.8, **style)
            epoch = epoch_of_reduction(run.curve)
            if epoch is not None:
                loss = run.curve[run.curve[:, 0] == epoch, 1][0]
                axes.plot([epoch], [loss], marker=styles[name]["marker"], color=styles[name]["color"], markersize=5)
    axes.set(xlabel="epoch", ylabel="training loss")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    rest = f" The first {len(shown)} of {len(drawn)} entries by rank." if len(drawn) > len(shown) else ""
    epochs = {name: [epoch_of_reduction(run.curve) for run in runs[name]] for name in shown}
    return drawing.finish(
        figure,
        folder,
        f"{stem}_loss",
        title="Training loss",
        alt="Training loss over epochs. Epochs of 90 % of the reduction: "
        + "; ".join(f"{name} {', '.join('-' if e is None else f'{e:g}' for e in own)}" for name, own in epochs.items()),
        caption=f"One line per training. Mark: first epoch with 90 % of the reduction of the loss.{rest}",
    )


def gradient_norms(study: StudyFolder, comparison: Comparison, folder: Path, stem: str) -> Picture | None:
    """Norm of each layer's gradient, from the first layer to the last (Keuth et al. 2025, section 5.1.4).

    None where no training recorded it.
    """
    found = {}
    for row in comparison.ranking:
        norms = _layer_norms(study, study.runs_of(comparison.scores.dataset, row.entry))
        if norms is not None:
            found[row.entry] = norms
    if not found:
        return None
    shown = list(found)[:MOST_CURVES]
    figure, axes = drawing.new_axes(3.6)
    styles = drawing.looks(shown)
    for name in shown:
        mean, largest, _ = found[name]
        place = np.linspace(0, 1, len(mean))
        axes.plot(place, mean, label=short(name), **{**styles[name], "markersize": 3})
        axes.plot(place, largest, color=styles[name]["color"], linewidth=0.6, linestyle=":")
    axes.set(xlabel="layer, from the first (0) to the last (1)", ylabel="norm of the gradient", yscale="log")
    drawing.plain_numbers(axes.yaxis)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    lost = {name: found[name][2] for name in found if found[name][2]}
    rest = f" The first {len(shown)} of {len(found)} entries by rank." if len(found) > len(shown) else ""
    return drawing.finish(
        figure,
        folder,
        f"{stem}_gradients",
        title="Gradient of each layer",
        alt="Norm of the gradient over the layers. Largest of any update: "
        + "; ".join(f"{name} {np.nanmax(found[name][1]):.3g}" for name in shown),
        caption="Line: mean over the updates of all trainings. Dots: largest of any update. Before clipping. "
        + (
            "Updates with a gradient that is not finite: " + ", ".join(f"{n} {count}" for n, count in lost.items())
            if lost
            else "All gradients were finite"
        )
        + f".{rest}",
    )


def _layer_norms(study: StudyFolder, runs: list[Run]) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Mean and largest norm of each layer (layers,), and the updates with one that is not finite."""
    rows = [row for run in runs for row in read_rows(study.path / "runs" / run.id / GRADIENT_NORMS, NORM_COLUMNS)]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    if not layers:
        return None
    own = [[row for row in rows if row["layer"] == layer and row["mean"]] for layer in layers]
    mean = [np.mean([float(row["mean"]) for row in each]) if each else np.nan for each in own]
    largest = [max(float(row["largest"]) for row in each) if each else np.nan for each in own]
    lost = max(sum(int(row["not_finite"]) for row in rows if row["layer"] == layer) for layer in layers)
    return np.array(mean), np.array(largest), lost
