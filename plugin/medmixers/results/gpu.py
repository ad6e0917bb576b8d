"""Tables of what only a GPU can tell (scripts/benchmarks/gpu_day.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medmixers.results.markdown import markdown


def planner_memory_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """The planner's estimate of a training step beside the peak of a GPU's allocator.

    Args:
        figures: one per network, in GiB (scripts/benchmarks/gpu_day.py).
    """
    header = ["network", "estimate", "peak in float32", "peak in float16", "estimate / float16"]
    rows = [
        [
            f"`{row['network']}`",
            *(f"{row[key]:.2f} GiB" for key in ("estimate", "float32", "float16")),
            f"**{row['estimate'] / row['float16']:.2f}**",
        ]
        for row in figures
    ]
    return markdown(header, rows)


def gpu_training_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Minutes and Dice of a bundle's trainings on a GPU.

    Args:
        figures: one per precision (scripts/benchmarks/gpu_day.py).
    """
    header = ["precision", "minutes to the Dice", "minutes in all", "best Dice"]
    rows = [
        [
            row["precision"],
            "not reached" if row["minutes_to_goal"] is None else f"{row['minutes_to_goal']:.1f}",
            f"{row['minutes']:.1f}",
            f"{row['dice']:.3f}",
        ]
        for row in figures
    ]
    return markdown(header, rows)
