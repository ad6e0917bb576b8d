"""Read a checkpoint: a file that torch wrote, a state dict in memory, or a download by timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import InputError, MissingFileError, first_line

TIMM_PREFIX = "timm:"
# Where a file holds its tensors, the first that it has: moving averages before plain weights, as in timm.
PARTS = ("state_dict_ema", "model_ema", "state_dict", "model", "network_weights")
VALID_CONTENT = f"valid: a state dict (names and tensors), alone or under {', '.join(map(repr, PARTS))}"
# State dicts of distributed, averaged and compiled networks have these prefixes, also behind Lightning's `model.`.
WRAPPER_PREFIXES = re.compile(r"^(model\.)?(?:module\.|_orig_mod\.)+")
LIGHTNING_PREFIX = "model."
LOSS_PREFIX = "criterion."  # class weights of the loss, which Lightning saves with the network


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Args:
        tensors: names without the prefixes of wrappers -> tensors.
        training: arguments of the training that wrote it (Lightning's ``hyper_parameters``); empty if not saved.
        part: key of the file that held the tensors; "" for a bare state dict.
        is_lightning: whether Lightning's prefix was removed from every name.
        loss: names of the loss's tensors, which are no part of the network.
    """

    tensors: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    is_lightning: bool = False
    loss: tuple[str, ...] = ()


def read_source(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of ``source``, as :func:`open_source` names them."""
    return dict(open_source(source).tensors)


def open_source(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in a file, in a mapping, or downloaded as "timm:NAME".

    Raises:
        ValueError: a file or a mapping without a state dict, or a name that timm does not know.
        OSError: no such file, or timm could not download.
    """
    if isinstance(source, Mapping):
        return _checkpoint(source, "the mapping")
    if str(source).startswith(TIMM_PREFIX):
        return Checkpoint(_download_from_timm(_timm_name(str(source))))
    path = Path(source)
    if not path.is_file():
        raise MissingFileError(f"no weights file {str(source)!r}; valid: a file, or 'timm:NAME' to download")
    try:
        saved = read_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}; {VALID_CONTENT}") from error
    return _checkpoint(saved, repr(str(path)))


def check_source(source: str) -> None:
    """Raise the errors of :func:`open_source`, without a download."""
    if source.startswith(TIMM_PREFIX):
        _timm_name(source)
    else:
        open_source(source)


def _checkpoint(saved: Any, where: str) -> Checkpoint:
    """Raises ValueError, with the contents of ``where``, if ``saved`` holds no state dict."""
    part, state = "", saved
    for name in PARTS if isinstance(saved, Mapping) else ():
        if isinstance(saved.get(name), Mapping):
            part, state = name, saved[name]
            break
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(f"{where} holds {_content(state)}, no state dict; {VALID_CONTENT}")
    tensors = {WRAPPER_PREFIXES.sub(r"\1", str(key)): value for key, value in state.items()}
    loss = tuple(key for key in tensors if key.startswith(LOSS_PREFIX))
    tensors = {key: value for key, value in tensors.items() if key not in loss}
    is_lightning = bool(tensors) and all(key.startswith(LIGHTNING_PREFIX) for key in tensors)
    if is_lightning:
        tensors = {key.removeprefix(LIGHTNING_PREFIX): value for key, value in tensors.items()}
    training = saved.get("hyper_parameters", {}) if part else {}
    return Checkpoint(tensors, training if isinstance(training, Mapping) else {}, part, is_lightning, loss)


def _content(saved: Any) -> str:
    if not isinstance(saved, Mapping):
        return f"an object of {type(saved).__name__}"
    keys = [repr(key) for key in saved]
    return f"the keys {', '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}" if keys else "nothing"


def _timm_name(source: str) -> str:
    """The name in "timm:NAME". Raises ValueError if timm has no such model."""
    import timm

    name = source.removeprefix(TIMM_PREFIX)
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"timm has no model {name!r}; 'medmixers list peers timm' lists those that it has")
    return name


def _download_from_timm(name: str) -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises many kinds of errors
        raise OSError(
            f"timm could not download {name!r} ({first_line(error)}); fetch its file elsewhere and give its path"
        ) from error
