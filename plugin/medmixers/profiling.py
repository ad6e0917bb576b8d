"""Profile a network: parameters, multiply-adds, latency, peak memory."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import nn

from medmixers.errors import InputError, first_line
from medmixers.factory import create_network
from medmixers.files import written_whole
from medmixers.layers.macs import count_macs
from medmixers.progress import note, progress
from medmixers.variants import NETWORKS

Result = TypeVar("Result")


@dataclass(frozen=True)
class NetworkProfile:
    """Cost of one forward pass in eval mode, float32, batch 1.

    Args:
        parameters: number of trainable values.
        frozen: number of values in buffers and frozen parameters.
        gmacs: multiply-adds of convolutions, matrix products and Fourier transforms, in units of 10^9.
        milliseconds: time of each repeat, after one warm-up.
        peak_mib: peak memory of a pass, weights not counted: growth of the allocator's peak on a GPU, of the resident
            set's on a CPU; None where the system does not report it.
        threads: CPU threads that torch used.
        device: "cpu" or the GPU's name.
    """

    name: str
    size: tuple[int, ...]
    in_channels: int
    out_channels: int
    parameters: int
    frozen: int
    gmacs: float
    milliseconds: tuple[float, ...]
    peak_mib: float | None
    threads: int
    device: str

    def __str__(self) -> str:
        size = " x ".join(map(str, self.size))
        peak = "not measured" if self.peak_mib is None else f"{self.peak_mib:.0f} MiB above the weights"
        low, high = min(self.milliseconds), max(self.milliseconds)
        latency = f"{median(self.milliseconds):.1f} ms (median of {len(self.milliseconds)}, {low:.1f} to {high:.1f})"
        where = f"{self.threads} thread(s)" if self.device == "cpu" else self.device
        frozen = f", {self.frozen / 1e6:.3f} M frozen" if self.frozen else ""
        return "\n".join(
            [
                f"{self.name}: {self.in_channels} -> {self.out_channels} channels at {size}",
                f"parameters   {self.parameters / 1e6:.3f} M{frozen}",
                f"MACs         {self.gmacs:.3f} G",
                f"latency      {latency}, float32, {where}",
                f"peak memory  {peak}",
            ]
        )


def profile_network(
    name: str,
    *,
    size: Sequence[int],
    in_channels: int = 1,
    out_channels: int = 2,
    repeats: int = 5,
    device: str = "cpu",
    **options: Any,
) -> NetworkProfile:
    """Build a network and measure one forward pass.

    On a CPU the peak is the growth of the process's high-water mark. So it is right only in a fresh process, such as
    that of the command line.

    Args:
        name: one of ``medmixers.list_networks()``.
        size: spatial size of the image in voxels; its length is the number of dimensions.
        repeats: timed passes.
        device: as torch names it.
        options: of :func:`medmixers.create_network`. ``input_size`` is ``size`` where a mixer needs one.

    Raises:
        InputError: the errors of :func:`medmixers.create_network`, fewer than one repeat, or an empty image.
    """
    _check_request(size, repeats)
    if NETWORKS[name].encoder is not None:  # its token mixers may be bound to an image size
        options = {"input_size": tuple(size), **options}
    build = {"spatial_dims": len(size), "in_channels": in_channels, "out_channels": out_channels, **options}
    with torch.device("meta"):
        gmacs = count_gmacs(create_network(name, **build), torch.empty(1, in_channels, *size))
    network = create_network(name, **build).to(device).eval()
    image = torch.randn(1, in_channels, *size, device=device)
    before = peak_bytes(device, reset=True)
    milliseconds = [_timed_forward(network, image) for _ in range(repeats + 1)]
    after = peak_bytes(device)
    return NetworkProfile(
        name=name,
        size=tuple(size),
        in_channels=in_channels,
        out_channels=out_channels,
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        frozen=sum(b.numel() for b in network.buffers())
        + sum(p.numel() for p in network.parameters() if not p.requires_grad),
        gmacs=gmacs,
        milliseconds=tuple(milliseconds[1:]),
        peak_mib=None if before is None or after is None else (after - before) / 2**20,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if image.is_cuda else "cpu",
    )


COLUMNS = (
    "name", "size", "in_channels", "out_channels", "parameters", "frozen", "gmacs", "milliseconds", "fastest",
    "slowest", "peak_mib", "threads", "device", "error",
)  # fmt: skip


def profile_to_csv(
    names: Iterable[str],
    *,
    sizes: Sequence[Sequence[int]],
    file: str | Path | None = None,
    threads: int = 1,
    repeats: int = 5,
    **options: Any,
) -> str:
    """Profile networks, each size in a fresh process, and return the CSV text, one line per network and size.

    The last column holds the error of a network that cannot be built or run; the others follow.

    Args:
        names: of ``medmixers.list_networks()``.
        sizes: each as of :func:`profile_network`, as are ``repeats`` and ``options``.
        file: file that gets the text too, at the end and whole.
        threads: CPU threads for torch.

    Raises:
        InputError: an unknown name, or a size or a number of repeats that no network takes.
        OSError: a file that cannot be written; this is checked before anything is measured.
    """
    for size in sizes:
        _check_request(size, repeats)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    with nullcontext() if file is None else written_whole(Path(file)) as partial:
        asked_for = [(name, size) for name in names if NETWORKS[name] for size in sizes]
        for name, size in progress(asked_for, "profile"):
            asked = {"size": tuple(size), "repeats": repeats, **options}
            try:
                row = _csv_row(in_fresh_process(_profile_with_threads, name, threads, asked))
            except Exception as error:  # any error of one network is its result
                row = {"name": name, "size": "x".join(map(str, size)), "error": first_line(error)}
            writer.writerow(row)
            note(f"{name}, {row['size']}: {row.get('error', 'measured')}")
        if partial is not None:
            partial.write_text(text.getvalue())
    return text.getvalue()


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Result of a module's function in a new process, so that peak memory is that of the function alone.

    Raises:
        MemoryError: the system ended the process, as it does when memory runs out.
    """
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload([__name__])  # seconds of imports, once for all processes
    environment = dict(os.environ)  # the forkserver keeps the environment it was started with
    with ProcessPoolExecutor(1, context, _take_environment, (environment,)) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise MemoryError("the system ended the process, as it does when memory runs out") from None


def _take_environment(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def _profile_with_threads(name: str, threads: int, options: dict[str, Any]) -> NetworkProfile:
    torch.set_num_threads(threads)
    return profile_network(name, **options)


def _csv_row(profile: NetworkProfile) -> dict[str, Any]:
    times = profile.milliseconds
    return {
        **{name: getattr(profile, name) for name in COLUMNS if hasattr(profile, name)},
        "size": "x".join(map(str, profile.size)),
        "gmacs": f"{profile.gmacs:.4f}",
        **{name: f"{f(times):.2f}" for name, f in (("milliseconds", median), ("fastest", min), ("slowest", max))},
        "peak_mib": "" if profile.peak_mib is None else f"{profile.peak_mib:.1f}",
    }


def _check_request(size: Sequence[int], repeats: int) -> None:
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    if len(size) not in (2, 3):
        raise InputError(f"size must be 2 or 3 extents, got {','.join(map(str, size))}")
    if any(extent < 1 for extent in size):
        raise InputError(f"size must be at least 1 voxel along each axis, got {tuple(size)}")


def count_gmacs(network: nn.Module, image: torch.Tensor) -> float:
    """:func:`medmixers.layers.macs.count_macs` in units of 10^9."""
    return count_macs(network, image) / 1e9


@torch.inference_mode()
def _timed_forward(network: nn.Module, image: torch.Tensor) -> float:
    start = time.perf_counter()
    network(image)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    return 1000 * (time.perf_counter() - start)


def peak_bytes(device: str, *, reset: bool = False) -> int | None:
    """Peak memory so far, of a GPU's allocator or of this process; None where the system does not report it.

    ``reset`` sets the peak to the current use. For a process only Linux can do that; elsewhere the peak of the imports
    may hide a small one.
    """
    if torch.device(device).type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # getrusage starts with the peak of the parent process
        if reset:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is resident now
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, others KiB
