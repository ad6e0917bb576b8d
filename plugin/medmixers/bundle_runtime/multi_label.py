"""Several labels per image: targets, weights, decisions and AUROC. torch and ignite are imported when called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medmixers.bundle_runtime.metrics import aurocs, mean_of_known

if TYPE_CHECKING:
    from torch import Tensor


def multi_hot(ids: Sequence[int], classes: int) -> Tensor:
    """Ids of the labels of an image -> (classes,) of 0 and 1, float32."""
    import torch

    target = torch.zeros(classes)
    target[list(ids)] = 1
    return target


def positive_weights(*, cases: Sequence[Mapping[str, Any]], classes: int, ceiling: float) -> list[float]:
    """Weight of the positive cases of each label, relative to its negative ones: (N- / N+) ** 0.5.

    It is the rule frequency ** -0.5 of Keuth et al. 2025 for exclusive classes, applied to each label's two classes,
    and clipped to 1 / ceiling .. ceiling.

    Args:
        cases: training cases, ``label`` a list of ids.
        classes: number of labels.
        ceiling: the highest weight, also that of a label that no case has.
    """
    positive = np.bincount([label for case in cases for label in case["label"]], minlength=classes)
    ratio = (len(cases) - positive) / np.maximum(positive, 1)
    return [float(weight) for weight in np.where(positive, np.clip(ratio**0.5, 1 / ceiling, ceiling), ceiling)]


def decisions_and_truth(output: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Output of an engine -> 0 or 1 of every label of every case, predicted from 0.5 on and true, (B K,) each."""
    import torch

    predicted = torch.cat([item["pred"] for item in output]) >= 0.5
    return predicted.long(), torch.cat([item["label"] for item in output]).long()


def probabilities_and_truth(output: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Output of an engine -> probabilities and truth of 0 and 1, (B, K) each, as ignite's metrics take them."""
    import torch

    return torch.stack([item["pred"] for item in output]), torch.stack([item["label"] for item in output])


def probabilities_beside_truth(output: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Output of an engine -> for each case its K probabilities and its K truths, (2 K,)."""
    import torch

    return [torch.cat((item["pred"], item["label"].to(item["pred"]))) for item in output]


def mean_auroc(*, labels: Sequence[str], output_transform: Callable[..., Any]) -> Any:
    """An ignite metric: MONAI's AUROC of each label, and their mean; a label of one kind of cases only is left out.

    The engine's metrics also get NAME_LABEL for each label, nan for one that is left out.

    Args:
        labels: their names.
        output_transform: from the engine's output to probabilities and truth, (B, K) each.
    """
    from ignite.metrics import EpochMetric

    class MeanAUROC(EpochMetric):
        def __init__(self) -> None:
            super().__init__(self.mean, output_transform=output_transform, check_compute_fn=False)
            self.values: list[float] = []

        def mean(self, probabilities: Tensor, truth: Tensor) -> float:
            self.values = aurocs(probabilities, truth)
            return mean_of_known(self.values)

        def completed(self, engine: Any, name: str) -> None:
            super().completed(engine, name)
            engine.state.metrics |= {f"{name}_{label}": v for label, v in zip(labels, self.values, strict=False)}

    return MeanAUROC()
