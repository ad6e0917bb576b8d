"""Comparisons as text for the terminal and as CSV files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medmixers.study.comparison import Comparison, Pair
from medmixers.study.overall import Overall, over_datasets
from medmixers.study.rows import write_table

FILES = ("ranking.csv", "tests.csv", "overall.csv")
RANKING = (
    "dataset",
    "metric",
    "entry",
    "mean",
    "seed_sd",
    "seeds",
    "points",
    "rank_score",
    "rank",
    "rank_low",
    "rank_high",
)
PAIRS = (
    "dataset", "metric", "first", "second", "cases", "seeds_first", "seeds_second",
    "shift", "shift_low", "shift_high", "shift_p", "shift_p_corrected", "shift_correction",
    "difference", "low", "high", "df", "p", "p_holm", "p_equivalence", "p_equivalence_holm", "detectable", "p_folds",
    "probably_better", "probably_same", "probably_worse", "margin", "alpha", "verdict",
)  # fmt: skip
OVERALL = (
    "metric", "entry", "datasets", "score", "by_mean", "low", "high", "mean_rank", "friedman_p", "critical_difference",
)  # fmt: skip


def as_text(comparisons: Sequence[Comparison]) -> str:
    """All comparisons, and the ranking over data sets where there are several."""
    return "\n\n".join([*map(_one, comparisons), *map(_over, over_datasets(comparisons))])


def write_csv(comparisons: Sequence[Comparison], folder: str | Path) -> list[Path]:
    """Write ranking.csv and tests.csv, and overall.csv where there are several data sets; each whole or not at all."""
    tables = [(RANKING, ranking_rows(comparisons)), (PAIRS, pair_rows(comparisons))]
    if overall := over_datasets(comparisons):
        tables.append((OVERALL, overall_rows(overall)))
    files = [Path(folder) / name for name in FILES[: len(tables)]]
    for file, (columns, rows) in zip(files, tables, strict=True):
        write_table(file, columns, rows)
    return files


def ranking_rows(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """One row per entry, in the columns :data:`RANKING`."""
    return [
        {
            **_names(each),
            **{name: getattr(row, name) for name in RANKING if hasattr(row, name)},
            "seeds": len(each.scores.seeds[each.scores.entries.index(row.entry)]),
        }
        for each in comparisons
        for row in each.ranking
    ]


def pair_rows(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """One row per pair, in the columns :data:`PAIRS`; empty where fewer than 3 seeds answer no such question."""
    return [{**_names(each), **_pair_row(each, pair)} for each in comparisons for pair in each.pairs]


def overall_rows(overall: Iterable[Overall]) -> list[dict[str, Any]]:
    """One row per metric and entry, in the columns :data:`OVERALL`."""
    rows = []
    for each in overall:
        tests: dict[str, dict[str, Any]] = {entry: {} for entry in each.entries}
        if each.friedman is not None:
            same = {"friedman_p": each.friedman.pvalue, "critical_difference": each.friedman.critical_difference}
            ranks = zip(each.entries, each.friedman.mean_ranks, strict=True)
            tests = {entry: {"mean_rank": float(rank), **same} for entry, rank in ranks}
        rows += [{"metric": each.metric, **asdict(row), **tests[row.entry]} for row in each.rows]
    return rows


def _names(comparison: Comparison) -> dict[str, str]:
    return {"dataset": comparison.scores.dataset, "metric": comparison.scores.metric}


def _pair_row(comparison: Comparison, pair: Pair) -> dict[str, Any]:
    seeds = dict(zip(comparison.scores.entries, map(len, comparison.scores.seeds), strict=True))
    row: dict[str, Any] = {
        "first": pair.first,
        "second": pair.second,
        "cases": comparison.cases,
        "seeds_first": seeds[pair.first],
        "seeds_second": seeds[pair.second],
        "shift": pair.shift.estimate,
        "shift_low": "" if pair.shift.low is None else pair.shift.low,
        "shift_high": "" if pair.shift.high is None else pair.shift.high,
        "shift_p": pair.shift.pvalue,
        "shift_p_corrected": pair.shift_pvalue,
        "shift_correction": comparison.correction,
        "p_folds": "" if pair.fold_pvalue is None else pair.fold_pvalue,
        "probably_better": pair.probabilities.better,
        "probably_same": pair.probabilities.same,
        "probably_worse": pair.probabilities.worse,
        "margin": comparison.margin,
        "alpha": comparison.alpha,
        "verdict": pair.verdict,
    }
    if pair.retrained is not None:
        low, high = pair.retrained.interval(comparison.alpha)
        row |= {
            "difference": pair.retrained.mean,
            "low": low,
            "high": high,
            "df": pair.retrained.df,
            "p": pair.retrained.pvalue(),
            "p_holm": pair.retrained_pvalue,
            "p_equivalence": pair.retrained.equivalence_pvalue(comparison.margin),
            "p_equivalence_holm": pair.equivalence_pvalue,
            "detectable": pair.detectable,
        }
    return row


def _one(comparison: Comparison) -> str:
    scores = comparison.scores
    seeds = sorted({len(each) for each in scores.seeds})
    title = ", ".join(filter(None, (scores.dataset, scores.metric))) or "scores"
    counted = f"{comparison.cases} {comparison.unit}"
    left_out = (
        f", {comparison.left_out} left out without a score of every entry and seed" if comparison.left_out else ""
    )
    better = "smaller" if scores.lower_is_better else "larger"
    lines = [f"{title}: {counted}{left_out}; {' or '.join(map(str, seeds))} seed(s) per entry; {better} is better"]
    lines += ["", text_table(("rank", "95 %", "entry", "mean", "sd of seeds", "points", "score"), _ranking(comparison))]
    lines += [
        "",
        text_table(
            ("first - second", "difference", "95 % interval", "p (corrected)", "detectable", "verdict"),
            _pairs(comparison),
        ),
        "",
        f"A difference above 0 means that the first is better. p is corrected over {len(comparison.pairs)} pair(s): "
        f"{_corrections(comparison)}. Intervals are not.",
    ]
    ratio = comparison.discriminability
    if np.isfinite(ratio):
        lines += [f"sd between entries / sd between seeds: {ratio:.2f}"]
    if np.isfinite(comparison.stability.kendall_tau):
        lines.append(
            f"Kendall's tau of the ranking when cases and seeds are drawn again: {comparison.stability.kendall_tau:.2f}"
        )
    if comparison.test_share is not None and any(pair.fold_pvalue is not None for pair in comparison.pairs):
        lines.append(f"p_folds in tests.csv: test cases / training cases of a fold are {comparison.test_share:.3g}.")
    if min(seeds) < 3:
        lines.append(
            "No verdict but underpowered for entries with fewer than 3 seeds: they cannot tell whether a mixer matters "
            "when it is trained again. Their intervals and p values are of the trained models only."
        )
    if any(pair.retrained is None and pair.shift.low is None for pair in comparison.pairs):
        lines.append(f"-: {comparison.cases} {comparison.unit} are too few for {no_interval(comparison.alpha)}.")
    return "\n".join(lines)


def _ranking(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (
            f"{row.rank:g}",
            f"{row.rank_low:g} to {row.rank_high:g}",
            row.entry,
            f"{row.mean:.4f}",
            "-" if np.isnan(row.seed_sd) else f"{row.seed_sd:.4f}",
            str(row.points),
            f"{row.rank_score:.2f}",
        )
        for row in comparison.ranking
    ]


def _pairs(comparison: Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for pair in comparison.pairs:
        names = f"{pair.first} - {pair.second}"
        if pair.retrained is None:
            shift = pair.shift
            numbers = (
                f"{shift.estimate:+.4f}",
                interval_text(shift.low, shift.high),
                f"{pair.shift_pvalue:.3g}",
                "-",
            )
        else:
            low, high = pair.retrained.interval(comparison.alpha)
            numbers = (
                f"{pair.retrained.mean:+.4f}",
                interval_text(low, high),
                f"{pair.retrained_pvalue:.3g}",
                f"{pair.detectable:.4f}",
            )
        rows.append((names, *numbers, pair.verdict))
    return rows


def no_interval(alpha: float) -> str:
    """What does not exist with too few cases."""
    return f"a {100 * (1 - alpha):g} % interval of the signed-rank test"


def interval_text(low: float | None, high: float | None) -> str:
    """``+0.0100 to +0.0500``, or a dash where there is no interval of the level."""
    return "-" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def _over(overall: Overall) -> str:
    rows = [
        (f"{row.score:.3f}", row.entry, str(row.datasets), f"{row.by_mean:.3f}", f"{row.low:.3f} to {row.high:.3f}")
        for row in overall.rows
    ]
    table = text_table(("geometric mean", "entry", "data sets", "by mean", "95 %"), rows)
    text = f"over data sets, {overall.metric or 'score'}, rank scores as in Keuth et al. 2025:\n\n{table}"
    if overall.friedman is not None:
        ranks = sorted(zip(overall.friedman.mean_ranks, overall.entries, strict=True))
        shown = ", ".join(f"{entry} {rank:.2f}" for rank, entry in ranks)
        text += (
            f"\nFriedman p = {overall.friedman.pvalue:.3g}; mean ranks {shown}; "
            f"critical difference (Nemenyi) {overall.friedman.critical_difference:.2f}"
        )
    return text


def _corrections(comparison: Comparison) -> str:
    retrained = any(pair.retrained is not None for pair in comparison.pairs)
    return "Holm" if retrained else comparison.correction


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    cells = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
