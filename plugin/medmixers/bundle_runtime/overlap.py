"""Dice, NSD and HD95 of segmentations, with one rule for structures that are absent: nnU-Net's.

| structure | Dice, NSD | HD95 |
|---|---|---|
| absent and not predicted | NaN: the case is left out of the mean, and counted | NaN, likewise |
| absent and predicted, or present and not predicted | 0 | the diagonal of the image, in mm |

A mean is over the cases of each class first, then over the classes, as in nnU-Net's summary.json. HD95 has no value
where one side is empty, so the largest possible distance stands for it (Metrics Reloaded, Maier-Hein et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric, compute_hausdorff_distance, compute_surface_dice
from torch import Tensor


def dice(y_pred: Tensor, y: Tensor) -> Tensor:
    """Dice of every case and class: 2 |A and B| / (|A| + |B|), NaN where both are empty.

    Args:
        y_pred, y: (cases, classes, *spatial), bool.

    Returns:
        (cases, classes).
    """
    both = (y_pred & y).flatten(2).sum(dim=-1)
    return 2 * both / (y_pred.flatten(2).sum(dim=-1) + y.flatten(2).sum(dim=-1))


def hausdorff95(y_pred: Tensor, y: Tensor, spacing: Sequence[float]) -> Tensor:
    """MONAI's Hausdorff distance at the 95th percentile, by the rule for empty structures.

    Args:
        y_pred, y: (cases, classes, *spatial), bool.
        spacing: of the voxels along each axis; its unit is that of the result.

    Returns:
        (cases, classes).
    """
    distance = compute_hausdorff_distance(
        y_pred.float(), y.float(), include_background=True, percentile=95, spacing=list(spacing)
    )
    extents = [(size - 1) * step for size, step in zip(y.shape[2:], spacing, strict=True)]
    return _by_the_rule(distance, y_pred, y, one_empty=float(torch.tensor(extents, dtype=torch.float64).norm()))


def surface_dice(y_pred: Tensor, y: Tensor, spacing: Sequence[float], tolerance: float) -> Tensor:
    """MONAI's normalised surface Dice (NSD), by the rule for empty structures: 0 where one side is empty.

    Args:
        y_pred, y: (cases, classes, *spatial), bool.
        spacing: of the voxels along each axis.
        tolerance: largest distance of two surfaces that agree, in the unit of ``spacing``.

    Returns:
        (cases, classes).
    """
    score = compute_surface_dice(
        y_pred.float(), y.float(), [tolerance] * y.shape[1], include_background=True, spacing=list(spacing)
    )
    return _by_the_rule(score, y_pred, y, one_empty=0.0)


def _by_the_rule(value: Tensor, y_pred: Tensor, y: Tensor, *, one_empty: float) -> Tensor:
    no_pred, no_truth = _empty(y_pred), _empty(y)
    value = torch.where(no_pred ^ no_truth, one_empty, value)
    return torch.where(no_pred & no_truth, float("nan"), value)


def _empty(masks: Tensor) -> Tensor:
    return ~masks.flatten(2).any(dim=-1)


class _PerClassMean(CumulativeIterationMetric):
    """A metric of every case and class, (cases, classes), whose mean leaves NaN out per class.

    Args:
        include_background: whether channel 0 counts.
    """

    def __init__(self, *, include_background: bool) -> None:
        super().__init__()
        self.include_background = include_background
        self.reset()

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self.left_out = self.absent = self.missed = 0

    def aggregate(self) -> Tensor:
        """Mean over the cases of each class, then over the classes; NaN where nothing was scored."""
        return self.get_buffer().nanmean(dim=0).nanmean()

    def counted(self, y_pred: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and truth without the channels that do not count, after their empty structures are counted."""
        start = 0 if self.include_background else 1
        y_pred, y = y_pred[:, start:].bool(), y[:, start:].bool()
        no_pred, no_truth = _empty(y_pred), _empty(y)
        self.left_out += int((no_pred & no_truth).sum())
        self.absent += int((~no_pred & no_truth).sum())
        self.missed += int((no_pred & ~no_truth).sum())
        return y_pred, y


class DiceMetric(_PerClassMean):
    """:func:`dice` of every case and class."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor, **kwargs: Any) -> Tensor:
        return dice(*self.counted(y_pred, y))


class HD95Metric(_PerClassMean):
    """:func:`hausdorff95` of every case and class, in the unit of the label's affine (mm; pixels of a PNG)."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor, **kwargs: Any) -> Tensor:
        pixdim = getattr(y, "pixdim", torch.ones(y.ndim - 2))
        spacing = [float(size) for size in pixdim.flatten()][: y.ndim - 2]
        return hausdorff95(*self.counted(y_pred, y), spacing)


class _CountingHandler(IgniteMetricHandler):
    """Print, where asked, how many structures the rule for empty ones touched."""

    def __init__(self, metric: _PerClassMean, output_transform: Callable[..., Any], say_counts: bool) -> None:
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=True)
        self.say_counts = say_counts

    def compute(self) -> Any:
        result = super().compute()
        metric = self.metric_fn
        if self.say_counts and metric.left_out + metric.absent + metric.missed:
            print(
                f"{self._name}: {metric.left_out} absent structures were not predicted and are left out, "
                f"{metric.absent} were predicted, {metric.missed} present ones were not",
                flush=True,
            )
        return result


def mean_dice(
    *, include_background: bool, output_transform: Callable[..., Any], say_counts: bool = False
) -> IgniteMetricHandler:
    """An ignite metric of :class:`DiceMetric`.

    Args:
        include_background: whether channel 0 counts.
        output_transform: from the engine's output to predictions and labels, lists of (K, *spatial) of 0 and 1.
        say_counts: print at the end how many structures were absent or missed.
    """
    return _CountingHandler(DiceMetric(include_background=include_background), output_transform, say_counts)


def hausdorff95_mm(
    *, include_background: bool, output_transform: Callable[..., Any], say_counts: bool = False
) -> IgniteMetricHandler:
    """An ignite metric of :class:`HD95Metric`, which needs scipy. Args: as :func:`mean_dice`."""
    import scipy  # noqa: F401  # MONAI does so for the first case, after its prediction

    return _CountingHandler(HD95Metric(include_background=include_background), output_transform, say_counts)
