"""Objects and files as JSON, so that equal descriptions mean equal results: keys of a cache on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import Any

import numpy as np
import torch

from medmixers.errors import InputError
from medmixers.files import file_state

NAMED = (type, FunctionType, BuiltinFunctionType, MethodDescriptorType)
DETACHED = (".mhd", ".nhdr", ".hdr", ".img")  # headers whose voxels lie in another file


def described(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A value with all that it holds, as JSON holds it: numbers, texts, containers, arrays, functions, objects.

    Args:
        value: for example a transform.
        above: identities of the objects that hold it.

    Raises:
        InputError: a lambda, or an object without attributes: their description would not tell what they do.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, (Path, Enum, np.dtype, torch.dtype, torch.device)):
        return [_name(type(value)), str(value)]
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, NAMED):
        return _name(value)
    if id(value) in above:
        return ["above", len(above) - above.index(id(value))]
    above = (*above, id(value))
    if isinstance(value, Mapping):
        return ["{}", sorted(([described(key), described(item, above)] for key, item in value.items()), key=str)]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted((described(item, above) for item in value), key=str)]
    if isinstance(value, (list, tuple)):
        return [described(item, above) for item in value]
    if isinstance(value, partial):
        return ["partial", *(described(part, above) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, MethodType):
        return [described(value.__self__, above), value.__func__.__qualname__]
    if not hasattr(value, "__dict__"):
        raise InputError(f"--cache_dir: nothing tells what {value!r} in a transform does; leave the option out")
    volatile = getattr(value, "VOLATILE", ())
    return [
        _name(type(value)),
        described({key: item for key, item in vars(value).items() if key not in volatile}, above),
    ]


def with_file_facts(value: Any) -> Any:
    """State of each file that a case names, and of all files in a folder that it names; else None.

    Raises:
        InputError: a header whose voxels lie in another file, which would not be looked at.
    """
    if isinstance(value, Mapping):
        return [with_file_facts(item) for item in value.values()]
    if isinstance(value, (list, tuple)):
        return [with_file_facts(item) for item in value]
    return _facts(str(value)) if isinstance(value, (str, Path)) else None


def _facts(path: str) -> Any:
    if os.path.isdir(path):
        return [[name, _facts(os.path.join(path, name))] for name in sorted(os.listdir(path))]
    if not os.path.exists(path):
        return None
    if path.lower().endswith(DETACHED):
        raise InputError(f"--cache_dir: the voxels of {path!r} lie in another file, so no change of them would be seen")
    return file_state(Path(path))


def _name(value: Any) -> str:
    name = f"{getattr(value, '__module__', None)}.{value.__qualname__}"
    if "<" in value.__qualname__:  # <lambda>, or a function within another one
        raise InputError(f"--cache_dir: nothing tells what {name} in a transform does; leave the option out")
    return name
