"""Read files that torch wrote, without running code from them. torch is imported when a file is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from medmixers.errors import InputError, MissingFileError, first_line


def read_checkpoint(path: str | Path, *, also: Sequence[Any] = (), without_tensors: bool = False) -> Any:
    """The content of a file of ``torch.save``, on the CPU.

    Tensors, containers, numbers, strings and NumPy's scalars are read (nnU-Net's checkpoints hold the last). A file
    that holds an object of any other class is refused, so no file runs code.

    Args:
        path: the file.
        also: further classes that the file may hold, none of which runs code, as torch's ``safe_globals`` takes them.
        without_tensors: leave the numbers of tensors on the disk, where the file's format allows it. The content must
            not outlive the file.

    Raises:
        MissingFileError: there is no such file.
        InputError: the file is damaged, of another format, or holds an object of another class.
    """
    import torch

    if not Path(path).is_file():
        raise MissingFileError(f"there is no file {str(path)!r}")
    try:
        with torch.serialization.safe_globals([*_numpy_scalars(), *also]):
            mapped = without_tensors and is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file may raise anything: torch's unpickler follows its bytes
        raise InputError(f"{str(path)!r} cannot be read as weights: {_reason(error)}") from error


def compact_copies(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of tensors for ``torch.save``, which writes the whole storage of a view.

    Names that share a tensor share its copy: nnU-Net's own networks have up to three names for each.
    """
    copies: dict[Any, Any] = {}
    result = {}
    for name, value in weights.items():
        place = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if place not in copies:
            copies[place] = value.detach().clone()
        result[name] = copies[place]
    return result


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
    return matching_weights(path, open_checkpoint(path, option, hint), network)


def matching_weights(path: str, content: Any, network: Any) -> dict[str, Any]:
    """The tensors in ``content`` that ``network`` loads. InputError: names, shapes or numbers do not fit."""
    import torch

    weights = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"{path!r} holds no weights: a dict of tensors is needed, or one under 'model'")
    expected = network.state_dict()
    wrong = expected.keys() ^ weights.keys()
    wrong |= {name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape}
    if wrong:
        raise InputError(
            f"{path!r} holds the weights of another network, or of other options: {len(wrong)} tensors are "
            f"missing, unknown or of another shape, {min(wrong)!r} for example"
        )
    kinds = [name for name in expected if _kind(expected[name]) != _kind(weights[name])]
    if kinds:
        found, wanted = weights[kinds[0]].dtype, expected[kinds[0]].dtype
        raise InputError(
            f"{path!r} holds {len(kinds)} tensors of another kind of numbers, {kinds[0]!r} as {found} for {wanted} for "
            "example"
        )
    broken = [name for name in expected if not weights[name].isfinite().all()]
    if broken:
        raise InputError(f"{path!r} holds NaN or infinity in {len(broken)} tensors, {broken[0]!r} for example")
    return {name: weights[name] for name in expected}


def _kind(tensor: Any) -> tuple[bool, bool]:
    """Whether a tensor holds real numbers in floating point, or complex ones. Precisions are converted, kinds not."""
    return tensor.is_floating_point(), tensor.is_complex()


def open_checkpoint(path: str, option: str, hint: str = "") -> Any:
    """:func:`read_checkpoint` of the file that ``option`` names."""
    if not Path(path).is_file():
        if option == "ckpt_path":
            raise MissingFileError(
                f"no weights at {path!r}: this bundle is untrained; train it, or give --ckpt_path FILE{hint}"
            )
        raise MissingFileError(f"--{option}: there is no file {path!r}")
    return read_checkpoint(path)


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy scalar names, as NumPy 1 and as NumPy 2 write it."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *{type(np.dtype(kind)) for kind in np.sctypeDict.values()}]


def _reason(error: Exception) -> str:
    """Why torch could not read a file, without torch's advice to run the code that the file may hold."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds an object of {refused[1]}"
    if isinstance(error, RuntimeError | OSError):  # of torch's reader of archives, or of the system
        return first_line(error).split(". ")[0]
    return "torch.save did not write it, or it is damaged"
