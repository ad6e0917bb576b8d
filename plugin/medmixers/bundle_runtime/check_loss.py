"""A training whose loss is no number any more ends at once. No torch here."""

from __future__ import annotations

from math import isfinite
from typing import Any


def check_loss(engine: Any) -> None:
    """End the process where a loss is NaN or infinite, before it changes the weights and they are saved.

    Args:
        engine: MONAI's SupervisedTrainer, at its event LOSS_COMPLETED.
    """
    state = engine.state
    loss = float(state.output["loss"])
    if not isfinite(loss):
        iteration = (state.iteration - 1) % state.epoch_length + 1
        raise SystemExit(
            f"medmixers: error: the loss is {loss} in epoch {state.epoch}, iteration {iteration} of "
            f"{state.epoch_length}: look for NaN in the images (`medmixers dataset check DATA` reads every voxel), or "
            "lower --learning_rate"
        )
