"""Inference of the same networks by torch, torch.compile, ONNX Runtime and OpenVINO on a CPU, side by side.

python scripts/benchmarks/runtimes.py            # prints the table
python scripts/benchmarks/runtimes.py --record   # and writes it to results/measured.json and the documents

The table shows how far the logits are from torch's in float32. The start is the time to build what runs: a
graph, a session, a compiled model. Times are medians of interleaved repeats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exports import as_onnx
from measure import has_bfloat16, reason
from recording import measure_and_print
from torch import Tensor, nn

from medmixers.bundle_runtime.openvino_inference import openvino_compile
from medmixers.errors import InputError, one_line_errors
from medmixers.factory import create_network
from medmixers.profiling import in_fresh_process, peak_bytes
from medmixers.results.tables import runtimes_table

ROOT = Path(__file__).resolve().parents[2]
THREADS, REPEATS = 2, 5
IN_MEMORY = ("torch", "ONNX Runtime", "OpenVINO")  # peaks are measured; that of torch.compile is its compiler's
VOLUME, PICTURE = (1, 1, 96, 96, 96), (1, 3, 224, 224)
VISIBLE = {"layer_scale_init": 1.0}  # the published 1e-5 would hide the mixers' errors in the logits
Forward = Callable[[Tensor], Tensor]

# Label -> name, options and input size.
NETWORKS: Mapping[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    **{f"{name} 96x96x96": (name, {}, VOLUME) for name in ("token_unet", "token_unet_released_8")},
    **{
        f"metaformer_segformer_s12 {mixer} 96x96x96": (
            "metaformer_segformer_s12",
            {"mixer": mixer, **VISIBLE},
            VOLUME,
        )
        for mixer in ("pooling", "grouped_conv", "local_attention", "global_attention")
    },
    "poolformer_s12 224x224": ("poolformer_s12", VISIBLE, PICTURE),
    "convformer_s18 224x224": ("convformer_s18", {}, PICTURE),
}


def by_torch(network: nn.Module) -> Forward:
    return network


def by_torch_bfloat16(network: nn.Module) -> Forward:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    return forward


def by_compile(network: nn.Module) -> Forward:
    torch._dynamo.reset()
    return torch.compile(network, options={"freezing": True})


def by_onnxruntime(network: nn.Module, x: Tensor) -> Forward:
    return as_onnx(torch.export.export(network, (x,)), threads=THREADS)


def by_openvino(network: nn.Module, *, precision: str) -> Forward:
    return openvino_compile(deepcopy(network), precision=precision)


def runtimes(x: Tensor) -> dict[str, Callable[[nn.Module], Forward]]:
    """Label -> what makes a network run by it."""
    found: dict[str, Callable[[nn.Module], Forward]] = {
        "torch": by_torch,
        "torch.compile": by_compile,
        "ONNX Runtime": partial(by_onnxruntime, x=x),
        "OpenVINO": partial(by_openvino, precision="f32"),
    }
    if has_bfloat16("cpu"):
        found |= {"torch, bfloat16": by_torch_bfloat16, "OpenVINO, bf16": partial(by_openvino, precision="bf16")}
    return found


def build(label: str) -> tuple[nn.Module, Tensor]:
    name, options, size = NETWORKS[label]
    torch.manual_seed(0)
    network = create_network(
        name, spatial_dims=len(size) - 2, in_channels=size[1], out_channels=2 if len(size) == 5 else 1000, **options
    )
    return network.eval(), torch.randn(size)


@torch.no_grad()
def compare(label: str, *, memory: bool) -> dict[str, Any]:
    """One row of the record: per runtime its times in ms, its start in s, its peak in MiB, its difference to torch."""
    network, x = build(label)
    expected = network(x)
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Forward] = {}
    for name, make in runtimes(x).items():
        start = time.perf_counter()
        try:
            run = make(network)
            found = run(x)
        except Exception as error:  # runtimes raise many kinds
            rows[name] = {"error": reason(error)}
            continue
        seconds = time.perf_counter() - start
        found = run(x)
        difference = ((found.float() - expected).norm() / expected.norm()).item()
        runs[name], rows[name] = run, {"start_s": round(seconds, 2), "difference": difference, "ms": []}
    for _ in range(REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(x)
            rows[name]["ms"].append(round(1000 * (time.perf_counter() - start), 2))
    if memory:
        for name in IN_MEMORY:
            if name not in runs:
                continue
            rows[name]["peak_mib"] = in_fresh_process(peak_mib, label, name)
    medians = {name: statistics.median(row["ms"]) for name, row in rows.items() if "ms" in row}
    print(f"{label}: {medians}", file=sys.stderr)
    return {"network": label, "runtimes": rows}


@torch.no_grad()
def peak_mib(label: str, runtime: str) -> float | None:
    """Peak memory of the process above that of the imports, in MiB, with weights and the start; in a fresh process."""
    torch.set_num_threads(THREADS)
    before = peak_bytes("cpu", reset=True)
    network, x = build(label)
    run = runtimes(x)[runtime](network)
    for _ in range(3):
        run(x)
    after = peak_bytes("cpu")
    return None if before is None or after is None else round((after - before) / 2**20, 1)


@one_line_errors("runtimes")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose label holds this text")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    chosen = [label for label in NETWORKS if arguments.only in label]
    if not chosen:
        raise InputError(f"no network has {arguments.only!r} in its label; valid: {', '.join(NETWORKS)}")
    if arguments.record and arguments.only:
        raise InputError("--record is for a whole run, without --only")
    torch.set_num_threads(THREADS)
    measure_and_print(
        "runtimes",
        lambda: [compare(label, memory=arguments.record) for label in chosen],
        runtimes_table,
        is_recorded=arguments.record,
        packages=("onnxruntime", "openvino"),
    )


if __name__ == "__main__":
    main()
