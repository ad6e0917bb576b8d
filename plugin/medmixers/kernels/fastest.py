"""The fastest of several functions that compute the same, measured once per kind of input as in cudnn.benchmark."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]
REPEATS = 5
CHOSEN: dict[tuple[Any, ...], Function] = {}
FAILED: set[Function] = set()  # failed or disagreed once: warned, never retried


def fastest(candidates: Sequence[Function], *arguments: Any) -> Function:
    """The candidate to call with ``arguments``.

    The first call per device, dtypes and shapes of the tensors, and per other arguments, runs the candidates in turn.

    Args:
        candidates: functions that give a tensor, below autograd; the first is the reference. A later one that raises,
            or computes other numbers, is never used again, and a warning says so. The reference is kept if memory does
            not suffice for a trial. Where its result is not finite, it is taken once and the next call decides.
        arguments: tensors and hashable arguments of the function.
    """
    kinds = ((a.device, a.dtype, a.shape) if isinstance(a, Tensor) else a for a in arguments)
    key = (*candidates, *kinds)
    if key not in CHOSEN:
        try:
            expected = candidates[0](*arguments)
            if not expected.isfinite().all():  # as where a scaled loss overflows: no numbers to compare with
                return candidates[0]
            equal = [each for each in candidates[1:] if each not in FAILED and _agrees(each, arguments, expected)]
            CHOSEN[key] = _first_to_end([candidates[0], *equal], arguments) if equal else candidates[0]
        except torch.OutOfMemoryError:
            CHOSEN[key] = candidates[0]
    return CHOSEN[key]


def _agrees(candidate: Function, arguments: Sequence[Any], expected: Tensor) -> bool:
    try:
        if _near(candidate(*arguments), expected):
            return True
        reason = "its numbers differ"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers and drivers raise many kinds; the reference computes the same
        reason = f"{type(error).__name__}: {error}"
    FAILED.add(candidate)
    name = getattr(candidate, "__name__", candidate)
    warnings.warn(f"{name} is not used: {reason}", RuntimeWarning, stacklevel=3)
    return False


def _near(result: Tensor, expected: Tensor) -> bool:
    """Equal up to a few roundings of the largest number. In float32 these are TF32's, because cuDNN may use TF32."""
    tolerance = max(1e-3, 8 * torch.finfo(expected.dtype).eps)
    scale = expected.abs().amax().item() if expected.numel() else 0.0
    return torch.allclose(result, expected, rtol=0.0, atol=tolerance * scale)


def _first_to_end(candidates: Sequence[Function], arguments: Sequence[Any]) -> Function:
    """Compare medians; candidates alternate, so that background load affects all."""
    times: dict[Function, list[float]] = {candidate: [] for candidate in candidates}
    for _ in range(REPEATS):
        for candidate, seconds in times.items():
            seconds.append(_seconds(candidate, arguments))
    return min(times, key=lambda candidate: median(times[candidate]))


def _seconds(function: Function, arguments: Sequence[Any]) -> float:
    _wait(arguments)
    start = time.perf_counter()
    function(*arguments)
    _wait(arguments)
    return time.perf_counter() - start


def _wait(arguments: Sequence[Any]) -> None:
    for device in {tensor.device for tensor in arguments if isinstance(tensor, Tensor) and tensor.is_cuda}:
        torch.cuda.synchronize(device)
