"""The report's tables, as cells of text. The numbers are those of the CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medmixers.study.comparison import Comparison
from medmixers.study.means import counted, entry_means, seed_means
from medmixers.study.overall import Overall
from medmixers.study.pooled import PER_CLASS
from medmixers.study.probabilities import PooledScores
from medmixers.study.report.costs import COST_COLUMNS, Cost
from medmixers.study.report.folder import StudyFolder
from medmixers.study.report.words import basis, seconds
from medmixers.study.summary import interval_text, no_interval, pair_rows, ranking_rows

PUBLISHED = "published"  # column


@dataclass(frozen=True)
class Table:
    """Head and rows of text; the first cell of a row is its head.

    Args:
        name: of the LaTeX file.
        caption: what it holds, with its n and S.
        head: names of the columns.
        rows: cells.
    """

    name: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def ranking_with_costs(
    comparison: Comparison, costs: dict[str, Cost], published: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Rows of ranking.csv: the ranking, what each entry costs, and what a paper prints."""
    printed = published["values"] if published else {}
    rows = []
    for row in ranking_rows([comparison]):
        cost = asdict(costs[row["entry"]])
        costing = {name: "" if cost[name] is None else cost[name] for name in COST_COLUMNS}
        rows.append({**row, **costing, PUBLISHED: printed.get(row["entry"], "")})
    return rows


def ranking(
    comparison: Comparison, costs: dict[str, Cost], stem: str, published: Mapping[str, Any] | None = None
) -> Table:
    """Entry, place (ties share the mean of theirs), mean, a paper's number, rank interval, points and score, cost.

    Args:
        comparison: of one data set.
        costs: of each entry.
        stem: start of the file's name.
        published: of the plan's data set: paper, where in it, and entry -> number as printed.
    """
    printed = published["values"] if published else {}
    head = (
        "entry", "place", f"mean {comparison.scores.metric}", "sd of seeds", "seeds", "rank, 95 %", "points",
        "rank score", PUBLISHED, "parameters", "GMACs", "training", "memory", "epoch of 90 %",
    )  # fmt: skip
    rows = []
    for row in comparison.ranking:
        cost = costs[row.entry]
        count = len(comparison.scores.seeds[comparison.scores.entries.index(row.entry)])
        rows.append(
            (
                row.entry,
                f"{row.rank:g}",
                f"{row.mean:.4f}",
                _or_dash(row.seed_sd, "{:.4f}"),
                str(count),
                f"{row.rank_low:g} to {row.rank_high:g}",
                str(row.points),
                f"{row.rank_score:.2f}",
                printed.get(row.entry, "-"),
                "-" if cost.parameters is None else f"{cost.parameters / 1e6:.2f} M",
                _or_dash(cost.gmacs, "{:.3g}"),
                "-" if cost.train_seconds is None else seconds(cost.train_seconds),
                "-" if cost.peak_memory_mib is None else f"{cost.peak_memory_mib / 1024:.2f} GiB",
                _or_dash(cost.epoch_90, "{:.0f}"),
            )
        )
    kept = [i for i in range(len(head)) if i < 8 or any(row[i] != "-" for row in rows)]
    return Table(
        f"{stem}_ranking",
        f"Ranking by mean {comparison.scores.metric}. {basis(comparison)}. Points and rank score as in Keuth et al. "
        "2025: uncorrected tests of the first seed."
        + (
            f" Published: as {published['paper']} prints it ({published['where']}); it takes part in no test."
            if published and any(row.entry in printed for row in comparison.ranking)
            else ""
        ),
        tuple(head[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
    )


def tests(comparison: Comparison, stem: str) -> Table:
    """Every pair when trained again: difference, p values, verdict."""
    head = (
        "pair", "verdict", "difference", _level(comparison), "p (Holm)", "p beyond margin (Holm)", "detectable",
        "p over folds",
    )  # fmt: skip
    rows = []
    for row in pair_rows([comparison]):
        again = row.get("difference") is not None
        rows.append(
            (
                f"{row['first']} vs {row['second']}",
                row["verdict"],
                _or_dash(row.get("difference"), "{:+.4f}"),
                interval_text(row["low"], row["high"]) if again else "-",
                _or_dash(row.get("p_holm"), "{:.2g}"),
                _or_dash(row.get("p_equivalence_holm"), "{:.2g}"),
                _or_dash(row.get("detectable"), "{:.4f}"),
                _or_dash(row["p_folds"] if row["p_folds"] != "" else None, "{:.2g}"),
            )
        )
    kept = len(head) if any(row[-1] != "-" for row in rows) else len(head) - 1
    return Table(
        f"{stem}_tests",
        f"When trained again: {comparison.scores.metric} of {len(rows)} pair(s), {basis(comparison)}. Above 0, "
        f"the first is better. Margin {comparison.margin:g}. Both p values are corrected over all pairs; intervals "
        "are not. Detectable: with 80 % power at the corrected level. -: fewer than 3 seeds.",
        head[:kept],
        tuple(row[:kept] for row in rows),
    )


def trained_models(comparison: Comparison, stem: str) -> Table:
    """Every pair of these trained models on new cases."""
    head = (
        "pair", "shift", _level(comparison), "p, raw", f"p ({comparison.correction})", "probably better", "same",
        "worse",
    )  # fmt: skip
    rows = tuple(
        (
            f"{row['first']} vs {row['second']}",
            f"{row['shift']:+.4f}",
            interval_text(pair.shift.low, pair.shift.high),
            f"{row['shift_p']:.2g}",
            f"{row['shift_p_corrected']:.2g}",
            *(f"{row[f'probably_{name}']:.2f}" for name in ("better", "same", "worse")),
        )
        for row, pair in zip(pair_rows([comparison]), comparison.pairs, strict=True)
    )
    none = any(pair.shift.low is None for pair in comparison.pairs)
    pooled = comparison.correction == "max-T"
    return Table(
        f"{stem}_trained_models",
        f"These trained models on new cases: {comparison.scores.metric} of {len(rows)} pair(s), {basis(comparison)}. "
        + (
            "Bootstrap; intervals are simultaneous. "
            if pooled
            else "Wilcoxon and Hodges-Lehmann; intervals not corrected. "
        )
        + f"Probably better, the same (within the margin of {comparison.margin:g}) or worse: "
        + ("shares of the draws." if pooled else "Bayesian signed-rank test.")
        + f" -: too few {comparison.unit} for {no_interval(comparison.alpha)}." * none,
        head,
        rows,
    )


def _level(comparison: Comparison) -> str:
    return f"{100 * (1 - comparison.alpha):g} % interval"


def secondary(
    study: StudyFolder, comparison: Comparison, dataset: Mapping[str, Any], stem: str
) -> tuple[Table, list[dict[str, Any]]]:
    """Mean and sd over seeds of every metric, without a test; the same as rows of metrics.csv.

    Each metric has the mean of :func:`~medmixers.study.means.seed_means`, as the ranking has. Its cases may be fewer.
    """
    head, columns, rows = ["entry"], [], []
    for scores in study.every_metric(dataset, comparison.scores):
        metric, (cases, _) = scores.metric, counted(scores)
        means = dict(zip(scores.entries, seed_means(scores), strict=True)) if cases else {}
        remarks = ["lower is better"] * scores.lower_is_better + _other_n(cases, comparison)
        head.append(f"{metric} ({'; '.join(remarks)})" if remarks else metric)
        column = {}
        for row in comparison.ranking:
            own = means.get(row.entry, np.array([np.nan]))
            mean, spread = float(own.mean()), float(own.std(ddof=1)) if len(own) > 1 else float("nan")
            column[row.entry] = _or_dash(mean, "{:.4f}") + ("" if np.isnan(spread) else f" ± {spread:.4f}")
            rows.append(
                {"dataset": scores.dataset, "metric": metric, "entry": row.entry, "mean": mean, "seed_sd": spread,
                 "cases": cases}
            )  # fmt: skip
        columns.append(column)
    cells = tuple((row.entry, *(column[row.entry] for column in columns)) for row in comparison.ranking)
    caption = f"All metrics: mean ± standard deviation of the seeds. No test. {basis(comparison)}."
    return Table(f"{stem}_metrics", caption, tuple(head), cells), rows


def _other_n(cases: int, comparison: Comparison) -> list[str]:
    return [] if cases == comparison.cases else [f"n = {cases}"]


def by_class(study: StudyFolder, comparison: Comparison, classes: Sequence[str], stem: str) -> Table | None:
    """Mean of the study's metric for each class; None where it has no values per class."""
    asked = comparison.scores.dataset, comparison.scores.metric
    head, columns = ["entry"], []
    if isinstance(comparison.scores, PooledScores):
        head += classes
        columns = _pooled_classes(comparison.scores)
    else:
        for name in classes:
            scores = study.class_scores.get((*asked, name))
            if scores is not None:
                head.append(" ".join([name, *(f"({n})" for n in _other_n(counted(scores)[0], comparison))]))
                columns.append(entry_means(scores))
    if len(classes) < 2 or not columns:
        return None
    rows = [
        (row.entry, *(_or_dash(column.get(row.entry), "{:.4f}") for column in columns)) for row in comparison.ranking
    ]
    caption = f"Mean {asked[1]} of each class, over seeds and cases. No test. {basis(comparison)}."
    return Table(f"{stem}_classes", caption, tuple(head), tuple(rows))


def _pooled_classes(scores: PooledScores) -> list[dict[str, float]]:
    """Of each class, entry -> mean over seeds of a metric of all cases together; empty where it has no such value."""
    if scores.metric not in PER_CLASS:
        return []
    once = np.ones((1, len(scores.labels)))
    values = [
        np.mean([PER_CLASS[scores.metric](model, scores.labels, once)[:, 0] for model in entry], axis=0)
        for entry in scores.probabilities
    ]
    return [dict(zip(scores.entries, map(float, column), strict=True)) for column in np.transpose(values)]


def overall(each: Overall) -> Table:
    """Ranking over data sets."""
    rows = tuple(
        (row.entry, str(row.datasets), f"{row.score:.3f}", f"{row.by_mean:.3f}", f"{row.low:.3f} to {row.high:.3f}")
        for row in each.rows
    )
    return Table(
        f"overall_{each.metric}",
        f"Over {len(each.datasets)} data sets, {each.metric}: geometric mean of the rank scores by points (Keuth et "
        "al. 2025), and by the mean score with its interval when cases and seeds of every data set are drawn again.",
        ("entry", "data sets", "by points", "by mean", "95 % interval"),
        rows,
    )


def _or_dash(value: Any, pattern: str) -> str:
    return "-" if value is None or (isinstance(value, float) and np.isnan(value)) else pattern.format(value)
