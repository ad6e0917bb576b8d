"""SARS-CoV-2 CT-scan: ``COVID/Covid (1).png``, ``non-COVID/Non-Covid (1).png``. Nothing names a patient."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse

from medmixers.datasets.reading import PICTURES, read_picture, some, with_ending
from medmixers.datasets.writers import DatalistWriter, last_of_every
from medmixers.errors import InputError

FOLDERS = {"non_covid": "non-covid", "covid": "covid"}
THUMBNAIL = 32


def convert(writer: DatalistWriter, source: Path, *, test_every: int = 5, similarity: float = 0.98) -> None:
    """Write every slice in grey. Nearly equal slices of a class stay together.

    Args:
        writer: of covid_ct_classification.
        source: folder that holds COVID and non-COVID, at any depth.
        test_every: n. The n-th, 2n-th, ... of the sorted groups of each class are the test part; 0: none.
        similarity: lowest correlation of the 32 x 32 thumbnails of nearly equal slices. The
            value was not tuned on this set: look at the number of groups.
    """
    if not 0 < similarity < 1:
        raise InputError(f"similarity must lie between 0 and 1, got {similarity}")
    for key, label in writer.task.labels.items():
        paths = with_ending(source.rglob("*"), PICTURES)
        paths = [path for path in paths if path.parent.name.lower() == FOLDERS[label.name]]
        some(paths, f"PNG in a folder {FOLDERS[label.name]!r}", source)
        paths.sort(key=lambda path: (len(path.name), path.name))  # (2) before (10)
        images = [read_picture(path, "L") for path in paths]
        numbers = near_duplicates(images, similarity)
        groups = [f"{label.name} {number:05d}" for number in numbers]
        largest = max(Counter(groups).values())
        if largest > max(len(groups) / 2, 10):
            raise InputError(
                f"{largest} of {len(groups)} slices of {label.name} would be one group at {similarity=}; raise it"
            )
        test = last_of_every(groups, test_every)
        for path, image, group in zip(paths, images, groups, strict=True):
            part = "test" if group in test else "training"
            writer.add_class(part, f"{label.name}_{writer.case_name(path.stem)}", image, key, group=group)
    writer.notes.append(
        "the data set names no patients: slices of one patient lie on both sides, and scores are optimistic. Near-"
        f"duplicates (similarity {similarity}) were kept together"
    )


def near_duplicates(images: list[NDArray[Any]], similarity: float) -> list[int]:
    """Group number of each image: images that correlate, and what those correlate with, share one."""
    thumbnails = np.stack([_thumbnail(image) for image in images])
    alike = thumbnails @ thumbnails.T >= similarity
    _, numbers = sparse.csgraph.connected_components(sparse.csr_array(alike), directed=False)
    return numbers.tolist()


def _thumbnail(image: NDArray[Any]) -> NDArray[np.float32]:
    """Of mean 0 and length 1, so that a product is a correlation."""
    small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    flat = np.asarray(small, np.float32).ravel()
    flat = flat - flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-6)
