"""Goals of the benchmark beside what the machine allows: tables of the figures of scripts/benchmarks/limits.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medmixers.results.markdown import markdown

Row = Mapping[str, Any]


def least_ms(row: Row) -> float:
    """Least time of a target: its bytes and its operations may overlap, so the larger of both."""
    return max(row["least_ms"].values())


def answer(row: Row) -> str:
    """Whether the goal is met, and if not, whether torch's operators can meet it on this machine."""
    ratio, needed = row["peer_ms"] / row["ours_ms"], row["peer_ms"] / row["goal"]
    if ratio >= row["goal"]:
        return "met"
    if least_ms(row) > row["ours_ms"]:  # so the rate is no limit: the operator that was rated is slower than ours
        return f"not met: the goal needs {needed:.2f} ms; ours is faster than the measured rate"
    if needed < least_ms(row):
        return f"out of reach of torch's operators: the goal needs {needed:.2f} ms"
    return f"not met: the goal needs {needed:.2f} ms"


def limits_table(rows: Iterable[Row]) -> str:
    """One row per target."""
    lines = []
    for row in rows:
        least = "; ".join(f"{name} {value:.2f} ms" for name, value in row["least_ms"].items())
        share = least_ms(row) / row["ours_ms"]
        lines.append(
            [
                row["comparison"],
                f"{row['peer']} **{row['peer_ms'] / row['ours_ms']:.2f}** (goal {row['goal']:g})",
                f"{row['ours_ms']:.2f} ms",
                f"{least}; {row['counts']}",
                f"{share:.0%}",
                answer(row),
            ]
        )
    head = ["comparison", "peer / ours", "ours", "least time", "least / ours", "answer"]
    return markdown(head, lines)


def rates_table(rates: Mapping[str, float]) -> str:
    """What the machine does per second."""
    units = {name: "GB" if "cache" in name else "billion" for name in rates}
    return markdown(
        ["rate on one thread", "per second"],
        ([name, f"{value / 1e9:.1f} {units[name]}"] for name, value in rates.items()),
    )


def limits_tables(figures: Mapping[str, Any]) -> str:
    """Both tables."""
    return f"{limits_table(figures['targets'])}\n\n{rates_table(figures['rates'])}"
