"""How every figure of the report is drawn: sizes, colours that colour-blind readers tell apart, SVG and PDF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmixers.errors import MissingPackageError
from medmixers.files import written_whole
from medmixers.pages import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008; their yellow is left out, since it is too light on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<>"
BETTER, WORSE, EQUAL, NEUTRAL = "#0072B2", "#D55E00", "#9CCBB9", "#E4E4E4"
WIDTH = 4.7  # inches: readable at the width of a phone
ROW = 0.27  # inches per entry in a list of names
LONGEST = 30  # characters of a name in a figure
STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medmixers",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Picture:
    """One figure of the page.

    Args:
        name: of its file, without ending.
        title: heading.
        alt: what it shows, for readers who do not see it.
        caption: how to read it, with its n, seeds and correction.
        source: ``data:`` URI.
        wide: needs the whole width; a phone scrolls it.
    """

    name: str
    title: str
    alt: str
    caption: str
    source: str
    wide: bool = False


def styled() -> AbstractContextManager[None]:
    """Context in which figures have the report's style.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'the report needs matplotlib ({error}): pip install "medmixers[demo]"') from error
    style: Any = dict(STYLE)
    return matplotlib.rc_context(style)


def new_axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def finish(
    figure: Figure, folder: Path, name: str, *, title: str, alt: str, caption: str, wide: bool = False
) -> Picture:
    """Write the figure as ``folder/name.pdf``, and return it for the page."""
    with written_whole(folder / f"{name}.pdf") as partial:
        figure.savefig(partial, metadata={"CreationDate": None})
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return Picture(name, title, alt, caption, data_uri(text.getvalue().encode(), "image/svg+xml"), wide)


def short(name: str, longest: int = LONGEST) -> str:
    """A name that fits. A longer one keeps its start and, since entries differ there, more of its end."""
    if len(name) <= longest:
        return name
    start = (longest - 1) // 3
    return f"{name[:start]}…{name[start + 1 - longest :]}"


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each name; the three together are unique for 70 names."""
    styles = ("-", "--", ":", "-.")
    return {
        name: {
            "color": PALETTE[i % len(PALETTE)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": styles[i // len(PALETTE) % len(styles)],
        }
        for i, name in enumerate(dict.fromkeys(names))
    }


def list_names(axes: Axes, names: Sequence[str]) -> None:
    """Names along the y axis, the first on top; few numbers along the x axis, so that none touch."""
    axes.locator_params(axis="x", nbins=6)
    axes.set_yticks(range(len(names)), [short(name, 36) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis by 1, 2, 5, 10, ...; names are no formulas here, so powers of ten cannot be set."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def list_height(count: int) -> float:
    """Height in inches of a figure with a list of names."""
    return 0.9 + ROW * count
