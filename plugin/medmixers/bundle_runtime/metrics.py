"""HD95 in millimetres as a handler of MONAI's engines. torch and MONAI are imported when it is made."""

from __future__ import annotations

from collections.abc import Callable
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
