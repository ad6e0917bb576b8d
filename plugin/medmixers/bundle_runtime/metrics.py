"""HD95 in millimetres, and what the metrics of a classification take. torch and MONAI are imported when called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def hausdorff95_mm(*, include_background: bool, output_transform: Callable[..., Any]) -> Any:
    """MONAI's Hausdorff distance at the 95th percentile, with the voxel size of each label.

    MONAI's own handler counts in voxels: it has no way to pass the metric's ``spacing``.

    Args:
        include_background: whether channel 0 counts.
        output_transform: from the engine's output to predictions and labels, lists of (K, *spatial) of 0 and 1.

    Returns:
        An ignite metric: the mean over classes and cases that have a distance, in the unit of the label's affine (mm;
        pixels of a PNG). Infinite or NaN where a structure is missing on one or both sides.
    """
    from monai.handlers import IgniteMetricHandler
    from monai.metrics import HausdorffDistanceMetric

    class InMillimetres(HausdorffDistanceMetric):
        def _compute_tensor(self, y_pred: Any, y: Any, **kwargs: Any) -> Any:
            spacing = [float(size) for size in y.pixdim.flatten()][: y.ndim - 2]
            return super()._compute_tensor(y_pred, y, spacing=spacing)

    metric = InMillimetres(include_background=include_background, percentile=95)
    return IgniteMetricHandler(metric_fn=metric, output_transform=output_transform, save_details=True)


def probabilities_and_ids(output: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """Output of an engine -> probabilities (B, K) and true class ids (B,), as ignite's metrics take them."""
    import torch

    probabilities = torch.stack([item["pred"] for item in output])
    return probabilities, torch.stack([item["label"] for item in output]).argmax(dim=1)


def probabilities_with_truth(output: Sequence[dict[str, Any]]) -> list[Any]:
    """Output of an engine -> for each case its K probabilities and behind them the true class id, (K + 1,)."""
    import torch

    return [torch.cat((item["pred"], item["label"].argmax(0, keepdim=True))) for item in output]
