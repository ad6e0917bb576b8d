"""Weights from how often a class occurs in the training cases. MONAI is imported when files are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def class_weights(*, cases: Sequence[Mapping[str, Any]], classes: int, ceiling: float) -> list[float]:
    """min(ceiling, frequency ** -0.5) of each class id (Keuth et al. 2025, section 4.1).

    Args:
        cases: training cases, ``label`` a class id.
        classes: number of classes.
        ceiling: the highest weight, also that of a class that does not occur.
    """
    counts = np.bincount([case["label"] for case in cases], minlength=classes)
    share = np.maximum(counts / max(counts.sum(), 1), ceiling**-2)
    return [float(weight) for weight in share**-0.5]


def label_weights(*, cases: Sequence[Mapping[str, Any]], values: int, ignored: int | None) -> list[float]:
    """frequency ** -0.5 of each label value 0 .. values - 1 over all voxels; 0 for one that is absent or ignored.

    Args:
        cases: training cases, ``label`` a file.
        values: number of label values.
        ignored: the value that no patch is centred on.
    """
    from monai.transforms import LoadImage

    load, counts = LoadImage(image_only=True, dtype=np.int64), np.zeros(values)
    for case in cases:
        counts += np.bincount(np.asarray(load(case["label"])).ravel(), minlength=values)[:values]
    if ignored is not None:
        counts[ignored] = 0
    return [float((count / counts.sum()) ** -0.5) if count else 0.0 for count in counts]
