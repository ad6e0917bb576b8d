"""Time and memory of mixers and networks compared with their peers, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from comparisons import COMPARISONS, COMPILED, FORWARD, HALF, HALF_TRAINING, OURS, TRAINING
from torch import Tensor

from medmixers.errors import first_line
from medmixers.profiling import in_fresh_process, peak_bytes

MIN_REPEATS, MAX_REPEATS, SECONDS = 3, 9, 5.0  # no further repeat of a pass starts after these seconds


def reason(error: BaseException) -> str:
    """Why a peer cannot run. torch.compile wraps what the peer raised in an error of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@dataclass(frozen=True)
class Measurement:
    """One contender in one pass.

    Args:
        comparison: name of the comparison.
        run: name of the pass.
        contender: label of the contender.
        milliseconds: time of each repeat, after one warm-up.
        peak_mib: peak memory above weights and input.
        change: for a pass in bfloat16, norm of the difference to float32's output, over the norm of that output.
        error: reason for missing figures.
    """

    comparison: str
    run: str
    contender: str
    milliseconds: tuple[float, ...] = ()
    peak_mib: float | None = None
    change: float | None = None
    error: str | None = None


def has_bfloat16(device: str) -> bool:
    """Whether the device supports bfloat16 in hardware: GPUs, and CPUs with AVX-512 BF16, AMX or Arm's BF16."""
    if torch.device(device).type != "cpu":
        return True
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def compare(name: str, *, device: str = "cpu", memory: bool = True) -> list[Measurement]:
    """Measure one comparison; contenders alternate within each repeat.

    Args:
        name: name in COMPARISONS.
        device: name of the device in torch.
        memory: whether to measure peak memory too, each contender in a process of its own.

    Returns:
        One measurement per pass and contender. A contender that cannot run here has its error instead of times.
    """
    comparison = COMPARISONS[name]
    passes = [run for run in comparison.passes if run not in (HALF, HALF_TRAINING) or has_bfloat16(device)]
    on_gpu, before = torch.device(device).type == "cuda", torch.get_num_threads()
    torch.set_num_threads(comparison.threads)
    try:
        rows = [row for run in passes for row in _timed(name, run, device, gpu_peaks=memory and on_gpu)]
    finally:
        torch.set_num_threads(before)
    return _with_peaks(rows) if memory and not on_gpu else rows


def _timed(name: str, run: str, device: str, *, gpu_peaks: bool) -> list[Measurement]:
    steps, rows = {}, {}
    torch.compiler.reset()  # its limit of compilations is of the whole process
    for label in COMPARISONS[name].contenders:
        rows[label] = Measurement(name, run, label)
        try:
            step = _step(name, label, run, device)
            output = step()
            if run == HALF and COMPILED not in label:  # a graph for float32 alone would take a minute
                expected = _step(name, label, FORWARD, device)()
                rows[label] = replace(rows[label], change=((output - expected).norm() / expected.norm()).item())
            if gpu_peaks:
                rows[label] = replace(rows[label], peak_mib=_gpu_peak_mib(step, device))
            steps[label] = step
        except Exception as error:  # a peer that cannot run here is reported; the others go on
            if label == OURS:
                raise
            rows[label] = replace(rows[label], error=reason(error))
    times: dict[str, list[float]] = {label: [] for label in steps}
    start = time.perf_counter()
    for repeat in range(MAX_REPEATS):
        if repeat >= MIN_REPEATS and time.perf_counter() - start > SECONDS:
            break
        for label, step in steps.items():
            times[label].append(_milliseconds(step, device))
    return [replace(row, milliseconds=tuple(times.get(label, ()))) for label, row in rows.items()]


def _step(name: str, contender: str, run: str, device: str) -> Callable[[], Tensor]:
    """One pass of a contender over the comparison's input; a fixed seed makes weights and input."""
    comparison, training = COMPARISONS[name], run in (TRAINING, HALF_TRAINING)
    torch.manual_seed(0)
    module = comparison.contenders[contender]().to(device).train(training)
    x = torch.randn(comparison.size, device=device, requires_grad=training)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=run in (HALF, HALF_TRAINING))

    def forward() -> Tensor:
        with torch.inference_mode(), autocast:
            return module(x)

    def training_step() -> Tensor:
        with autocast:
            y = module(x)
        y.sum().backward()
        module.zero_grad(set_to_none=True)
        x.grad = None
        return y.detach()

    return training_step if training else forward


def _milliseconds(step: Callable[[], Tensor], device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def _gpu_peak_mib(step: Callable[[], Tensor], device: str) -> float:
    """Peak memory of a pass above weights and input, in MiB, as the GPU's allocator counts it."""
    before = peak_bytes(device, reset=True) or 0
    step()
    return ((peak_bytes(device) or 0) - before) / 2**20


def _with_peaks(rows: list[Measurement]) -> list[Measurement]:
    def measured(row: Measurement) -> Measurement:
        if row.error:
            return row
        return replace(row, peak_mib=in_fresh_process(peak_mib, row.comparison, row.contender, row.run))

    with ThreadPoolExecutor(2) as pool:  # imports take most of their time
        return list(pool.map(measured, rows))


def peak_mib(name: str, contender: str, run: str) -> float | None:
    """Peak memory of a few passes on a CPU above weights and input, in MiB; correct in a fresh process only."""
    torch.set_num_threads(COMPARISONS[name].threads)
    step = _step(name, contender, run, "cpu")
    before = peak_bytes("cpu", reset=True)
    for _ in range(2):
        step()
    after = peak_bytes("cpu")
    return None if before is None or after is None else (after - before) / 2**20


def as_json(row: Measurement) -> dict[str, Any]:
    """The measurement as a JSON object, without the fields that it lacks."""
    return {key: value for key, value in asdict(row).items() if value not in (None, ())}
