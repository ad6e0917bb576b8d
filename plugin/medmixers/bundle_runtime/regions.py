"""Overlapping regions made of exclusive label values, and back (BraTS). torch is imported when called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medmixers.datasets.raw_format import region_class_order

if TYPE_CHECKING:
    from torch import Tensor


def ids_to_regions(label: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """label: values of a file, (1, *spatial) -> one channel of 0 and 1 per region, (K, *spatial)."""
    import torch

    channels = [sum((label == value).float() for value in values) for values in regions]
    return torch.cat(channels)  # type: ignore[arg-type]


def regions_to_ids(pred: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """pred: one channel of 0 and 1 per region, (K, *spatial), the outermost first -> values, (1, *spatial).

    A later region overwrites an earlier one (nnU-Net's ``regions_class_order``): each writes the value that it has
    and no later one does.
    """
    ids = pred[:1] * 0
    for index, value in enumerate(region_class_order(regions)):
        ids = ids.masked_fill(pred[index : index + 1] > 0, value)
    return ids
