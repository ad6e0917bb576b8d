"""Export support of each network: torch.compile, torch.export, TorchScript, ONNX; at any image size or at one.

Every claim is measured. The exported network must give the eager logits at the size of its export. To count as "any
size" it must also give them at another size that no stride divides. After ``LIMIT_SECONDS`` an export counts as failed.
"""

from __future__ import annotations

import io
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from samples import create_small, families
from torch import Tensor, nn

from medmixers.errors import first_line
from medmixers.mixers import TOKEN_MIXERS

ANY_SIZE, ONE_SIZE, NO = "any size", "one size", "no"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in torch's messages
LIMIT_SECONDS = 300  # the slowest successful export takes about one minute
# The network is exported at the first size and checked at the second: odd sizes, with other feature maps down to stride
# 32, one of them too large for global attention in place of local. No axis of a map has one voxel, because torch.export
# specialises on that.
SIZES = {2: ((40, 52), (75, 67)), 3: ((40, 36, 44), (37, 70, 67))}
Run = Callable[[Tensor], Tensor]
Program = Callable[[], torch.export.ExportedProgram]


def compiled(network: nn.Module) -> Run:
    """torch.compile in one graph, without code generation and with a new graph for each size."""
    torch._dynamo.reset()
    return torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=False)


def exported(network: nn.Module, image: Tensor, *, any_size: bool) -> torch.export.ExportedProgram:
    """torch.export, with symbolic batch and axes unless the network fixes them; or with fixed sizes."""
    free = dict.fromkeys((0, *range(2, image.ndim)), torch.export.Dim.AUTO)
    image = image.clone()  # an interrupted export leaves the tensor's axes marked as dynamic
    return torch.export.export(network, (image,), dynamic_shapes=(free,) if any_size else None)


def traced(network: nn.Module, image: Tensor) -> Run:
    """torch.jit.trace, saved and loaded."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, image, check_trace=False), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def as_onnx(program: torch.export.ExportedProgram, *, threads: int = 0) -> Run:
    """torch.onnx.export of an exported program, run by onnxruntime; 0 threads leaves their number to it."""
    import onnxruntime

    model = torch.onnx.export(program, (), verbose=False)
    assert model is not None  # torch returns None only when it writes a file
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # an unsupported size raises; the log would repeat it
    session = onnxruntime.InferenceSession(
        model.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (source,) = session.get_inputs()
    return lambda x: torch.from_numpy(session.run(None, {source.name: x.numpy()})[0])


WAYS: Mapping[str, Callable[[nn.Module, Tensor, Program], Run]] = {
    "torch.compile": lambda network, image, program: compiled(network),
    "torch.export": lambda network, image, program: program().module(),
    "TorchScript": lambda network, image, program: traced(network, image),
    "ONNX": lambda network, image, program: as_onnx(program()),
}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the body takes longer, by the alarm of the process. An earlier alarm goes on afterwards."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done in {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    # Again each second, because a tracer may swallow the error.
    remaining = signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *remaining)


@torch.no_grad()
def how_it_exports(network: nn.Module, *, ways: Iterable[str] = WAYS) -> dict[str, str]:
    """Outcome per way: "any size", "one size", or "no: " and the reason.

    Args:
        network: in eval mode, with 2 input channels; a size-bound one is built for ``SIZES[spatial_dims][0]``.
        ways: names in ``WAYS``.

    Raises:
        RuntimeError: outside the main thread, or if the system has no alarm (Windows).
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        raise RuntimeError("how_it_exports needs the main thread and a POSIX system: its time limit is an alarm")
    sizes = SIZES[next(p.ndim for p in network.parameters() if p.ndim > 3) - 2]
    images = [torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(0)) for size in sizes]
    eager = cache(network)
    any_size, one_size = (_once(partial(exported, network, images[0], any_size=choice)) for choice in (True, False))

    def outcome(way: str) -> str:
        try:
            with time_limit(LIMIT_SECONDS):
                if _agrees(eager, WAYS[way](network, images[0], any_size), images):
                    return ANY_SIZE
        except Exception:  # tracers raise many kinds of errors; one size is tried next
            pass
        try:
            with time_limit(LIMIT_SECONDS):
                if _agrees(eager, WAYS[way](network, images[0], one_size), images[:1]):
                    return ONE_SIZE
        except Exception as error:
            return f"{NO}: {COLOUR.sub('', first_line(error))[:80].strip()}"
        return f"{NO}: other logits"

    return {way: outcome(way) for way in ways}


def _once(trace: Program) -> Program:
    """Run ``trace`` once and remember its result or its error; the error is raised at each call."""

    @cache
    def attempt() -> torch.export.ExportedProgram | Exception:
        try:
            return trace()
        except Exception as error:
            return error

    def program() -> torch.export.ExportedProgram:
        result = attempt()
        if isinstance(result, Exception):
            raise result
        return result

    return program


def _agrees(eager: Run, run: Run, images: Iterable[Tensor]) -> bool:
    for image in images:
        expected, found = eager(image), run(image)
        if found.shape != expected.shape or (found - expected).abs().max() > 1e-3 * expected.abs().max():
            return False
    return True


def sampled_networks() -> dict[str, tuple[str, dict[str, Any]]]:
    """Label -> name and options of each row of the table: each family, then each mixer in a segmentation network."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {pattern: (names[0], {}) for pattern, names in families().items()}
    for mixer in TOKEN_MIXERS:  # a branch scale of 1e-5 would hide the mixer's errors in the logits
        rows[f"mixer={mixer}"] = ("metaformer_segformer_s12", {"mixer": mixer, "layer_scale_init": 1.0})
    return rows


def measure_exports(label: str, spatial_dims: int) -> dict[str, str] | None:
    """Outcome of every way for one entry of :func:`sampled_networks`, as a small network; None if it does not exist."""
    name, options = sampled_networks()[label]
    torch.manual_seed(0)
    try:
        network = create_small(name, SIZES[spatial_dims][0], **options).eval()
    except ValueError:
        return None
    return how_it_exports(network)
