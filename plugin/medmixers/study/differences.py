"""Differences of scores without the noise of floating-point arithmetic: the one rule for what is equal.

1 - 2/3 and 2/3 - 1/3 differ in their last digit, and so do 0.85 - 0.84 and 0.75 - 0.74. Ranks would break such ties by
chance. So differences, and means that are ranked, are rounded to 12 digits of the largest score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError

Array = NDArray[np.float64]
# A double has 15 to 16 digits. Means over seeds, classes and cases may cost the last two or three of them; no table of
# scores means a difference in the 12th.
DIGITS = 12


def decimal_places(*scores: Array) -> int:
    """Decimal places that 12 digits of the largest of these scores have."""
    largest = max((float(np.abs(each[np.isfinite(each)]).max(initial=0)) for each in scores), default=0.0)
    return DIGITS - 1 - int(np.floor(np.log10(largest))) if largest else DIGITS


def rounded(scores: Array) -> Array:
    """Scores to 12 digits of the largest, so that equal ones tie."""
    return np.round(scores, decimal_places(scores))


def difference(first: Array, second: Array) -> Array:
    """First minus second, to 12 digits of the largest score of both; shapes as NumPy broadcasts them."""
    return np.round(first - second, decimal_places(first, second))


def paired_difference(first: Array, second: Array) -> Array:
    """:func:`difference` of the same cases, without those that lack a score of one.

    Raises:
        InputError: other shapes, or fewer than 2 pairs of finite scores.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(f"two rows of the same cases are needed, got shapes {first.shape} and {second.shape}")
    found = difference(first, second)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        raise InputError(f"at least 2 cases with a score of both are needed, got {len(found)}")
    return found
