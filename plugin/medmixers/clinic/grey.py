"""Which values of an image pictures show as black and white."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.5, 99.5)


class Window(NamedTuple):
    """Values that are black and white."""

    black: float
    white: float


def percentile_window(voxels: NDArray[Any]) -> Window:
    """``PERCENTILES`` of the voxels other than 0."""
    seen = voxels[voxels != 0] if voxels.any() else voxels
    black, white = np.percentile(seen, PERCENTILES)
    return Window(float(black), float(white))
