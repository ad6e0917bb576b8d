"""ImageWoof: ``imagewoof2-320/{train,val}/n02086240/NAME.JPEG``, one folder per class of ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.reading import PICTURES, read_picture, some, with_ending
from medmixers.datasets.writers import DatalistWriter

# In the order of the task's labels.
FOLDERS = (
    "n02086240", "n02087394", "n02088364", "n02089973", "n02093754", "n02096294", "n02099601", "n02105641",
    "n02111889", "n02115641",
)  # fmt: skip
# Keuth et al. 2025 select and test on the given val; the task has no part of its own for the selection.
PARTS = {"train": "training", "val": "test"}


def convert(writer: DatalistWriter, source: Path) -> None:
    """Take the given parts: train trains, val tests. Black borders make each photograph square, as in Keuth et al.

    Args:
        writer: of dog_breed_classification.
        source: folder that holds train and val, or imagewoof2-320 with them.
    """
    roots = [root for root in (source, *sorted(source.iterdir())) if (root / "train").is_dir()]
    root = roots[0] if roots else source
    for folder, part in PARTS.items():
        for key, name in zip(writer.task.labels, FOLDERS, strict=True):
            paths = with_ending((root / folder / name).glob("*"), PICTURES)
            for path in some(paths, f"photograph in {folder}/{name}", source):
                picture = squared(read_picture(path, "RGB"))
                writer.add_class(part, f"{folder}_{writer.case_name(path.stem)}", picture, key)
    writer.notes.append(
        "Keuth et al. select the best weights on the part val and report its scores; here val is the test part, and "
        "training cases are held out for the selection"
    )


def squared(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Black borders on both sides of the shorter axis of (height, width, 3), up to one pixel short of square."""
    edge = max(picture.shape[:2])
    borders = [((edge - length) // 2,) * 2 for length in picture.shape[:2]]
    return np.pad(picture, (*borders, (0, 0)))
