"""Check the values of a label or a mask, whoever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError

MOST_LABELS = 2**16  # label values that are counted without sorting


def check_label_values(path: Path, data: NDArray[Any], labels: Mapping[int, str]) -> dict[int, int]:
    """Voxels per value of a label. InputError: a value that is none of ``labels``, value -> name."""
    counts = _value_counts(data)
    unknown = [as_text(value) for value in counts if value not in labels]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        valid = ", ".join(f"{value} {name}".strip() for value, name in labels.items())
        raise InputError(f"{path} holds label {shown}, which is no label of the data set; valid: {valid}")
    return {int(value): count for value, count in counts.items()}


def as_text(value: float) -> str:
    """A value in 8 digits; in all its digits where 8 would show a whole number that it is not."""
    text = f"{value:.8g}"
    return repr(value) if float(text).is_integer() and not float(value).is_integer() else text


def _value_counts(data: NDArray[Any]) -> dict[float, int]:
    """Voxels per value, ascending. Small whole numbers are counted without sorting all voxels."""
    if data.size and np.isfinite(low := data.min()) and low >= 0 and (high := data.max()) < MOST_LABELS:
        whole = data.astype(np.uint16)
        if data.dtype.kind in "biu" or (whole == data).all():
            found = np.bincount(whole.ravel(), minlength=int(high) + 1)
            return {float(value): int(found[value]) for value in np.flatnonzero(found)}
    values, found = np.unique(data, return_counts=True)
    return dict(zip(values.tolist(), map(int, found), strict=True))


def check_mask_values(path: Path, data: NDArray[Any]) -> None:
    """Raise InputError unless a mask holds 0 and 1, or 0 and 255."""
    values = list(_value_counts(data))
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        shown = ", ".join(as_text(value) for value in values[:5])
        raise InputError(
            f"{path} holds {shown}{' and more' if len(values) > 5 else ''}; a mask has 0 and 1, or 0 and 255"
        )
