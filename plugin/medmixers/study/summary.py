"""Comparisons as text for the terminal and as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import gmean

from medmixers.files import written_whole
from medmixers.study.comparison import Comparison, Pair

FILES = ("ranking.csv", "tests.csv")
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
    "shift", "shift_low", "shift_high", "shift_p", "shift_p_holm",
    "difference", "low", "high", "df", "p", "p_holm", "p_equivalence", "detectable",
    "probably_better", "probably_same", "probably_worse", "verdict",
)  # fmt: skip


def as_text(comparisons: Sequence[Comparison]) -> str:
    """All comparisons, and the global ranking where there is more than one data set."""
    parts = [_one(comparison) for comparison in comparisons]
    if len({each.scores.dataset for each in comparisons}) > 1:
        parts.append(_global(comparisons))
    return "\n\n".join(parts)


def write_csv(comparisons: Sequence[Comparison], folder: str | Path) -> tuple[Path, Path]:
    """Write ranking.csv and tests.csv into ``folder``, whole or not at all."""
    ranking, tests = (Path(folder) / name for name in FILES)
    rows = [ranking_rows(comparisons), pair_rows(comparisons)]
    for file, columns, content in zip((ranking, tests), (RANKING, PAIRS), rows, strict=True):
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
        with written_whole(file) as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")
    return ranking, tests


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
        "shift_low": pair.shift.low,
        "shift_high": pair.shift.high,
        "shift_p": pair.shift.pvalue,
        "shift_p_holm": pair.shift_pvalue,
        "probably_better": pair.probabilities.better,
        "probably_same": pair.probabilities.same,
        "probably_worse": pair.probabilities.worse,
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
            "detectable": pair.retrained.detectable(comparison.alpha),
        }
    return row


def _one(comparison: Comparison) -> str:
    scores = comparison.scores
    seeds = sorted({len(each) for each in scores.seeds})
    title = ", ".join(filter(None, (scores.dataset, scores.metric))) or "scores"
    counted = (
        f"{comparison.cases} cases" if len(set(scores.groups)) == len(scores.cases) else f"{comparison.cases} groups"
    )
    left_out = (
        f", {comparison.left_out} left out without a score of every entry and seed" if comparison.left_out else ""
    )
    lines = [f"{title}: {counted}{left_out}; {' or '.join(map(str, seeds))} seed(s) per entry"]
    lines += ["", _table(("rank", "95 %", "entry", "mean", "sd of seeds", "points", "score"), _ranking(comparison))]
    lines += [
        "",
        _table(
            ("first - second", "difference", "95 % interval", "p (Holm)", "detectable", "verdict"), _pairs(comparison)
        ),
        "",
        "A difference above 0 means that the first is better.",
    ]
    ratio = comparison.discriminability
    if np.isfinite(ratio):
        lines += [f"sd between entries / sd between seeds: {ratio:.2f}"]
    lines.append(
        f"Kendall's tau of the ranking when cases and seeds are drawn again: {comparison.stability.kendall_tau:.2f}"
    )
    if min(seeds) < 3:
        lines.append(
            "No verdict but underpowered: fewer than 3 seeds per entry cannot tell whether a mixer matters when it is "
            "trained again. Intervals and p values are of the trained models only (Wilcoxon, Hodges-Lehmann)."
        )
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
                f"{shift.low:+.4f} to {shift.high:+.4f}",
                f"{pair.shift_pvalue:.3g}",
                "-",
            )
        else:
            low, high = pair.retrained.interval(comparison.alpha)
            detectable = pair.retrained.detectable(comparison.alpha)
            numbers = (
                f"{pair.retrained.mean:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                f"{pair.retrained_pvalue:.3g}",
                f"{detectable:.4f}",
            )
        rows.append((names, *numbers, pair.verdict))
    return rows


def _global(comparisons: Sequence[Comparison]) -> str:
    """Geometric mean of the rank scores over data sets, as Keuth et al. rank."""
    scores: dict[str, list[float]] = {}
    for comparison in comparisons:
        for row in comparison.ranking:
            scores.setdefault(row.entry, []).append(row.rank_score)
    rows = sorted(((float(gmean(values)), entry, len(values)) for entry, values in scores.items()), reverse=True)
    table = _table(
        ("entry", "geometric mean", "data sets"), [(entry, f"{mean:.3f}", str(n)) for mean, entry, n in rows]
    )
    return f"over data sets, rank scores as in Keuth et al. 2025:\n\n{table}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
