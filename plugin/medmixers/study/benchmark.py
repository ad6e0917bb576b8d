"""Time and memory of mixers and networks beside their peers, in one run.

``python -m medmixers.study.benchmark COMPARISON CONTENDER PASS DEVICE`` prints one peak of memory; it is its own
process because a process's high-water mark never falls.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from medmixers.factory import create_network
from medmixers.mixers.build import create_mixer
from medmixers.mixers.local_attention import LocalAttention
from medmixers.registry import Registry
from medmixers.study import peers
from medmixers.study.profiling import peak_bytes

OURS = "ours"
FORWARD, TRAINING = "forward", "forward + backward"
MAX_REPEATS, SECONDS = 9, 20.0  # repeats of a comparison end after this time, but there are at least 3


@dataclass(frozen=True)
class Comparison:
    """Ours and its peers on one input.

    Args:
        size: of the input, (B, C, *spatial), float32, contiguous.
        contenders: label -> what builds it; the first is "ours".
        passes: FORWARD (eval mode, no gradient), TRAINING (train mode, gradients of input and weights) or both.
        threads: of a CPU.
        quick: whether ``--quick`` runs it.
    """

    size: tuple[int, ...]
    contenders: Mapping[str, Callable[[], nn.Module]]
    passes: tuple[str, ...] = (FORWARD, TRAINING)
    threads: int = 1
    quick: bool = True


@dataclass(frozen=True)
class Measurement:
    """One contender in one pass: milliseconds of the repeats, or why there are none."""

    comparison: str
    run: str
    contender: str
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None
    repeats: int = 0
    peak_mib: float | None = None
    error: str | None = None


COMPARISONS: Registry[Comparison] = Registry("comparison")


def _local_attention(size: tuple[int, ...], kernel_size: int) -> Comparison:
    dims = len(size)

    def build() -> LocalAttention:
        return LocalAttention(64, spatial_dims=dims, kernel_size=kernel_size, full_attention_tokens=0)

    def by(attention: Callable[..., torch.Tensor]) -> Callable[[], nn.Module]:
        return lambda: peers.Neighbourhoods(build(), attention)

    others = {
        "unfold": peers.unfold_attention,
        "FlexAttention": peers.row_major_flex_attention,
        "NATTEN": peers.natten_attention,
    }
    if dims == 2:  # a mask of 13,824 tokens squared and its scores are gigabytes
        others["masked SDPA"] = peers.masked_attention
    contenders = {OURS: build, **{label: by(function) for label, function in others.items()}}
    return Comparison((1, 64, *size), contenders)


for _size, _kernel in (((56, 56), 7), ((24, 24, 24), 5), ((32, 32, 32), 3)):
    COMPARISONS.register(
        f"local attention {'x'.join(map(str, _size))} kernel {_kernel}", _local_attention(_size, _kernel)
    )

for _size, _kernel in (((56, 56), 3), ((32, 32, 32), 3), ((32, 32, 32), 7)):
    _dims = {"spatial_dims": len(_size), "kernel_size": _kernel}
    COMPARISONS.register(
        f"pooling {'x'.join(map(str, _size))} kernel {_kernel}",
        Comparison(
            (1, 64, *_size),
            {
                OURS: partial(create_mixer, "pooling", 64, **_dims),
                "nn.AvgPool": partial(peers.AveragePooling, **_dims),
            },
        ),
    )

for _size, _kernel in (((56, 56), 7), ((24, 24, 24), 3), ((24, 24, 24), 7)):
    _convolution = peers.CONVOLUTIONS[len(_size)]
    COMPARISONS.register(
        f"grouped conv {'x'.join(map(str, _size))} kernel {_kernel}",
        Comparison(
            (2, 64, *_size),
            {
                OURS: partial(create_mixer, "grouped_conv", 64, spatial_dims=len(_size), kernel_size=_kernel),
                "nn.Conv": partial(_convolution, 64, 64, _kernel, padding=_kernel // 2, groups=64),
            },
        ),
    )

for _name, _quick in (("poolformer_s12", True), ("convformer_s18", False), ("caformer_s18", False)):

    def _timm_channels_last(name: str) -> nn.Module:
        return peers.ChannelsLast(peers.timm_network(name), spatial_dims=2)

    COMPARISONS.register(
        f"{_name} 224x224",
        Comparison(
            (1, 3, 224, 224),
            {
                OURS: partial(create_network, _name, spatial_dims=2, in_channels=3, out_channels=1000),
                "timm": partial(peers.timm_network, _name),
                "timm, channels-last": partial(_timm_channels_last, _name),
            },
            quick=_quick,
        ),
    )

for _kernel in (3, 7):
    _options: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": _kernel}
    COMPARISONS.register(
        f"3D metaformer_s12 pooling 96x96x96 kernel {_kernel}",
        Comparison(
            (1, 1, 96, 96, 96),
            {
                OURS: partial(create_network, "metaformer_s12", mixer="pooling", **_options),
                "nn.AvgPool3d, nn.Conv3d": partial(peers.naive_metaformer, "metaformer_s12", **_options),
            },
        ),
    )

_brats: dict[str, Any] = {"spatial_dims": 3, "in_channels": 4, "out_channels": 3}
_nnunet: dict[str, Any] = {"in_channels": 4, "out_channels": 3}
for _name in ("token_unet", "token_unet_no_transformer", "unet_star_star"):
    _others: dict[str, Callable[[], nn.Module]] = {
        "MONAI SwinUNETR": partial(create_network, "swin_unetr_tshimanga2026", **_brats)
    }
    if _name == "token_unet":
        _others |= {
            "MONAI UNet": partial(create_network, "unet_tshimanga2026", **_brats),
            "nnU-Net PlainConvUNet": partial(peers.nnunet_network, "plain", **_nnunet),
            "nnU-Net ResEncUNet": partial(peers.nnunet_network, "residual", **_nnunet),
        }
    COMPARISONS.register(
        f"{_name} 96x96x96",
        Comparison(
            (1, 4, 96, 96, 96),
            {OURS: partial(create_network, _name, **_brats), **_others},
            passes=(FORWARD,),
            threads=2,
            quick=False,
        ),
    )


def compare(name: str, *, device: str = "cpu", memory: bool = True) -> list[Measurement]:
    """Measure one comparison, its contenders in turn within each repeat.

    Args:
        name: in COMPARISONS.
        device: as torch names it.
        memory: measure peaks too, each in a process of its own.

    Returns:
        One measurement a pass and contender. A contender that cannot run here has its error instead of times.
    """
    comparison = COMPARISONS[name]
    before = torch.get_num_threads()
    torch.set_num_threads(comparison.threads)
    try:
        rows = [row for run in comparison.passes for row in _timed(name, run, device)]
    finally:
        torch.set_num_threads(before)
    if not memory:
        return rows
    return [row if row.error else _with_peak(row, device) for row in rows]


def _timed(name: str, run: str, device: str) -> list[Measurement]:
    comparison = COMPARISONS[name]
    steps, errors = {}, {}
    for label in comparison.contenders:
        try:
            step = _step(name, label, run, device)
            step()
            steps[label] = step
        except Exception as error:  # whatever a peer raises where it cannot run: it is reported, the rest goes on
            if label == OURS:
                raise
            errors[label] = str(error).strip().partition("\n")[0] or type(error).__name__
    times: dict[str, list[float]] = {label: [] for label in steps}
    start = time.perf_counter()
    for repeat in range(MAX_REPEATS):
        if repeat >= 3 and time.perf_counter() - start > SECONDS:
            break
        for label, step in steps.items():
            times[label].append(_milliseconds(step, device))
    rows = []
    for label in comparison.contenders:
        if label in errors:
            rows.append(Measurement(name, run, label, error=errors[label]))
        else:
            found = times[label]
            rows.append(Measurement(name, run, label, median(found), min(found), max(found), len(found)))
    return rows


def _step(name: str, contender: str, run: str, device: str) -> Callable[[], None]:
    """One pass of a contender over the comparison's input, with weights and input of one seed."""
    comparison = COMPARISONS[name]
    torch.manual_seed(0)
    module = comparison.contenders[contender]().to(device).train(run == TRAINING)
    x = torch.randn(comparison.size, device=device, requires_grad=run == TRAINING)

    def forward() -> None:
        with torch.inference_mode():
            module(x)

    def training() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        module(x).sum().backward()

    return training if run == TRAINING else forward


def _milliseconds(step: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    step()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def _with_peak(row: Measurement, device: str) -> Measurement:
    command = [sys.executable, "-m", __name__, row.comparison, row.contender, row.run, device]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return Measurement(**{**asdict(row), "peak_mib": None if out == "None" else float(out)})


def peak_mib(name: str, contender: str, run: str, device: str) -> float | None:
    """Highest memory of a few passes above what weights and input take, in MiB; right in a fresh process only."""
    torch.set_num_threads(COMPARISONS[name].threads)
    step = _step(name, contender, run, device)
    before = peak_bytes(device, reset=True)
    for _ in range(3):
        step()
    after = peak_bytes(device)
    return None if before is None or after is None else (after - before) / 2**20


def table(rows: list[Measurement]) -> str:
    """A Markdown table: ours, and every peer with its ratio to ours."""
    ours = {(row.comparison, row.run): row for row in rows if row.contender == OURS}
    lines = [
        "| comparison | pass | ours | peer | its time | time, peer / ours | memory, peer / ours |",
        "|" + "---|" * 7,
    ]
    for row in rows:
        if row.contender == OURS:
            continue
        base = ours[row.comparison, row.run]
        cells = [row.comparison, row.run, _time(base), row.contender]
        if row.error:
            cells += [f"not run: {row.error[:80]}", "", ""]
        else:
            assert base.milliseconds is not None
            assert row.milliseconds is not None
            memory = "" if not base.peak_mib or row.peak_mib is None else f"{row.peak_mib / base.peak_mib:.1f}"
            cells += [_time(row), f"**{row.milliseconds / base.milliseconds:.2f}**", memory]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _time(row: Measurement) -> str:
    return f"{row.milliseconds:.1f} ms ({row.low:.1f} to {row.high:.1f})"


if __name__ == "__main__":
    print(peak_mib(*sys.argv[1:]))
