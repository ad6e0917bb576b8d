"""Check the weights that a training starts from, and the saved state that it goes on from."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

from medmixers.checkpoints import matching_weights, open_checkpoint, read_checkpoint, read_weights
from medmixers.errors import InputError, MissingFileError
from medmixers.factory import load_start_weights

STATE_FILE = re.compile(r"resume_checkpoint_epoch=(\d+)\.pt$")
STATE = ("model", "optimizer", "lr_scheduler", "trainer", "best_weights")


def check_start_weights(path: str, network: Any, *, adapt: bool) -> None:
    """Raise InputError unless a training can start from a file: its weights fit the network, or can be adapted.

    Args:
        path: of ``pretrained_ckpt``.
        network: that will take them.
        adapt: whether other channels and classes are allowed, as :class:`StartWeights` loads them.
    """
    if adapt:
        copy = deepcopy(network)
        load_start_weights(copy, path)
        broken = [name for name, value in copy.state_dict().items() if not value.isfinite().all()]
        if broken:
            raise InputError(f"{path!r} holds NaN or infinity in {len(broken)} tensors, {broken[0]!r} for example")
        return
    try:
        read_weights(path, network, option="pretrained_ckpt")
    except MissingFileError:
        raise
    except InputError as error:
        hint = "--pretrained_adapt True takes those of other channels or classes, and says what it leaves out"
        raise InputError(f"{error}; {hint}") from error


def check_state(path: str, network: Any, *, epochs: int | None) -> None:
    """Raise as :func:`read_weights` unless a file holds the state of a training that is to last that many epochs."""
    content = _opened(path)
    if not isinstance(content, dict) or not set(STATE) <= set(content):
        raise InputError(f"{path!r} holds no state of a training, {', '.join(STATE)}: take a resume_checkpoint file")
    matching_weights(path, content, network)
    if epochs is None:
        return
    done = content["trainer"]["iteration"] // content["trainer"]["epoch_length"]
    if done > epochs:
        raise InputError(f"{path!r} is the state after {done} epochs; give --epochs {done} or more, not {epochs}")


def _opened(path: str) -> Any:
    """The content of the file; where it is damaged, the message names the newest other state in its folder."""
    try:
        return open_checkpoint(path, "resume_ckpt")
    except MissingFileError:
        raise
    except InputError as error:
        others = {int(match[1]): file for file in Path(path).parent.iterdir() if (match := STATE_FILE.match(file.name))}
        readable = (others[epoch] for epoch in sorted(others, reverse=True) if _is_readable(others[epoch]))
        other = next(readable, None)
        hint = f"; take the state before it: --resume_ckpt {other}" if other else ""
        raise InputError(f"{error}{hint}") from error


def _is_readable(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except InputError:
        return False
    return True
