"""The page of ``medmixers dataset check --report``: what a person looks at before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmixers import pages
from medmixers.datasets.audit import AuditReport
from medmixers.datasets.audit_datalist import DatalistReport
from medmixers.datasets.case_facts import CaseFacts
from medmixers.datasets.findings import MOST_SCORE, SHOWN, Finding, Measure, measures
from medmixers.datasets.split_rule import PARTS
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.tasks.palette import PALETTE

TEMPLATES = Path(__file__).parent / "templates"
MOST_SHOWN = 200  # thumbnails
ENDINGS = (".html", ".htm")
BARS, WIDTH, HEIGHT = 24, 240, 56  # of a histogram; in pixels
MOST_OUTLIERS = 50  # rows of the table
KINDS = {"copies": "Copies", "patient": "Patient", "outlier": "Outliers"}


@dataclass(frozen=True)
class Histogram:
    """One measure over the cases.

    Args:
        name: of the measure.
        count: of the cases that have it.
        least, middle, most: minimum, median and maximum.
        far: number of outliers.
        bars: x, y, width and height of each bar, and whether it holds outliers only.
    """

    name: str
    count: int
    least: float
    middle: float
    most: float
    far: int
    bars: tuple[tuple[float, float, float, float, bool], ...]


def check_place(page: str | Path, folder: str | Path) -> Path:
    """Path of the page. InputError: it does not end with .html, is a folder, or lies among the images."""
    path = Path(page)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--report must name a file that ends with .html, got {str(page)!r}")
    if path.is_dir():
        raise InputError(f"--report must name a file, {str(page)!r} is a folder")
    refuse_overwriting_inputs(path, [folder])
    return path


def write_page(report: AuditReport | DatalistReport, page: Path) -> None:
    """Write the page of a report that was made with thumbnails."""
    compared = measures(report.facts)
    chosen = choose(report.facts, report.findings)
    facts = {
        "name": report.folder.resolve().name,
        "lines": [line for line in str(report).splitlines()[1:] if not line.startswith("note: ")],
        "notes": report.notes,
        "findings": [(KINDS[each.kind], each.text, _listed(each.cases)) for each in report.findings],
        "histograms": [histogram(each) for each in compared if not is_constant(each)],
        "constant": [f"{each.name}: {next(iter(each.values.values())):.4g}" for each in compared if is_constant(each)],
        "outliers": outlier_rows(compared),
        "parts": {part: [each for each in chosen if each.part == part] for part in PARTS},
        "total": {part: sum(each.part == part for each in report.facts) for part in PARTS},
        "found": {name for each in report.findings for name in each.cases},
        "labels": _legend(report),
        "has_volumes": any(len(each.size) == 3 for each in report.facts),
        "score": MOST_SCORE,
        "most_outliers": MOST_OUTLIERS,
        "size": (WIDTH, HEIGHT),
        "data_uri": pages.data_uri,
    }
    with written_whole(page) as partial:
        partial.write_text(pages.render(TEMPLATES, "check.html.j2", **facts), encoding="utf-8")


def choose(facts: Sequence[CaseFacts], findings: Sequence[Finding], most: int = MOST_SHOWN) -> list[CaseFacts]:
    """Cases with a thumbnail to show, in their order: at most half for findings, the others evenly spaced."""
    drawn = [each for each in facts if each.thumbnail is not None]
    if len(drawn) <= most:
        return drawn
    found = {name for each in findings for name in each.cases}
    first = {each.name for each in [each for each in drawn if each.name in found][: most // 2]}
    others = [each.name for each in drawn if each.name not in first]
    places = np.linspace(0, len(others) - 1, most - len(first)).round().astype(int)
    kept = first | {others[place] for place in places}
    return [each for each in drawn if each.name in kept]


def is_constant(measure: Measure) -> bool:
    """Whether all cases have one value."""
    return len(set(measure.values.values())) == 1


def histogram(measure: Measure) -> Histogram:
    """Bars of a measure, over a logarithmic axis where it is compared so."""
    values = np.array(list(measure.values.values()), float)
    far = measure.outliers()
    ends = np.log(values) if measure.is_ratio else values
    counts, edges = np.histogram(ends, BARS)
    names = list(measure.values)
    usual, _ = np.histogram([end for end, name in zip(ends, names, strict=True) if name not in far], edges)
    wide = WIDTH / len(counts)
    bars = [
        (round(i * wide, 1), round(HEIGHT * (1 - n / counts.max()), 1), round(wide, 1), n, not usual[i])
        for i, n in enumerate(counts.tolist())
        if n
    ]
    # a bar of one case among thousands stays visible
    drawn = tuple((x, min(y, HEIGHT - 2), w, HEIGHT - min(y, HEIGHT - 2), alone) for x, y, w, _, alone in bars)
    return Histogram(
        measure.name, len(values), float(values.min()), float(np.median(values)), float(values.max()), len(far), drawn
    )


def outlier_rows(compared: Sequence[Measure]) -> list[tuple[str, str, str, str, str]]:
    """Case, measure, its value, the median and the score, the farthest first."""
    rows = []
    for each in compared:
        scores, middle = each.scores(), float(np.median(list(each.values.values())))
        rows += [(abs(scores[name]), name, each.name, value, middle) for name, value in each.outliers().items()]
    rows.sort(key=lambda row: -row[0])
    return [(name, what, f"{value:.4g}", f"{middle:.4g}", f"{score:.1f}") for score, name, what, value, middle in rows]


def _legend(report: AuditReport | DatalistReport) -> Mapping[str, str]:
    """Label -> its colour in hexadecimal digits, as the thumbnails draw them."""
    if isinstance(report, AuditReport):
        labels = {name: value - 1 for value, name in report.labels.items() if value}
    else:
        labels = {f"mask {number}": number - 1 for number in range(1, report.masks + 1)}
    return {name: "#{:02x}{:02x}{:02x}".format(*PALETTE[index % len(PALETTE)]) for name, index in labels.items()}


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Names of cases, if there are more than a line of findings shows."""
    if len(names) <= SHOWN:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
