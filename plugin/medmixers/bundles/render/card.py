"""docs/model_card.md of a bundle with weights: its metadata and what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from medmixers.bundles.render.text import render


def render_model_card(
    metadata: Mapping[str, Any],
    *,
    name: str,
    code: str,
    models: Sequence[str] = (),
    metrics: str = "",
) -> str:
    """Text of docs/model_card.md.

    Args:
        metadata: content of the bundle's configs/metadata.json.
        name: of the bundle.
        code: the package that the bundle carries: its name, and where the code is from.
        models: one line for each form of the weights; an absent form with the reason.
        metrics: a table in Markdown (:func:`render_metrics`), or why there is none.
    """
    return render(
        "model_card.md.j2",
        metadata=metadata,
        formats=metadata["network_data_format"],
        name=name,
        code=code,
        models=models,
        metrics=metrics,
    )


def render_metrics(values: Mapping[str, Sequence[float]], *, by_case: bool, source: str) -> str:
    """Metrics as a table in Markdown.

    Args:
        values: name -> the value of each case, or one value of all cases together.
        by_case: which of both; a table by case has mean, standard deviation, median and range.
        source: name of the file that they are from.
    """
    rows = [_statistics(name, numbers) if by_case else _value(name, numbers) for name, numbers in values.items()]
    return render("metrics.md.j2", rows=rows, by_case=by_case, source=source).rstrip("\n")


def _value(name: str, numbers: Sequence[float]) -> list[str]:
    return [name, f"{numbers[0]:.4f}" if numbers else "-"]


def _statistics(name: str, numbers: Sequence[float]) -> list[str]:
    if not numbers:
        return [name, "0", *["-"] * 5]
    deviation = f"{statistics.stdev(numbers):.4f}" if len(numbers) > 1 else "-"
    middle = [f"{statistics.mean(numbers):.4f}", deviation, f"{statistics.median(numbers):.4f}"]
    return [name, str(len(numbers)), *middle, f"{min(numbers):.4f}", f"{max(numbers):.4f}"]
