"""The colours of labels, defined once; the colour-blind can tell the first 17 apart."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from itertools import islice

from medmixers.tasks.spec import Label

BACKGROUND = Label("background", (0, 0, 0))
# First Okabe and Ito's palette without black (Color Universal Design, 2008). The others are those of a regular RGB grid
# that stay farthest, one after another, from all before them and from black, to normal and to red-green blind eyes: any
# two of all 17 differ by at least 11 in CIEDE2000, as a test measures.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 102),
    (238, 238, 238),
    (136, 34, 0),
    (68, 102, 102),
    (34, 0, 238),
    (0, 68, 102),
    (238, 204, 170),
    (0, 102, 68),
    (0, 0, 34),
    (204, 170, 170),
)


GOLDEN_RATIO = 0.618034  # so many turns of hue from one further colour to the next


def coloured(*names: str) -> dict[int, Label]:
    """Labels 0..K-1 in the palette's colours, and from the 18th on in further ones, which look alike at times."""
    colours = [*islice(PALETTE, len(names)), *map(_further_colour, range(len(names) - len(PALETTE)))]
    return {key: Label(name, colour) for key, (name, colour) in enumerate(zip(names, colours, strict=True))}


def _further_colour(number: int) -> tuple[int, int, int]:
    """A colour of another hue than its neighbours, in turn bright, dark and pale."""
    saturation, value = ((1, 1), (0.9, 0.6), (0.5, 0.95))[number % 3]
    red, green, blue = (round(255 * part) for part in hsv_to_rgb(number * GOLDEN_RATIO % 1, saturation, value))
    return red, green, blue


def with_background(*names: str) -> dict[int, Label]:
    """0 background in black, then labels 1..K in the palette's colours."""
    return {0: BACKGROUND, **{key + 1: label for key, label in coloured(*names).items()}}
