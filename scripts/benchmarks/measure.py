"""Time and memory of mixers, networks and their peers, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median

import torch
from comparisons import COMPARISONS, FORWARD, HALF, HALF_TRAINING, OURS, TRAINING
from torch import Tensor

from medmixers.errors import first_line
from medmixers.profiling import in_fresh_process, peak_bytes

MIN_REPEATS, MAX_REPEATS, SECONDS = 3, 9, 5.0  # no further repeat of a pass starts after these seconds


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
        One measurement per pass and contender. A contender that cannot run here has an error instead of times.
    """
    comparison = COMPARISONS[name]
    passes = [run for run in comparison.passes if run not in (HALF, HALF_TRAINING) or has_bfloat16(device)]
    before = torch.get_num_threads()
    torch.set_num_threads(comparison.threads)
    try:
        rows = [row for run in passes for row in _timed(name, run, device)]
    finally:
        torch.set_num_threads(before)
    return _with_peaks(rows, device) if memory else rows


def _timed(name: str, run: str, device: str) -> list[Measurement]:
    steps, rows = {}, {}
    for label in COMPARISONS[name].contenders:
        rows[label] = Measurement(name, run, label)
        try:
            step = _step(name, label, run, device)
            output = step()
            if run == HALF:
                expected = _step(name, label, FORWARD, device)()
                rows[label] = replace(rows[label], change=((output - expected).norm() / expected.norm()).item())
            steps[label] = step
        except Exception as error:  # a peer that cannot run here is reported; the others go on
            if label == OURS:
                raise
            rows[label] = replace(rows[label], error=first_line(error))
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
        module.zero_grad(set_to_none=True)
        x.grad = None
        with autocast:
            y = module(x)
        y.sum().backward()
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


def _with_peaks(rows: list[Measurement], device: str) -> list[Measurement]:
    def measured(row: Measurement) -> Measurement:
        if row.error:
            return row
        return replace(row, peak_mib=in_fresh_process(peak_mib, row.comparison, row.contender, row.run, device))

    with ThreadPoolExecutor(2 if torch.device(device).type == "cpu" else 1) as pool:  # imports take most of their time
        return list(pool.map(measured, rows))


def peak_mib(name: str, contender: str, run: str, device: str) -> float | None:
    """Peak memory of a few passes above weights and input, in MiB; correct in a fresh process only."""
    torch.set_num_threads(COMPARISONS[name].threads)
    step = _step(name, contender, run, device)
    before = peak_bytes(device, reset=True)
    for _ in range(2):
        step()
    after = peak_bytes(device)
    return None if before is None or after is None else (after - before) / 2**20


def table(rows: list[Measurement]) -> str:
    """A Markdown table with one line per comparison and pass: ours, and time and memory of each peer over ours."""
    lines = ["| comparison | pass | ours | peer / ours: time (memory) |", "|" + "---|" * 4]
    for base in (row for row in rows if row.contender == OURS):
        peers = [row for row in rows if (row.comparison, row.run) == (base.comparison, base.run) and row is not base]
        ratios = "; ".join(_ratio(peer, base) for peer in peers if not peer.error)
        lines.append("| " + " | ".join([base.comparison, base.run, _figures(base), ratios]) + " |")
    errors = dict.fromkeys(f"{row.contender}: {row.error[:80]}" for row in rows if row.error)
    return "\n".join([*lines, *([f"\nNot run: {'; '.join(errors)}."] if errors else [])])


def _figures(row: Measurement) -> str:
    times = row.milliseconds
    text = f"{median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})"
    text += "" if row.peak_mib is None else f", {row.peak_mib:.0f} MiB"
    return text + ("" if row.change is None else f", output changed by {100 * row.change:.1f} %")


def _ratio(peer: Measurement, ours: Measurement) -> str:
    text = f"{peer.contender} **{median(peer.milliseconds) / median(ours.milliseconds):.2f}**"
    if not ours.peak_mib or peer.peak_mib is None:
        return text
    return f"{text} ({peer.peak_mib / ours.peak_mib:.1f})"
