"""Figures of ranks and tests: rank stability, differences, significance maps, the critical-difference diagram."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medmixers.study.comparison import Comparison, Pair
from medmixers.study.overall import Overall
from medmixers.study.report import drawing
from medmixers.study.report.drawing import BETTER, EQUAL, NEUTRAL, PALETTE, WORSE, Picture, short
from medmixers.study.report.words import basis, best_entries
from medmixers.study.summary import no_interval

MARKS = {1: "+", -1: "-", 0: "=", None: ""}
COLOURS = {1: BETTER, -1: WORSE, 0: EQUAL, None: NEUTRAL}


def rank_blobs(comparison: Comparison, folder: Path, stem: str) -> Picture:
    """How often each entry has each rank when cases and seeds are drawn again; area is the share of the draws."""
    from matplotlib.ticker import MaxNLocator

    names = [row.entry for row in comparison.ranking]
    order = [comparison.scores.entries.index(name) for name in names]
    share = comparison.stability.share[order]
    figure, axes = drawing.new_axes(drawing.list_height(len(names)))
    y, x = np.nonzero(share > 0)
    axes.scatter(x + 1, y, s=170 * share[y, x], color=PALETTE[0], alpha=0.75, linewidths=0)
    for place, row in enumerate(comparison.ranking):
        axes.plot([row.rank_low, row.rank_high], [place, place], color="black", linewidth=1)
        axes.plot([row.rank], [place], "x", color="black", markersize=5)
    drawing.list_names(axes, names)
    axes.set(xlabel="rank, 1 is best", xlim=(0.4, len(names) + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    best, first = comparison.ranking[0], best_entries(comparison)
    leads = f"{best.entry} is first; its rank lies" if len(first) == 1 else f"{len(first)} entries tie; their ranks lie"
    lowest = min(row.rank_low for row in comparison.ranking[: len(first)])
    highest = max(row.rank_high for row in comparison.ranking[: len(first)])
    return drawing.finish(
        figure,
        folder,
        f"{stem}_ranks",
        title="Stability of the ranking",
        alt=f"Rank of each entry when cases and seeds are drawn again. {leads} between "
        f"{lowest:g} and {highest:g} in 95 % of the draws.",
        caption=f"Area: share of {len(comparison.stability.drawn)} bootstrap draws of cases and seeds. Cross: rank by "
        f"the mean. Line: 95 % interval. {basis(comparison)}.",
    )


def differences(comparison: Comparison, folder: Path, stem: str) -> Picture:
    """Difference to one entry with its interval, and the margin as a band."""
    reference = comparison.control or comparison.ranking[0].entry
    rows = _against(comparison, reference)
    figure, axes = drawing.new_axes(drawing.list_height(len(rows)))
    axes.axvspan(-comparison.margin, comparison.margin, color=NEUTRAL, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    colours = {"better": BETTER, "worse": WORSE, "equivalent": "#009E73"}
    for place, (_, mean, low, high, verdict) in enumerate(rows):
        colour = colours.get(verdict, "#555555")
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colour)
        axes.plot([mean], [place], "o", color=colour, markersize=5)
    drawing.list_names(axes, [f"{short(name, 20)}: {verdict}" for name, *_, verdict in rows])
    axes.set_xlabel(f"{comparison.scores.metric}: entry minus reference")
    axes.locator_params(axis="x", nbins=5)
    listed = "; ".join(f"{name} {mean:+.4f}, {verdict}" for name, mean, _, _, verdict in rows)
    return drawing.finish(
        figure,
        folder,
        f"{stem}_differences",
        title=f"Difference to {short(reference)}",
        alt=f"Mean difference of each entry to {reference}: {listed}.",
        caption=f"Reference: {reference}. Above 0, the entry is better{_turned(comparison)}. "
        f"Line: {100 * (1 - comparison.alpha):g} % interval "
        f"of a new training (of the trained models with fewer than 3 seeds), not corrected. "
        + f"No line: too few {comparison.unit} for {no_interval(comparison.alpha)}. "
        * any(low is None for _, _, low, _, _ in rows)
        + f"Band: the margin, {comparison.margin:g}. {basis(comparison)}.",
    )


def _turned(comparison: Comparison) -> str:
    return ", since the sign is turned" if comparison.scores.lower_is_better else ""


Against = tuple[str, float, float | None, float | None, str]


def _against(comparison: Comparison, reference: str) -> list[Against]:
    """Name, difference to the reference, its interval and the verdict, in the order of the ranking."""
    opposite = {"better": "worse", "worse": "better"}
    found: dict[str, Against] = {}
    for pair in comparison.pairs:
        mean, low, high = difference_of(pair, comparison.alpha)
        if pair.second == reference:
            found[pair.first] = pair.first, mean, low, high, pair.verdict
        elif pair.first == reference:
            ends = (None, None) if low is None or high is None else (-high, -low)
            found[pair.second] = pair.second, -mean + 0, *ends, opposite.get(pair.verdict, pair.verdict)
    return [found[row.entry] for row in comparison.ranking if row.entry in found]


def difference_of(pair: Pair, alpha: float) -> tuple[float, float | None, float | None]:
    """Difference and interval of a new training, or of the trained models with fewer than 3 seeds."""
    if pair.retrained is None:
        return pair.shift.estimate, pair.shift.low, pair.shift.high
    return pair.retrained.mean, *pair.retrained.interval(alpha)


def significance_maps(comparison: Comparison, folder: Path, stem: str) -> list[Picture]:
    """Raw, corrected, and when trained again: three maps of all pairs, or one of all entries against the control."""
    alpha = comparison.alpha

    def raw(pair: Pair) -> int | None:
        return pair.shift.direction if pair.shift.pvalue < alpha else None

    def corrected(pair: Pair) -> int | None:
        return pair.shift.direction if pair.shift_pvalue < alpha else None

    def again(pair: Pair) -> int | None:
        return {"better": 1, "worse": -1, "equivalent": 0}.get(pair.verdict)

    kinds: list[tuple[str, str, Callable[[Pair], int | None]]] = [
        ("raw", "trained models, uncorrected", raw),
        ("corrected", f"trained models, {comparison.correction}", corrected),
        ("retrained", "trained again, Holm (the verdict)", again),
    ]
    if comparison.control is not None:
        return [_control_map(comparison, kinds, folder, stem)]
    return [_pair_map(comparison, kind, folder, stem) for kind in kinds]


def _pair_map(comparison: Comparison, kind: tuple[str, str, Any], folder: Path, stem: str) -> Picture:
    name, title, judge = kind
    names = [row.entry for row in comparison.ranking]
    cells: dict[tuple[int, int], int | None] = {}
    for pair in comparison.pairs:
        i, j = names.index(pair.first), names.index(pair.second)
        result = judge(pair)
        cells[i, j], cells[j, i] = result, None if result is None else -result
    figure, axes = drawing.new_axes(drawing.list_height(len(names)) + 0.2)
    _draw_cells(axes, cells)
    drawing.list_names(axes, [f"{place} {entry}" for place, entry in enumerate(names, start=1)])
    axes.set(xlabel="against the entry with this number", xlim=(-0.5, len(names) - 0.5))
    axes.set_xticks(
        range(len(names)), [str(place + 1) for place in range(len(names))], fontsize=9 if len(names) < 12 else 7
    )
    counted = {sign: sum(value == sign for value in cells.values()) for sign in (1, 0)}
    return drawing.finish(
        figure,
        folder,
        f"{stem}_significance_{name}",
        title=f"Differences: {title}",
        alt=f"Map of all pairs of entries ({title}): {counted[1]} of {len(comparison.pairs)} pairs differ"
        + (f", {counted[0] // 2} are equivalent" if counted[0] else "")
        + ". The table of tests lists them.",
        caption=f"Row against column: + better, - worse, = equivalent, grey no finding at {comparison.alpha:g}. "
        f"{len(comparison.pairs)} pairs. {basis(comparison)}.",
    )


def _control_map(comparison: Comparison, kinds: list[tuple[str, str, Any]], folder: Path, stem: str) -> Picture:
    pairs = {pair.first: pair for pair in comparison.pairs}
    names = [row.entry for row in comparison.ranking if row.entry in pairs]
    cells = {(i, j): judge(pairs[name]) for i, name in enumerate(names) for j, (_, _, judge) in enumerate(kinds)}
    figure, axes = drawing.new_axes(drawing.list_height(len(names)) + 0.2)
    _draw_cells(axes, cells)
    drawing.list_names(axes, names)
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.set_xticks(range(len(kinds)), ["raw", comparison.correction, "trained\nagain"])
    found = [name for i, name in enumerate(names) if cells[i, len(kinds) - 1] in (1, -1)]
    return drawing.finish(
        figure,
        folder,
        f"{stem}_significance",
        title=f"Differences to {comparison.control}",
        alt=f"Which entries differ from {comparison.control}, raw, corrected and when trained again: "
        f"{', '.join(found) or 'none'} in the last.",
        caption=f"+ better, - worse, = equivalent, grey no finding at {comparison.alpha:g}. Raw and "
        f"{comparison.correction}: these trained models. {len(comparison.pairs)} pairs. {basis(comparison)}.",
    )


def _draw_cells(axes: Any, cells: dict[tuple[int, int], int | None]) -> None:
    from matplotlib.patches import Rectangle

    axes.grid(False)
    for (row, column), value in cells.items():
        axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, color=COLOURS[value], linewidth=0))
        colour = "white" if value in (1, -1) else "black"
        axes.text(column, row, MARKS[value], ha="center", va="center", color=colour, fontweight="bold")


def critical_difference(overall: Overall, folder: Path) -> Picture | None:
    """Mean ranks over data sets; entries under one bar do not differ (Demsar 2006). None below 6 data sets."""
    test = overall.friedman
    if test is None:
        return None
    order = np.argsort(test.mean_ranks)
    names = [overall.entries[i] for i in order]
    ranks = test.mean_ranks[order]
    figure, axes = drawing.new_axes(drawing.list_height(len(names)) + 0.3)
    axes.plot(ranks, range(len(names)), "o", color=PALETTE[0])
    for place, rank in enumerate(ranks):
        axes.plot([rank, rank + test.critical_difference], [place, place], color="#777777", linewidth=3, alpha=0.5)
    drawing.list_names(axes, [f"{name} {rank:.2f}" for name, rank in zip(names, ranks, strict=True)])
    axes.set_xlabel("mean rank, 1 is best; bar: critical difference")
    listed = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(names, ranks, strict=True))
    return drawing.finish(
        figure,
        folder,
        f"critical_difference_{overall.metric}",
        title=f"Critical difference, {overall.metric}",
        alt=f"Mean ranks over {len(overall.datasets)} data sets: {listed}. "
        f"Critical difference {test.critical_difference:.2f}.",
        caption=f"An entry is worse than another at .05 (Nemenyi) where its dot lies to the right of the other's bar. "
        f"Friedman p = {test.pvalue:.3g} over {len(overall.datasets)} data sets. A data set counts once, by its mean.",
    )
