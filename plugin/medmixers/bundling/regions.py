"""Overlapping regions made of exclusive label values, and back (BraTS). torch is imported when called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def ids_to_regions(label: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """label: values of a file, (1, *spatial) -> one channel of 0 and 1 a region, (K, *spatial)."""
    import torch

    channels = [sum((label == value).float() for value in values) for values in regions]
    return torch.cat(channels)  # type: ignore[arg-type]


def regions_to_ids(pred: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """pred: one channel of 0 and 1 a region, (K, *spatial), the outermost first -> values, (1, *spatial).

    A later region overwrites an earlier one (nnU-Net's ``regions_class_order``): each writes the value that it has
    and no later one does.
    """
    ids = pred[:1] * 0
    for index, value in enumerate(painted_ids(regions)):
        ids = ids.masked_fill(pred[index : index + 1] > 0, value)
    return ids


def painted_ids(regions: Sequence[Sequence[int]]) -> list[int]:
    """The value that each region writes: the first of its own that no later region has."""
    ids = []
    for index, values in enumerate(regions):
        inner = {value for later in regions[index + 1 :] for value in later}
        own = [value for value in values if value not in inner]
        if not own:
            raise ValueError(f"region {index} of {list(map(list, regions))} has no value of its own")
        ids.append(own[0])
    return ids
