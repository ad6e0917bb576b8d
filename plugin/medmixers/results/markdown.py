"""Markdown tables and their cells."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(header)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def time_and_memory(milliseconds: Iterable[float], peak_mib: float | None) -> str:
    """Median of the times, in seconds from one second on, and the peak where it is known."""
    middle = median(milliseconds)
    time = f"{middle / 1000:.1f} s" if middle >= 1000 else f"{middle:.3g} ms"
    return time if peak_mib is None else f"{time}, {peak_mib:.0f} MiB"
