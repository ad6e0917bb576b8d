"""TIGER WSIROIS: regions of slides with a mask of tissues.

On disk: ``roi-level-annotations/{tissue-bcss,tissue-cells}/{images,masks}/SLIDE_[x1, y1, x2, y2].png``; masks hold 0
(excluded) and 1..7.
"""

from __future__ import annotations

from pathlib import Path

from medmixers.datasets.reading import existing, read_picture, some, with_ending
from medmixers.datasets.writers import RawWriter, last_of_every
from medmixers.errors import InputError

EXCLUDED = 0


def convert(writer: RawWriter, source: Path, *, min_size: int = 0, test_every: int = 10) -> None:
    """Write every region; excluded pixels get nnU-Net's ignore label.

    Args:
        writer: of breast_tissue_segmentation.
        source: folder that holds tissue-bcss or tissue-cells, at any depth.
        min_size: leave out regions with both sides shorter, in pixels; 1000 in Keuth et al.
        test_every: n. The n-th, 2n-th, ... of the sorted slides are the test part; 0: none.
    """
    images = some(with_ending(source.rglob("tissue-*/images/*"), (".png",)), "tissue-*/images/*.png", source)
    kept = [path for path in images if max(read_picture(path).shape[:2]) >= min_size]
    if len(kept) < len(images):
        writer.notes.append(f"{len(images) - len(kept)} regions smaller than {min_size} pixels were left out")
    test = last_of_every(map(_slide, kept), test_every)
    ids = {key: key for key in writer.task.labels if key} | {EXCLUDED: writer.task.ignore_label or 0}
    for path in kept:
        shape = read_picture(path).shape
        if len(shape) != 3 or shape[2] != 3:
            raise InputError(f"{path} must be RGB, got shape {shape}")
        mask = existing(path.parents[1] / "masks" / path.name, f"the mask of {path.stem}")
        part = "test" if _slide(path) in test else "training"
        writer.add(part, writer.case_name(path.stem), [path], mask, group=_slide(path), ids=ids)


def _slide(path: Path) -> str:
    slide, bracket, _ = path.stem.partition("_[")
    if not bracket:
        raise InputError(f"{path} must be named SLIDE_[x1, y1, x2, y2].png")
    return slide
