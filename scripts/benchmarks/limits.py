"""What this machine can do, and how near the mixers and networks come whose goals are not met.

python scripts/benchmarks/limits.py            # prints the tables
python scripts/benchmarks/limits.py --record   # and writes them to results/measured.json and the documents

The rates of memory, additions, integers, exponentials and matrix products are measured in this process, on one thread,
as torch's own operators reach them. The least time of a target is the larger of its bytes over the bandwidth and its
operations over their rates. Nothing made of torch's operators takes less.
One kernel that keeps all numbers in registers can.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from statistics import median
from typing import Any

import torch
from comparisons import COMPARISONS, OURS
from recording import measure_and_print
from torch import Tensor, nn
from torch.nn import functional

from medmixers.errors import one_line_errors
from medmixers.results.limits import limits_tables

CACHED, LARGE = 2**15, 2**27  # float32 numbers: 128 KiB, and 512 MiB
BYTES = 4  # of a number
REPEATS, SECONDS = 41, 3.0  # of each contender; no further repeat starts after these seconds


@dataclass(frozen=True)
class Target:
    """One goal of the benchmark.

    Args:
        comparison: name in COMPARISONS.
        peer: label of its contender.
        goal: time of the peer over ours.
        least: milliseconds of what cannot be left out, by its name: "bytes" and kinds of operations.
        counts: the sentence that says what is counted.
    """

    comparison: str
    peer: str
    goal: float
    least: Callable[[Tensor], dict[str, float]]
    counts: str


def best(function: Callable[[], object], *, seconds: float = 0.3) -> float:
    """Shortest time of a call in seconds, after a first one."""
    function()
    times: list[float] = []
    start = time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        function()
        times.append(time.perf_counter() - before)
    return min(times)


@cache
def rates() -> dict[str, float]:
    """Bytes or operations per second, by name."""
    a, b, c = (torch.rand(CACHED) for _ in range(3))
    i, j = (torch.randint(2**30, (CACHED,), dtype=torch.int32) for _ in range(2))
    found = {
        "copy in the cache": 2 * BYTES * CACHED / best(lambda: c.copy_(a)),
        "additions": CACHED / best(lambda: torch.add(a, b, out=c)),
        "integer products": CACHED / best(lambda: torch.mul(i, j, out=j)),
        "exponentials": CACHED / best(lambda: torch.exp(a, out=c)),
        "multiply-adds of a large product": gemm_rate(1024, 1024, 1024),
    }
    a, b, c = (torch.rand(LARGE) for _ in range(3))
    found["copy beyond the cache"] = 2 * BYTES * LARGE / best(lambda: c.copy_(a))
    found["triad beyond the cache"] = 3 * BYTES * LARGE / best(lambda: torch.add(a, b, alpha=3, out=c))
    return found


def gemm_rate(m: int, k: int, n: int) -> float:
    """Multiply-adds per second of (m, k) x (k, n)."""
    return m * k * n / (product_ms(m, k, n) / 1000)


@cache
def product_ms(m: int, k: int, n: int) -> float:
    """Milliseconds of (m, k) x (k, n): the shortest of torch's product, that of the transposes, and a convolution.

    The products are MKL's and the convolution is oneDNN's, which has wider instructions on some processors.
    """
    a, b = torch.rand(m, k), torch.rand(k, n)
    left, right = torch.empty(m, n), torch.empty(n, m)
    pixels = a.T.reshape(1, k, m, 1).contiguous(memory_format=torch.channels_last)
    weight = b.T.reshape(n, k, 1, 1).contiguous(memory_format=torch.channels_last)
    ways: tuple[Callable[[], object], ...] = (
        lambda: torch.mm(a, b, out=left),
        lambda: torch.mm(b.T, a.T, out=right),
        lambda: functional.conv2d(pixels, weight),
    )
    with torch.inference_mode():
        return 1000 * min(best(way, seconds=0.1) for way in ways)


def copy_ms(numbers: int) -> float:
    """Milliseconds to read so many numbers once and write them once, to memory that is used again."""
    x, y = torch.rand(numbers), torch.empty(numbers)
    return 1000 * best(lambda: y.copy_(x))


def operations_ms(count: float, kind: str) -> float:
    return 1000 * count / rates()[kind]


def pooling(x: Tensor) -> dict[str, float]:
    """Window sums axis by axis, the share of each voxel and the input taken away: additions and products alike."""
    dims = x.ndim - 2
    return {"bytes": copy_ms(x.numel()), "additions": operations_ms((2 * dims + 2) * x.numel(), "additions")}


def grouped_conv(x: Tensor) -> dict[str, float]:
    taps = 7 ** (x.ndim - 2)
    count = operations_ms(taps * x.numel(), "multiply-adds of a large product")
    return {"bytes": copy_ms(x.numel()), "multiply-adds": count}


def random_mixing(x: Tensor) -> dict[str, float]:
    """Each weight has 3 products of integers in its hash, and one exponential."""
    tokens, channels = prod(x.shape[2:]), x.shape[0] * x.shape[1]
    return {
        "bytes": copy_ms(x.numel()),
        "operations": operations_ms(3 * tokens**2, "integer products")
        + operations_ms(tokens**2, "exponentials")
        + tokens / 1024 * product_ms(channels, tokens, 1024),
    }


def poolformer(x: Tensor) -> dict[str, float]:
    """The products of all dense layers at their shapes; bytes are those of the weights, which are read once."""
    network = COMPARISONS["poolformer_s12 1x224x224"].contenders[OURS]().eval()
    shapes: list[tuple[int, int, int]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Any = module.weight
        shapes.append((output.numel() // weight.shape[0], weight[0].numel(), weight.shape[0]))

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note)
    with torch.inference_mode():
        network(x)
    moved = copy_ms(sum(p.numel() for p in network.parameters())) / 2  # read only
    return {"bytes": moved, "products": sum(product_ms(*shape) for shape in shapes)}


TARGETS = (
    Target(
        "poolformer_s12 1x224x224", "timm, channels-last", 1.05, poolformer,
        "the products of all dense layers at their shapes",
    ),
    Target("pooling 32x32x32 kernel 3", "nn.AvgPool", 15, pooling, "8 additions or products per voxel"),
    Target("grouped conv 56x56 kernel 7", "nn.Conv", 1, grouped_conv, "49 multiply-adds per value"),
    Target(
        "random mixing 96x96", "its matrix stored", 1, random_mixing,
        "3 integer products and an exponential per weight, and the product",
    ),
)  # fmt: skip


def measured(target: Target) -> dict[str, Any]:
    """Times of ours and the peer in turn, and the least times, as JSON."""
    comparison = COMPARISONS[target.comparison]
    torch.manual_seed(0)
    x = torch.randn(comparison.size)
    modules = {name: comparison.contenders[name]().eval() for name in (OURS, target.peer)}
    times: dict[str, list[float]] = {name: [] for name in modules}
    start = time.perf_counter()
    with torch.inference_mode():
        for module in modules.values():
            module(x)
        while len(times[OURS]) < 3 or (len(times[OURS]) < REPEATS and time.perf_counter() - start < SECONDS):
            for name, module in modules.items():
                before = time.perf_counter()
                module(x)
                times[name].append(1000 * (time.perf_counter() - before))
        least = target.least(x)
    return {
        "comparison": target.comparison,
        "peer": target.peer,
        "goal": target.goal,
        "counts": target.counts,
        "ours_ms": median(times[OURS]),
        "peer_ms": median(times[target.peer]),
        "least_ms": least,
    }


def figures_of(targets: tuple[Target, ...] = TARGETS) -> Mapping[str, Any]:
    """Rates and targets, as JSON."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the benchmark measures these comparisons
    try:
        rows = []
        for target in targets:
            rows.append(measured(target))
            print(f"{target.comparison}: done", file=sys.stderr)
        return {"rates": rates(), "targets": rows}
    finally:
        torch.set_num_threads(before)


@one_line_errors("limits")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    measure_and_print("limits", figures_of, limits_tables, is_recorded=arguments.record)


if __name__ == "__main__":
    main()
