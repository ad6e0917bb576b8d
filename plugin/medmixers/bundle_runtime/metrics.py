"""What the metrics of a classification take from an engine's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def probabilities_and_ids(output: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """Output of an engine -> probabilities (B, K) and true class ids (B,), as ignite's metrics take them."""
    import torch

    probabilities = torch.stack([item["pred"] for item in output])
    return probabilities, torch.stack([item["label"] for item in output]).argmax(dim=1)


def probabilities_with_truth(output: Sequence[dict[str, Any]]) -> list[Any]:
    """Output of an engine -> for each case its K probabilities and behind them the true class id, (K + 1,)."""
    import torch

    return [torch.cat((item["pred"], item["label"].argmax(0, keepdim=True))) for item in output]
