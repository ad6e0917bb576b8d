"""Check the saved state of a training before it is resumed."""

from __future__ import annotations

from typing import Any

from medmixers.checkpoints import matching_weights, open_checkpoint
from medmixers.errors import InputError

STATE = ("model", "optimizer", "lr_scheduler", "trainer", "best_weights")


def check_state(path: str, network: Any, *, epochs: int | None) -> None:
    """Raise as :func:`read_weights` unless a file holds the state of a training that is to last that many epochs."""
    content = open_checkpoint(path, "resume_ckpt")
    if not isinstance(content, dict) or not set(STATE) <= set(content):
        raise InputError(f"{path!r} holds no state of a training, {', '.join(STATE)}: take a resume_checkpoint file")
    matching_weights(path, content, network)
    if epochs is None:
        return
    done = content["trainer"]["iteration"] // content["trainer"]["epoch_length"]
    if done > epochs:
        raise InputError(f"{path!r} is the state after {done} epochs; give --epochs {done} or more, not {epochs}")
