"""Where glibc's allocator settings change a comparison: table of the figures of scripts/benchmarks/allocator.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from medmixers.results.markdown import markdown

SETTINGS = ("unset", "set")
CHANGE = 0.1  # smallest change of a time that is shown

Row = Mapping[str, Any]


def changes(row: Row) -> bool:
    """Whether the settings change a contender's median time by more than ``CHANGE``."""
    unset, with_settings = (median(row[setting]) for setting in SETTINGS)
    return bool(abs(with_settings / unset - 1) > CHANGE)


def allocator_table(figures: Iterable[Row], *, ours: str = "ours") -> str:
    """The passes that the settings change, by both: ours in ms, and each peer's time over ours."""
    passes: dict[tuple[str, str], list[Row]] = {}
    for row in figures:
        passes.setdefault((row["comparison"], row["run"]), []).append(row)
    lines = []
    for key, rows in passes.items():
        base = next(row for row in rows if row["contender"] == ours)
        if not any(map(changes, rows)):
            continue
        own = [median(base[setting]) for setting in SETTINGS]
        ratios = (
            f"{row['contender']} "
            + " / ".join(f"**{median(row[s]) / o:.2f}**" for s, o in zip(SETTINGS, own, strict=True))
            for row in rows
            if row is not base
        )
        lines.append([*key, *(f"{milliseconds:.1f} ms" for milliseconds in own), "; ".join(ratios)])
    table = markdown(["comparison", "pass", "ours, unset", "ours, set", "peer / ours: unset / set"], lines)
    same = len(passes) - len(lines)
    return f"{table}\n\n{same} of {len(passes)} passes change by at most {CHANGE:.0%}, ours and peers."
