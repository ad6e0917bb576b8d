"""What entries cost: parameters, MACs, time, memory, and how fast their loss falls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmixers.study.report.folder import Run, StudyFolder

COST_COLUMNS = ("parameters", "gmacs", "train_seconds", "peak_memory_mib", "epoch_90", "device")
REDUCTION = 0.9


@dataclass(frozen=True)
class Cost:
    """Of one entry on one data set; None where no run recorded it.

    Args:
        parameters: of the network.
        gmacs: multiply-adds of one forward pass, in units of 10^9.
        train_seconds, peak_memory_mib: mean over its runs.
        epoch_90: mean over its runs of the first epoch with 90 % of the loss's reduction.
        device: names, where the runs' devices differ all of them.
    """

    parameters: float | None
    gmacs: float | None
    train_seconds: float | None
    peak_memory_mib: float | None
    epoch_90: float | None
    device: str


def cost_of(study: StudyFolder, dataset: str, entry: str) -> Cost:
    """Mean cost of an entry's scored runs on a data set."""
    runs = study.runs_of(dataset, entry)
    macs = _mean_fact(runs, "macs")
    epochs = [epoch for epoch in (epoch_of_reduction(run.curve) for run in runs) if epoch is not None]
    return Cost(
        parameters=_mean_fact(runs, "parameters"),
        gmacs=None if macs is None else macs / 1e9,
        train_seconds=_mean_fact(runs, "train_seconds"),
        peak_memory_mib=_mean_fact(runs, "peak_memory_mib"),
        epoch_90=float(np.mean(epochs)) if epochs else None,
        device=", ".join(sorted({str(run.facts["device"]) for run in runs if run.facts.get("device")})),
    )


def _mean_fact(runs: list[Run], name: str) -> float | None:
    values = [float(run.facts[name]) for run in runs if run.facts.get(name) is not None]
    return float(np.mean(values)) if values else None


def epoch_of_reduction(curve: NDArray[np.float64]) -> float | None:
    """First epoch whose loss has fallen by 90 % of the way from the first to the lowest; None if it never falls.

    Args:
        curve: epochs and loss, (epochs, 2).
    """
    if len(curve) < 2 or curve[:, 1].min() >= curve[0, 1]:
        return None
    goal = curve[0, 1] - REDUCTION * (curve[0, 1] - curve[:, 1].min())
    return float(curve[np.argmax(curve[:, 1] <= goal), 0])
