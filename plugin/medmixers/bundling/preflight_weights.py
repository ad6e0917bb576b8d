"""Whether a file holds the weights of a network. torch is imported when a file is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medmixers.files import first_line

STATE = ("model", "optimizer", "lr_scheduler", "trainer", "best_weights")


def read_weights(path: str, network: Any, *, option: str = "ckpt_path", hint: str = "") -> dict[str, Any]:
    """The tensors of a file: they must have the names and shapes of the network's, flat or as ``model`` of a state.

    Args:
        path: the file.
        network: the module that will load it.
        option: the option that names the file.
        hint: added to the message where there is no file.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: anything else.
    """
    return _weights(path, _load(path, option, hint), network)


def check_state(path: str, network: Any, *, epochs: int | None) -> None:
    """Raise as :func:`read_weights` unless a file holds the state of a training that is to last that many epochs."""
    content = _load(path, "resume_ckpt")
    if not isinstance(content, dict) or not set(STATE) <= set(content):
        raise ValueError(f"{path!r} holds no state of a training, {', '.join(STATE)}: take a resume_checkpoint file")
    _weights(path, content, network)
    if epochs is None:
        return
    done = content["trainer"]["iteration"] // content["trainer"]["epoch_length"]
    if done > epochs:
        raise ValueError(f"{path!r} is the state after {done} epochs; give --epochs {done} or more, not {epochs}")


def _weights(path: str, content: Any, network: Any) -> dict[str, Any]:
    import torch

    weights = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path!r} holds no weights: a dict of tensors is needed, or one under 'model'")
    expected = network.state_dict()
    wrong = expected.keys() ^ weights.keys()
    wrong |= {name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape}
    if wrong:
        raise ValueError(
            f"{path!r} holds the weights of another network, or of other options: {len(wrong)} tensors are "
            f"missing, unknown or of another shape, {min(wrong)!r} for example"
        )
    broken = [name for name in expected if not weights[name].isfinite().all()]
    if broken:
        raise ValueError(f"{path!r} holds NaN or infinity in {len(broken)} tensors, {broken[0]!r} for example")
    return {name: weights[name] for name in expected}


def _load(path: str, option: str, hint: str = "") -> Any:
    if not Path(path).is_file():
        if option == "ckpt_path":
            raise FileNotFoundError(
                f"no weights at {path!r}: this bundle is untrained; train it, or give --ckpt_path FILE{hint}"
            )
        raise FileNotFoundError(f"--{option}: there is no file {path!r}")
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything: torch's unpickler runs what the bytes say
        raise ValueError(f"{path!r} cannot be read as weights: {first_line(error)}") from error
