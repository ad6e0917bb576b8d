"""Figures of scores: by mixer and kernel, by pretraining, over seeds or folds, and case by case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.study.classification import by_case
from medmixers.study.comparison import Comparison
from medmixers.study.means import compared_cases, seed_means, training_means
from medmixers.study.pooled import BINS, bins_of
from medmixers.study.probabilities import PooledScores
from medmixers.study.report import drawing
from medmixers.study.report.drawing import PALETTE, Picture, short
from medmixers.study.report.folder import StudyFolder
from medmixers.study.report.words import basis

Array = NDArray[np.float64]
DODGE = 0.06  # of a kernel size
LEAST_FOR_QUARTILES = 5  # trainings


def by_kernel(study: StudyFolder, comparison: Comparison, folder: Path, stem: str) -> Picture | None:
    """Mean score of each mixer over its kernel sizes (Keuth et al. 2025, Figs. 3 and 5). None without two kernels."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    flat: dict[str, float] = {}
    for row in comparison.ranking:
        entry = study.entry(row.entry)
        others = _others(entry)
        kernel = entry.get("kernel_size")
        name = f"{entry.get('mixer') or row.entry}{others}"
        if kernel is None:
            flat[name] = row.mean
        else:
            curves.setdefault(name, []).append((float(kernel), row.mean, row.seed_sd))
    if not any(len(points) > 1 for points in curves.values()):
        return None
    figure, axes = drawing.new_axes(3.3)
    styles = drawing.looks([*curves, *flat])
    for number, (name, points) in enumerate(curves.items()):
        kernels, means, spread = np.array(sorted(points)).T
        aside = DODGE * (number - (len(curves) - 1) / 2)  # so that bars do not cover each other
        axes.errorbar(kernels + aside, means, np.nan_to_num(spread), capsize=3, label=short(name), **styles[name])
    for name, mean in flat.items():
        axes.axhline(mean, label=short(name), **{**styles[name], "marker": "", "linewidth": 1})
    axes.set(xlabel="kernel size", ylabel=f"mean {comparison.scores.metric}")
    axes.set_xticks(sorted({kernel for points in curves.values() for kernel, *_ in points}))
    _legend_below(figure, axes)
    best = {name: max(points, key=lambda p: p[1])[0] for name, points in curves.items()}
    highest = "; ".join(f"{name} at {kernel:g}" for name, kernel in best.items())
    return drawing.finish(
        figure,
        folder,
        f"{stem}_kernels",
        title="Score by mixer and kernel size",
        alt=f"Mean {comparison.scores.metric} of each mixer over kernel sizes. Largest value: {highest}.",
        caption=f"Bars: standard deviation of the seeds. Horizontal lines: entries without a kernel size. "
        f"{basis(comparison)}.",
    )


def _others(entry: Mapping[str, Any]) -> str:
    """Whether weights were pretrained, as part of a curve's name."""
    cold = (entry.get("start") or {}).get("warm_start") is False
    return (", pretrained" + ", mixers at random" * cold) if entry.get("pretrained") else ""


def uplift(study: StudyFolder, comparison: Comparison, folder: Path, stem: str) -> Picture | None:
    """Gain by pretraining of entries that are equal otherwise (Keuth et al. 2025, Fig. 4). None without such pairs.

    The entry from scratch may stand in another block of the study, if that block compares the same cases.
    """
    if not any(study.entry(row.entry).get("pretrained") for row in comparison.ranking):
        return None
    here = dict(zip(comparison.scores.entries, seed_means(comparison.scores), strict=True))
    plain: dict[tuple[str, ...], tuple[str, Array]] = {}
    for block in reversed(study.same_data(comparison.scores.dataset)):
        means = here if block == comparison.scores.dataset else _means_of_block(study, block, comparison)
        for entry in study.plan["entries"]:
            if not entry.get("pretrained") and entry["name"] in means:
                plain[_twin(entry)] = entry["name"], means[entry["name"]]
    gains = []
    for row in comparison.ranking:
        entry = study.entry(row.entry)
        if entry.get("pretrained") and _twin(entry) in plain:
            name, before = plain[_twin(entry)]
            after = here[row.entry]
            spread = [float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for each in (after, before)]
            gains.append((float(np.mean(after) - np.mean(before)), row.entry, name, float(np.linalg.norm(spread))))
    if not gains:
        return None
    gains.sort(reverse=True)
    figure, axes = drawing.new_axes(drawing.list_height(len(gains)))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.errorbar(
        [g for g, *_ in gains], range(len(gains)), xerr=[sd for *_, sd in gains], fmt="o", capsize=3, color=PALETTE[0]
    )
    drawing.list_names(axes, [a for _, a, *_ in gains])
    axes.set_xlabel(f"{comparison.scores.metric}: pretrained minus from scratch")
    return drawing.finish(
        figure,
        folder,
        f"{stem}_pretraining",
        title="Change by pretraining",
        alt="; ".join(f"{a} minus {b}: {gain:+.4f}" for gain, a, b, _ in gains),
        caption="Bars: standard deviation of the seeds of both. An entry from scratch of another block is shown where "
        f"that block compares the same cases. {basis(comparison)}.",
    )


def _means_of_block(study: StudyFolder, block: str, comparison: Comparison) -> Mapping[str, Array]:
    """Entry -> mean of each seed on another block; empty where it has no scores yet or compares other cases."""
    dataset = next(row for row in study.plan["datasets"] if row["name"] == block)
    try:
        scores = study.scores(dataset, comparison.scores.metric)
        if compared_cases(scores) != compared_cases(comparison.scores):
            return {}
        return dict(zip(scores.entries, seed_means(scores), strict=True))
    except InputError:
        return {}


def _twin(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Equal for two entries that differ in nothing but their start weights."""
    options = entry.get("options") or {}
    kept = {name: value for name, value in sorted(options.items()) if name not in ("pretrained", "weights")}
    return tuple(map(str, (entry.get("network"), entry.get("mixer"), entry.get("kernel_size"), kept)))


def boxes(comparison: Comparison, folder: Path, stem: str) -> Picture:
    """Mean score of each training, over seeds and folds (Tshimanga et al. 2026, Fig. 6)."""
    names = [row.entry for row in comparison.ranking]
    means, by_fold = training_means(comparison.scores)
    values = dict(zip(comparison.scores.entries, means, strict=True))
    figure, axes = drawing.new_axes(drawing.list_height(len(names)))
    for place, name in enumerate(names):
        points = values[name]
        if len(points) >= LEAST_FOR_QUARTILES:
            low, middle, high = np.percentile(points, [25, 50, 75])
            axes.plot([low, high], [place, place], color="#CFE3F0", linewidth=10, solid_capstyle="butt", zorder=1)
            axes.plot([middle], [place], "|", color=PALETTE[1], markersize=12, markeredgewidth=2)
        axes.plot(points, [place] * len(points), "o", color=PALETTE[0], markersize=4, alpha=0.8)
    drawing.list_names(axes, names)
    axes.set_xlabel(f"{comparison.scores.metric} of each training")
    of = "seed and fold" if by_fold else "seed"
    return drawing.finish(
        figure,
        folder,
        f"{stem}_trainings",
        title=f"Every training, by {of}",
        alt=f"Mean {comparison.scores.metric} of each training: "
        + "; ".join(f"{name} {min(own):.4f} to {max(own):.4f}" for name, own in values.items())
        + ".",
        caption=f"One dot per {of}; from five dots on, a bar between the quartiles and a line at the median. "
        f"Scatter over seeds is what a new training "
        f"may give. {basis(comparison)}.",
    )


def paired_cases(comparison: Comparison, folder: Path, stem: str) -> Picture | None:
    """Score of every case by the control, or the second, against that by the winner. None without a common case."""
    best = comparison.ranking[0].entry
    other = comparison.control if comparison.control not in (None, best) else comparison.ranking[1].entry
    first, second = (per_case(comparison, name) for name in (other, best))
    label = "probability of the truth" if isinstance(comparison.scores, PooledScores) else comparison.scores.metric
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if not known.any():
        return None
    figure, axes = drawing.new_axes(3.6)
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    axes.plot([low, high], [low, high], color="#777777", linewidth=0.8)
    axes.plot(first, second, "o", color=PALETTE[0], markersize=4, alpha=0.6, markeredgewidth=0)
    axes.set(xlabel=f"{short(other)}: {label}", ylabel=f"{short(best)}: {label}")
    axes.set_aspect("equal", adjustable="datalim")
    above = int((second > first).sum())
    below = int((second < first).sum())
    return drawing.finish(
        figure,
        folder,
        f"{stem}_cases",
        title=f"Case by case: {best} and {other}",
        alt=f"{label} of each case. {best} has the larger value in {above} of {len(first)} cases, {other} in {below}.",
        caption=f"One dot per case, the mean over seeds. Above the line: larger for {best}. "
        f"{len(first)} cases; {basis(comparison)}.",
    )


def per_case(comparison: Comparison, entry: str) -> Array:
    """Seed-averaged score of each case, NaN where a seed has none, (cases,).

    For metrics of all cases together, it is the probability of the truth.
    """
    scores = comparison.scores
    at = scores.entries.index(entry)
    if isinstance(scores, PooledScores):
        return np.exp(
            -np.mean([by_case(model, scores.labels)["log_loss"] for model in scores.probabilities[at]], axis=0)
        )
    values: Array = scores.values[at].mean(axis=0)
    return values


def reliability(scores: PooledScores, entries: list[str], folder: Path, stem: str) -> Picture:
    """Accuracy over confidence of some entries, all seeds together."""
    figure, axes = drawing.new_axes(3.6)
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8)
    styles = drawing.looks(entries)
    errors = {}
    for name in entries:
        models = scores.probabilities[scores.entries.index(name)]
        confidence = models.max(axis=2).ravel()
        correct = (models.argmax(axis=2) == scores.labels).ravel()
        bins = bins_of(confidence)
        used = [b for b in range(BINS) if (bins == b).any()]
        points = [(confidence[bins == b].mean(), correct[bins == b].mean(), (bins == b).mean()) for b in used]
        x, y, share = np.array(points).T
        axes.plot(x, y, label=short(name), **{**styles[name], "markersize": 4})
        axes.scatter(x, y, s=400 * share, color=styles[name]["color"], alpha=0.25, linewidths=0)
        errors[name] = float(np.abs(y - x) @ share)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="upper left")
    return drawing.finish(
        figure,
        folder,
        f"{stem}_reliability",
        title="Reliability of the probabilities",
        alt="Accuracy over confidence. Calibration error, all seeds together: "
        + ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        + ".",
        caption=f"On the line, probabilities are right. Area: share of the cases. {BINS} bins, "
        f"{len(scores.labels)} cases, all seeds together.",
    )


def _legend_below(figure: Any, axes: Any) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
