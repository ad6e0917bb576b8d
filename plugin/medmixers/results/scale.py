"""How time and memory grow: exponents fitted to the figures of scripts/benchmarks/scale.py, and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log, prod
from statistics import median
from typing import Any

from medmixers.results.markdown import markdown, time_and_memory

QUADRATIC = ("global_attention", "random_mixing")  # mixers whose time grows with tokens squared
FITTED = 3  # largest sizes that an exponent is fitted to
Row = Mapping[str, Any]


def exponent(sizes: Sequence[float], values: Sequence[float], *, points: int = FITTED) -> float | None:
    """Slope of the least-squares line through the logarithms of the ``points`` largest sizes.

    Args:
        sizes: in rising order, such as numbers of voxels.
        values: positive; one per size.

    Returns:
        p of value = c * size ** p; None for fewer than two points, or for a value that is not positive.
    """
    pairs = list(zip(sizes, values, strict=True))[-points:]
    if len(pairs) < 2 or any(value <= 0 for _, value in pairs):
        return None
    xs, ys = [log(size) for size, _ in pairs], [log(value) for _, value in pairs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


def expected_exponents(mixer: str) -> tuple[int, int]:
    """Growth of time and of memory with the tokens that follows from the mixer's equation."""
    return (2 if mixer in QUADRATIC else 1), 1


def mixer_series(figures: Iterable[Row]) -> dict[tuple[int, str, str], list[Row]]:
    """Dimensions, mixer and pass -> rows in the order of their sizes."""
    series: dict[tuple[int, str, str], list[Row]] = {}
    for row in sorted(figures, key=lambda row: prod(row["size"])):
        series.setdefault((len(row["size"]), row["mixer"], row["pass"]), []).append(row)
    return series


def fitted(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """Exponents of time and memory over the number of voxels or tokens of a series, without sizes left out."""
    there = [row for row in rows if "ms" in row]
    sizes = [prod(row["size"]) for row in there]
    peaks = [row["peak_mib"] for row in there]
    memory = None if None in peaks else exponent(sizes, peaks)
    return exponent(sizes, [median(row["ms"]) for row in there]), memory


def scale_table(figures: Iterable[Row]) -> str:
    """Time and peak per mixer and size, with the exponents: one table per number of dimensions and pass."""
    tables: dict[tuple[int, str], list[list[str]]] = {}
    headers: dict[tuple[int, str], list[str]] = {}
    for (dims, mixer, name), rows in mixer_series(figures).items():
        growth = zip(fitted(rows), expected_exponents(mixer), strict=True)
        cells = [f"{_number(found)} ({expected})" for found, expected in growth]
        headers[dims, name] = ["x".join(map(str, row["size"])) for row in rows]
        tables.setdefault((dims, name), []).append([f"`{mixer}`", *map(_cell, rows), *cells])
    texts = []
    for (dims, name), lines in tables.items():
        head = [f"{dims}D, {name}", *headers[dims, name], "time grows by (expected)", "memory grows by (expected)"]
        texts.append(markdown(head, lines))
    return "\n\n".join(texts)


def bundle_scale_table(figures: Iterable[Row]) -> str:
    """Time and peak of a bundle's commands over the number of cases or classes."""
    lines = []
    for row in figures:
        cells = (f"{n}: {s:.1f} s, {p / 2**20:.0f} MiB" for n, s, p in zip(*_columns(row), strict=True))
        lines.append([row["command"], row["over"], "; ".join(cells), *map(_number, bundle_exponents(row)), row["note"]])
    head = ["command", "over", "time, peak", "time grows by", "memory grows by", "expected"]
    return markdown(head, lines)


def bundle_exponents(row: Row) -> tuple[float | None, float | None]:
    """Exponents of what is above the first point, which is the start of the command and its least work."""
    counts, seconds, peaks = _columns(row)
    more = [count - counts[0] for count in counts[1:]]
    found = []
    for values in (seconds, peaks):
        above = [value - values[0] for value in values[1:]]
        found.append(exponent(more, above))
    return found[0], found[1]


def _columns(row: Row) -> tuple[Sequence[int], Sequence[float], Sequence[float]]:
    return row["counts"], row["seconds"], row["peak_bytes"]


def ranks_table(figures: Iterable[Row]) -> str:
    """A training step on one rank and on two, and the bytes that each rank hands over."""
    head = ["network", "one rank alone", "two ranks, no exchange", "two ranks", "exchange takes", "sent", "gradients"]
    lines = []
    for row in figures:
        alone, silent, both = (median(row[key]) for key in ("alone_ms", "no_sync_ms", "ms"))
        share = f"{both / silent - 1:.0%}"
        size = [f"{row[key] / 2**20:.1f} MiB" for key in ("bytes", "gradient_bytes")]
        lines.append([row["network"], *(f"{each:.0f} ms" for each in (alone, silent, both)), share, *size])
    return markdown(head, lines)


def loading_table(figures: Iterable[Row]) -> str:
    """Start and steps of a bundle's training over the number of cases in its data."""
    head = ["data", "cases", "first step after", "steps per second", "files opened: start", "per step", "peak"]
    return markdown(
        head,
        (
            [
                row["data"], f"{row['cases']:,}", f"{row['start_s']:.1f} s", f"{row['steps_per_s']:.1f}",
                f"{row['opens_start']:,}", f"{row['opens_per_step']:.1f}", f"{row['peak_bytes'] / 2**20:.0f} MiB",
            ]
            for row in figures
        ),
    )  # fmt: skip


def _cell(row: Row) -> str:
    if "left_out" in row:
        return f"left out: {row['left_out']}"
    return time_and_memory(row["ms"], row["peak_mib"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
