"""The colours of labels, defined once: distinguishable for the colour-blind as far as that many can be."""

from __future__ import annotations

from medmixers.tasks.spec import Label

BACKGROUND = Label("background", (0, 0, 0))
# Okabe and Ito's palette without black (Color Universal Design, 2008), which seven labels or fewer stay within; then
# those of Tol's "muted" scheme (Colour Schemes, SRON/EPS/TN/09-002, 2021) that are not in it already.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (51, 34, 136),
    (136, 34, 85),
    (153, 153, 51),
    (17, 119, 51),
    (221, 204, 119),
    (204, 102, 119),
    (68, 170, 153),
    (170, 68, 153),
    (136, 204, 238),
    (221, 221, 221),
)


def coloured(*names: str) -> dict[int, Label]:
    """Labels 0..K-1 in the palette's colours, for classes or for overlapping structures."""
    if len(names) > len(PALETTE):
        raise ValueError(f"the palette has {len(PALETTE)} colours, got {len(names)} labels; give Label(name, colour)")
    return {key: Label(name, colour) for key, (name, colour) in enumerate(zip(names, PALETTE, strict=False))}


def with_background(*names: str) -> dict[int, Label]:
    """0 background in black, then labels 1..K in the palette's colours."""
    return {0: BACKGROUND, **{key + 1: label for key, label in coloured(*names).items()}}
