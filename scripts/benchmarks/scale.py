"""How time and memory grow with the size of images, the tokens of a mixer, cases, classes and ranks.

python scripts/benchmarks/scale.py                   # all parts: 12 minutes on 2 quiet cores
python scripts/benchmarks/scale.py --only mixers     # one part
python scripts/benchmarks/scale.py --record          # then results/measured.json, the documents' tables, the figures
python scripts/benchmarks/scale.py --draw            # the figures again, from the record

The figures are plugin/docs/scale_networks.svg and scale_mixers.svg. A recorded run needs a clean checkout and a quiet
machine: its commit is recorded with the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from medmixers.errors import InputError, one_line_errors
from medmixers.files import written_whole
from medmixers.results import check_recordable, describe_run, documents, measured, record
from medmixers.results.scale import mixer_series
from medmixers.results.tables import SCALE_TABLES
from medmixers.study.report.drawing import looks, plain_numbers, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "plugin" / "docs"
PARTS = ("networks", "mixers", "bundles", "ranks", "loading")
DRAWN = {"networks": "voxels or pixels of the image", "mixers": "tokens"}


@one_line_errors("scale")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw the record")
    arguments = parser.parse_args()
    if arguments.draw:
        draw_record()
        return
    parts = [arguments.only] if arguments.only else PARTS
    runs = {part: describe_run(f"scale {part}", device="cpu", checkout=ROOT) for part in parts}
    if arguments.record:
        check_recordable(*runs.values())
    documents.render(ROOT)  # wrong markers must show before the minutes of measuring
    for part in parts:
        figures = figures_of(part)(announce=lambda line: print(line, file=sys.stderr, flush=True))
        print(SCALE_TABLES[f"scale {part}"](figures), flush=True)
        if arguments.record:
            record(f"scale {part} cpu", figures, run=runs[part])
    if arguments.record:
        documents.write(ROOT)
        draw_record()


def figures_of(part: str) -> Callable[..., list[dict[str, Any]]]:
    """The function that measures a part. Imported here: every fresh process imports what this file imports."""
    if part in DRAWN:
        return partial(import_module("scale_networks").scale_figures, part)
    measuring: Callable[..., list[dict[str, Any]]] = import_module(f"scale_{part}").scale_figures
    return measuring


def draw_record() -> None:
    """Draw every recorded part that has a figure."""
    sections = measured()
    for part in DRAWN:
        if (section := sections.get(f"scale {part} cpu")) is None:
            raise InputError(f"no figures of {part} are recorded; run scale.py --record --only {part}")
        draw(part, section["figures"], FIGURES / f"scale_{part}.svg")


def draw(part: str, figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time and peak of a training step over the size, one line per mixer; one row of axes per number of dimensions."""
    series = mixer_series(row for row in figures if row["pass"] == "training step")
    dims = sorted({key[0] for key in series}, reverse=True)
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.2, 3.3 * len(dims) + 0.4))
        rows = figure.subplots(len(dims), 2, squeeze=False)
        for each, pair in zip(dims, rows, strict=True):
            lines = {mixer: rows for (d, mixer, _), rows in series.items() if d == each}
            draw_lines(pair[0], lines, lambda row: median(row["ms"]), f"{each}D: time of a training step, ms")
            draw_lines(pair[1], lines, lambda row: row["peak_mib"], f"{each}D: peak memory, MiB")
            for axes in pair:
                axes.set_xlabel(DRAWN[part])
        handles, labels = rows[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        with written_whole(path) as partial_file:
            figure.savefig(partial_file, format="svg", metadata={"Date": None})


def draw_lines(
    axes: Axes,
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    value: Callable[[Mapping[str, Any]], float],
    title: str,
) -> None:
    """One line per mixer on logarithmic axes; sizes that were left out are not drawn."""
    styles = looks(list(lines))
    for mixer, rows in lines.items():
        there = [row for row in rows if "ms" in row and row["peak_mib"] is not None]
        axes.plot(
            [prod(row["size"]) for row in there],
            [value(row) for row in there],
            label=mixer,
            markersize=4,
            **styles[mixer],
        )
    axes.set(xscale="log", yscale="log", title=title)
    plain_numbers(axes.yaxis)


if __name__ == "__main__":
    main()
