"""Losses of segmentation that MONAI does not have: soft Dice + cross-entropy over a part of the voxels, or of masks."""

from __future__ import annotations

from typing import cast

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class MaskedDiceCELoss(nn.Module):
    """Soft Dice + cross-entropy of exclusive labels, over the voxels that count.

    Dice never counts the background, channel 0. A patch in which no voxel counts has a finite loss.

    Args:
        classes: number of channels of the logits.
        dice_weight: weight of soft Dice.
        ce_weight: weight of the cross-entropy.
        ignored_label: label value that neither term counts, None for none.
        ignore_background: whether the cross-entropy leaves the background out.
    """

    def __init__(
        self,
        *,
        classes: int,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        ignored_label: int | None = None,
        ignore_background: bool = False,
    ) -> None:
        super().__init__()
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.ignored_label, self.ignore_background = ignored_label, ignore_background
        self.classes = classes
        self.dice = DiceLoss(to_onehot_y=True, softmax=True, include_background=False)

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """pred: logits (B, K, *spatial); label: values (B, 1, *spatial) -> a scalar."""
        return self.dice_weight * self._dice(pred, label) + self.ce_weight * self._cross_entropy(pred, label)

    def _dice(self, pred: Tensor, label: Tensor) -> Tensor:
        if self.ignored_label is None:
            return cast(Tensor, self.dice(pred, label))
        # Where the label is ignored, Dice sees a certain vote for the background, which it does not count.
        ignored = label == self.ignored_label
        vote = torch.full((self.classes,), -1e4, device=pred.device)
        vote[0] = 0
        pred = torch.where(ignored, vote.view(1, -1, *[1] * (pred.ndim - 2)), pred)
        return cast(Tensor, self.dice(pred, torch.where(ignored, 0, label)))

    def _cross_entropy(self, pred: Tensor, label: Tensor) -> Tensor:
        """The mean by hand: torch's own is NaN where no voxel counts."""
        weight, counted = torch.ones(self.classes, device=pred.device), torch.ones_like(label, dtype=torch.bool)
        if self.ignore_background:
            weight[0] = 0
            counted = label > 0
        ignore_index = -100
        if self.ignored_label is not None:
            ignore_index = self.ignored_label
            counted = counted & (label != self.ignored_label)
        total = cross_entropy(pred, label[:, 0].long(), weight, ignore_index=ignore_index, reduction="sum")
        return total / counted.sum().clamp(min=1)


class DiceBCELoss(nn.Module):
    """Soft Dice + binary cross-entropy of overlapping labels, one sigmoid channel each.

    Args:
        dice_weight: weight of soft Dice.
        ce_weight: weight of the binary cross-entropy.
    """

    def __init__(self, *, dice_weight: float = 1.0, ce_weight: float = 1.0) -> None:
        super().__init__()
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.dice = DiceLoss(sigmoid=True)
        self.cross_entropy = nn.BCEWithLogitsLoss()

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """pred: logits (B, K, *spatial); label: masks of 0 and 1 of the same shape -> a scalar."""
        dice, binary = self.dice(pred, label), self.cross_entropy(pred, label)
        return cast(Tensor, self.dice_weight * dice + self.ce_weight * binary)
