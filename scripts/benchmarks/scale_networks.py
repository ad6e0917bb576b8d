"""Time and peak memory of networks over the image size, and of token mixers over the tokens.

Each point is measured in processes of its own, one per round. A size whose time or memory would exceed the limits is
left out; both are predicted from the size before it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medmixers.factory import create_network
from medmixers.mixers.build import create_mixer
from medmixers.profiling import in_fresh_process, peak_bytes
from medmixers.results.scale import QUADRATIC

THREADS, ROUNDS = 2, 2
NETWORK = "metaformer_segformer_s12"
KEUTH = ("identity", "pooling", "conv", "grouped_conv", "local_attention", "global_attention", "random_mixing")
MIXERS = {"networks": KEUTH, "mixers": KEUTH[1:]}  # identity alone does nothing
PASSES = ("inference", "training step")
LONGEST = 12.0  # seconds: a pass that is predicted to take longer is left out
QUICK = 2.0  # seconds of a visit: longer ones are not repeated in further rounds
ENOUGH, MOST = 0.3, 9  # seconds, and repeats, after which a visit repeats a pass no more
CHANNELS = 64  # of a mixer alone


class Point(NamedTuple):
    """One network or mixer at one size.

    Args:
        kind: "networks" or "mixers".
        mixer: name in TOKEN_MIXERS.
        size: of the image, or of the feature map.
    """

    kind: str
    mixer: str
    size: tuple[int, ...]


SIZES: Mapping[str, Sequence[tuple[int, ...]]] = {
    "networks": [
        *((edge,) * 3 for edge in (64, 96, 128, 192)),
        *((edge,) * 2 for edge in (224, 512, 1024, 2048)),
    ],
    "mixers": [(edge,) * 3 for edge in (16, 24, 32, 48, 64)],
}


def scale_figures(
    kind: str,
    *,
    sizes: Sequence[tuple[int, ...]] = (),
    mixers: Sequence[str] = (),
    rounds: int = ROUNDS,
    announce: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Measure every point in rounds, so that what else the machine does meets all.

    Returns:
        One row per point and pass: mixer, size, pass, ``ms`` of each repeat and ``peak_mib`` above weights, gradients
        and input; or ``left_out``, the reason.
    """
    sizes, mixers = sizes or SIZES[kind], mixers or MIXERS[kind]
    series = [[Point(kind, mixer, s) for s in sizes if len(s) == dims] for mixer in mixers for dims in (3, 2)]
    rows: dict[tuple[Point, str], dict[str, Any]] = {}
    for points in series:
        for before, point in zip([None, *points], points, strict=False):
            started = time.perf_counter()
            for name in PASSES:
                rows[point, name] = first_visit(point, name, rows.get((before, name)) if before else None)
            seconds = time.perf_counter() - started
            announce(f"{kind} {point.mixer} {'x'.join(map(str, point.size))}: {seconds:.1f} s")
    for _ in range(rounds - 1):
        for (point, name), row in rows.items():
            if row.get("seconds", QUICK) < QUICK:
                row["ms"] += in_fresh_process(measure, point, name)["ms"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows.values()]


def first_visit(point: Point, name: str, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The row of a point, or why it is left out."""
    row: dict[str, Any] = {"mixer": point.mixer, "size": list(point.size), "pass": name}
    if reason := predicted_excess(row, before):
        return {**row, "left_out": reason}
    started = time.perf_counter()
    try:
        found = in_fresh_process(measure, point, name)
    except MemoryError:
        return {**row, "left_out": "memory"}
    return {**row, **found, "seconds": time.perf_counter() - started}


def predicted_excess(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> str | None:
    """Why a point would not fit, from the smaller size before it; None where it fits, or nothing is known."""
    if before is None:
        return None
    if "left_out" in before:
        return str(before["left_out"])
    growth = prod(row["size"]) / prod(before["size"])
    seconds = min(before["ms"]) / 1000 * growth ** (2 if row["mixer"] in QUADRATIC else 1)
    if seconds > LONGEST:
        return "time"
    available, peak = available_bytes(), before["peak_mib"]
    if available is None or peak is None:
        return None
    return "memory" if peak * 2**20 * growth > 0.8 * available else None


def available_bytes() -> int | None:
    """Memory that processes can still take; None where the system does not say."""
    if sys.platform != "linux":
        return None
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))


def measure(point: Point, name: str) -> dict[str, Any]:
    """As :func:`measure_pass`, of a point."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    module, x = build(point)
    x.requires_grad_(name == "training step" and point.kind == "mixers")  # a mixer has layers before it
    return measure_pass(module, x, name)


def measure_pass(module: nn.Module, x: Tensor, name: str) -> dict[str, Any]:
    """Times in ms and the peak in MiB of one of ``PASSES``; the peak is right in a fresh process only.

    A first pass that is short is a warm-up. The network's gradients exist before, so the peak is that of activations.
    """
    step = training_step(module, x) if name == "training step" else inference(module, x)
    before = peak_bytes("cpu", reset=True)
    times = [timed(step)]
    if times[0] < 1000 * QUICK:
        times = []
        while not times or (sum(times) < 1000 * ENOUGH and len(times) < MOST):
            times.append(timed(step))
    after = peak_bytes("cpu")
    peak = None if before is None or after is None else round((after - before) / 2**20, 1)
    return {"ms": [round(each, 3) for each in times], "peak_mib": peak}


def build(point: Point) -> tuple[nn.Module, Tensor]:
    """The module and its input."""
    dims = len(point.size)
    if point.kind == "mixers":
        size = {"feature_size": point.size} if point.mixer == "random_mixing" else {}
        return create_mixer(point.mixer, CHANNELS, spatial_dims=dims, **size), torch.randn(1, CHANNELS, *point.size)
    channels = 1 if dims == 3 else 3
    network = create_network(
        NETWORK,
        spatial_dims=dims,
        in_channels=channels,
        out_channels=2,
        mixer=point.mixer,
        input_size=point.size,
    )
    return network, torch.randn(1, channels, *point.size)


def inference(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """A forward pass in eval mode."""
    module.eval()

    def step() -> Tensor:
        with torch.inference_mode():
            return module(x)

    return step


def training_step(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """A forward and a backward pass in train mode; the gradients are added to those that are there."""
    module.train()
    for each in (x, *module.parameters()):
        each.grad = torch.zeros_like(each) if each.requires_grad else None
    return lambda: module(x).sum().backward()


def timed(step: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - start)
