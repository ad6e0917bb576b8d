"""The colours of labels, defined once; the colour-blind can tell them apart."""

from __future__ import annotations

from medmixers.errors import InputError
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


def coloured(*names: str) -> dict[int, Label]:
    """Labels 0..K-1 in the palette's colours, for classes or for overlapping structures."""
    if len(names) > len(PALETTE):
        raise InputError(f"the palette has {len(PALETTE)} colours, got {len(names)} labels; give Label(name, colour)")
    return {key: Label(name, colour) for key, (name, colour) in enumerate(zip(names, PALETTE, strict=False))}


def with_background(*names: str) -> dict[int, Label]:
    """0 background in black, then labels 1..K in the palette's colours."""
    return {0: BACKGROUND, **{key + 1: label for key, label in coloured(*names).items()}}
