"""Maps of ``medmixers explain`` for a report: found by the image that they are of, and drawn on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmixers.clinic.report.case import SAME_MM, Image
from medmixers.clinic.report.planes import Drawing, Plane
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError
from medmixers.images.explanations import Explanation, read_explanation

MOST = 32  # maps of a file that are drawn
# kind of the maps -> what they show, and what they do not
SHOWS: Mapping[str, str] = {
    "activation": (
        "Where the evidence for the class lies. It does not show that the class is right, nor that the rest of the "
        "image had no part in it."
    ),
    "tokens": (
        "Where each token of the network comes from (A) and where it goes to (B). It does not show which token decides "
        "a label."
    ),
    "attention": (
        "What one voxel attends to in each block of the network. It does not show that these places decide the label: "
        "other layers mix voxels too."
    ),
    "receptive_field": ("How strongly each voxel moves the label of one voxel. It does not show towards which label."),
}


class Panel(NamedTuple):
    """The maps of one file.

    Args:
        planes: with the maps in colour.
        shows: what they show and do not show.
        notes: how they were made.
    """

    planes: Sequence[Plane]
    shows: str
    notes: Sequence[str]


class Explanations:
    """Files of ``medmixers explain``, by the image that each is of.

    Args:
        sources: NIfTI files, or folders of them.

    Raises:
        MissingFileError: no such file, or a folder without one.
        InputError: a file that ``medmixers explain`` did not write.
    """

    def __init__(self, sources: Sequence[Path]) -> None:
        self.by_image: dict[str, list[tuple[Path, Explanation]]] = {}
        for file in (file for source in sources for file in _files(source)):
            _, facts = read_explanation(file)
            self.by_image.setdefault(facts.image_sha256, []).append((file, facts))

    def check(self, images: Sequence[str]) -> None:
        """Raise InputError for a file of another image than those with these SHA-256."""
        for digest, found in self.by_image.items():
            if digest not in images:
                raise InputError(f"{found[0][0]} explains another image than those of the predictions")

    def panels(self, digest: str, image: Image, drawing: Drawing) -> list[Panel]:
        """The panels of an image.

        Args:
            digest: its SHA-256.
            image: as it is in its file.
            drawing: of it.
        """
        return [_panel(file, facts, image, drawing) for file, facts in self.by_image.get(digest, [])]


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = [file for file in sorted(source.iterdir()) if file.name.lower().endswith(NIFTI)]
    if not found:
        raise MissingFileError(f"{source} holds no NIfTI file of medmixers explain")
    return found


def _panel(file: Path, facts: Explanation, image: Image, drawing: Drawing) -> Panel:
    stored, _ = read_explanation(file)
    shape = image.data.shape if image.affine is not None else (*image.data.shape[:2], 1)
    moved = 0.0 if image.affine is None else float(np.abs((stored.affine - image.affine) @ [*shape, 1]).max())
    if stored.shape != (*shape, len(facts.titles)) or moved > SAME_MM:
        raise InputError(f"{file} does not lie on its image: it was changed after medmixers explain wrote it")
    maps = np.moveaxis(np.asarray(stored.dataobj, np.float32), -1, 0)[:MOST]
    planes = drawing.explained(list(maps if image.affine is not None else maps[..., 0]), facts.titles[:MOST])
    left_out = len(facts.titles) - len(maps)
    notes = [*facts.notes, *([f"the first {MOST} of {len(facts.titles)} maps"] if left_out else [])]
    return Panel(planes, SHOWS[facts.kind], notes)
