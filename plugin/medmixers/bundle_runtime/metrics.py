"""Metrics of a classification, and what they take from an engine's output. torch and MONAI are imported when called.

Macro means are over the classes that the cases have, as in `medmixers study`: a class without a case does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


def probabilities_and_ids(output: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """Output of an engine -> probabilities (B, K) and true class ids (B,), as ignite's metrics take them."""
    import torch

    probabilities = torch.stack([item["pred"] for item in output])
    return probabilities, torch.stack([item["label"] for item in output]).argmax(dim=1)


def probabilities_with_truth(output: Sequence[dict[str, Any]]) -> list[Any]:
    """Output of an engine -> for each case its K probabilities and behind them the true class id, (K + 1,)."""
    import torch

    return [torch.cat((item["pred"], item["label"].argmax(0, keepdim=True))) for item in output]


def class_mean(*, of: Literal["f1", "precision", "recall", "auc"]) -> Any:
    """An ignite metric: the mean of a score over the classes that have a case, from the cases of all processes.

    Args:
        of: the score. Precision is 0 for a class that is never predicted. AUC is the AUROC of a class against all
            others, nan where all cases are of one class.
    """
    from ignite.metrics import EpochMetric
    from torch.nn.functional import one_hot

    def mean(probabilities: Tensor, ids: Tensor) -> float:
        truth = one_hot(ids, probabilities.shape[1])
        if of == "auc":
            return mean_of_known(aurocs(probabilities, truth))
        decided = one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
        right, cases, predicted = (truth * decided).sum(dim=0), truth.sum(dim=0), decided.sum(dim=0)
        ratios = {"f1": (2 * right, cases + predicted), "precision": (right, predicted), "recall": (right, cases)}
        part, whole = ratios[of]
        return float((part.double() / whole.clamp(min=1))[cases > 0].mean())

    return EpochMetric(mean, output_transform=probabilities_and_ids, check_compute_fn=False)


def aurocs(probabilities: Tensor, truth: Tensor) -> list[float]:
    """MONAI's AUROC of each column, (N, K) each; nan where all cases are positive, or none is."""
    from monai.metrics import compute_roc_auc

    return [
        float(compute_roc_auc(probabilities[:, column], truth[:, column])) if 0 < count < len(truth) else float("nan")
        for column, count in enumerate(truth.sum(dim=0).tolist())
    ]


def mean_of_known(values: Iterable[float]) -> float:
    """The mean of those that are not nan; nan where all are."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")
