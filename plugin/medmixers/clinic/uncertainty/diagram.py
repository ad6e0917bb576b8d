"""The reliability diagram, before and after a calibration, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from medmixers.clinic.uncertainty.calibration import Calibration
from medmixers.clinic.uncertainty.temperature import BINS, Bin

SIDE, MARGIN = 220, 50  # pixels
BAR, LINE = "#56b4e9", "#a33a00"


def reliability_svg(calibration: Calibration) -> str:
    """Two panels: accuracy over confidence in BINS bins, before and after the temperature."""
    width, height = 2 * (SIDE + MARGIN) + MARGIN // 2, SIDE + 2 * MARGIN
    titles = [f"{when}: ECE {error:.3f}" for when, error in zip(("before", "after"), calibration.error, strict=True)]
    panels = [
        _panel(bins, title, MARGIN + number * (SIDE + MARGIN))
        for number, (bins, title) in enumerate(zip(calibration.bins, titles, strict=True))
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img" aria-label="reliability diagram">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *panels,
        "</svg>\n",
    ])  # fmt: skip


def _panel(bins: Sequence[Bin], title: str, left: int) -> str:
    bottom = MARGIN + SIDE
    most = max((each.share for each in bins), default=1.0)
    lines = [f'<text x="{left + SIDE / 2}" y="{MARGIN - 14}" text-anchor="middle" font-weight="bold">{title}</text>']
    for each in bins:
        # paler bars hold fewer predictions
        x = left + SIDE * (min(int(each.confidence * BINS), BINS - 1)) / BINS
        tall = SIDE * each.accuracy
        opacity = 0.25 + 0.75 * (each.share / most) ** 0.5
        lines.append(
            f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{SIDE / BINS - 1:.1f}" height="{tall:.1f}" fill="{BAR}" '
            f'fill-opacity="{opacity:.2f}"/>'
        )
    lines += [
        f'<rect x="{left}" y="{MARGIN}" width="{SIDE}" height="{SIDE}" fill="none" stroke="black"/>',
        f'<line x1="{left}" y1="{bottom}" x2="{left + SIDE}" y2="{MARGIN}" stroke="{LINE}" stroke-dasharray="5 4"/>',
        f'<text x="{left + SIDE / 2}" y="{bottom + 32}" text-anchor="middle">confidence</text>',
        f'<text transform="translate({left - 28} {bottom - SIDE / 2}) rotate(-90)" text-anchor="middle">'
        "accuracy</text>",
    ]
    for value in (0.0, 0.5, 1.0):
        x, y = left + SIDE * value, bottom - SIDE * value
        lines += [
            f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>',
            f'<text x="{left - 5}" y="{y + 4}" text-anchor="end">{value:g}</text>',
        ]
    return "\n".join(lines)
