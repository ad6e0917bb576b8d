"""The fastest of several functions that compute the same, measured once per kind of input as in cudnn.benchmark."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Function = Callable[..., Tensor]
REPEATS = 5
CHOSEN: dict[tuple[Any, ...], Function] = {}
FAILED: set[Function] = set()  # failed or disagreed once: warned, never retried


def fastest(candidates: Sequence[Function], *tensors: Tensor | None) -> Function:
    """The candidate to call with ``tensors``.

    The first call per device, dtype, shapes and requested gradients runs the candidates in turn on these tensors.
    The trial includes the backward pass if a gradient is requested, and leaves no trace in the caller's graph.

    Args:
        candidates: functions of ``tensors``; the first is the reference. A later one that raises, or computes other
            numbers, is never used again, and a warning says so. The reference is kept if memory does not suffice for
            a trial, or if its result is not finite.
        tensors: arguments of the function.
    """
    grad = torch.is_grad_enabled()
    kinds = (t if t is None else (t.device, t.dtype, t.shape, grad and t.requires_grad) for t in tensors)
    key = (*candidates, *kinds)
    if key not in CHOSEN:
        CHOSEN[key] = candidates[0]
        with suppress(torch.OutOfMemoryError):
            if equal := _equal_ones(candidates, tensors):
                CHOSEN[key] = _first_to_end([candidates[0], *equal], tensors)
    return CHOSEN[key]


def _equal_ones(candidates: Sequence[Function], tensors: Sequence[Tensor | None]) -> list[Function]:
    reference, *others = candidates
    expected = _whole_pass(reference, tensors)
    if not all(value.isfinite().all() for value in expected):
        return []  # no finite numbers to compare with
    return [each for each in others if each not in FAILED and _agrees(each, tensors, expected)]


def _agrees(candidate: Function, tensors: Sequence[Tensor | None], expected: Sequence[Tensor]) -> bool:
    try:
        results = _whole_pass(candidate, tensors)
        if all(_near(result, value) for result, value in zip(results, expected, strict=True)):
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


def _first_to_end(candidates: Sequence[Function], tensors: Sequence[Tensor | None]) -> Function:
    """Compare medians; candidates alternate, so that background load affects all."""
    times: dict[Function, list[float]] = {candidate: [] for candidate in candidates}
    for _ in range(REPEATS):
        for candidate, seconds in times.items():
            seconds.append(_seconds(candidate, tensors))
    return min(times, key=lambda candidate: median(times[candidate]))


def _seconds(function: Function, tensors: Sequence[Tensor | None]) -> float:
    _wait(tensors)
    start = time.perf_counter()
    _whole_pass(function, tensors)
    _wait(tensors)
    return time.perf_counter() - start


def _wait(tensors: Sequence[Tensor | None]) -> None:
    for device in {tensor.device for tensor in tensors if tensor is not None and tensor.is_cuda}:
        torch.cuda.synchronize(device)


def _whole_pass(function: Function, tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Value and requested gradients, without a trace in the caller's graph."""
    grad = torch.is_grad_enabled()
    leaves = [t if t is None else t.detach().requires_grad_(grad and t.requires_grad) for t in tensors]
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    with saved_tensors_hooks(_same, _same):  # hides activation checkpointing's hooks, which count saved tensors
        value = function(*leaves)
        if not wanted:
            return [value]
        probe = value.detach() * max(1, value.numel()) ** -0.5  # small: sums over many voxels must not overflow float16
        return [value.detach(), *torch.autograd.grad(value, wanted, probe)]


def _same(tensor: Tensor) -> Tensor:
    return tensor
