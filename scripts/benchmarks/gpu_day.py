"""What only a GPU can answer, in parts, into one folder: scripts/gpu_day.sh runs the parts in their order.

python scripts/benchmarks/gpu_day.py compare FOLDER TEXT  # comparisons of the benchmark whose name holds TEXT
python scripts/benchmarks/gpu_day.py norms FOLDER         # gradient norms of local attention
python scripts/benchmarks/gpu_day.py memory FOLDER        # the planner's estimate beside the allocator's peak
python scripts/benchmarks/gpu_day.py training FOLDER      # a bundle on the demo's data, in float32 and in bfloat16
python scripts/benchmarks/gpu_day.py record FOLDER        # then: results/measured.json and the tables

The machine with the GPU needs no git. What FOLDER holds is not measured again. ``record`` needs a clean checkout of the
code that was measured: their digests are compared.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark import PEERS
from comparisons import COMPARISONS
from measure import as_json, compare
from processes import bundle_command, run_python
from recording import device_name, versions
from scale_networks import KEUTH
from stability import BATCH, IMAGE, STEPS, backends, precisions, train

from medmixers.demo.subjects import write_brain_demo
from medmixers.errors import InputError, one_line_errors
from medmixers.factory import create_network
from medmixers.nnunet.memory import GIB, training_memory
from medmixers.profiling import peak_bytes
from medmixers.results import check_committed, describe_run, documents, measured, record
from medmixers.results.gpu import gpu_training_table, planner_memory_table
from medmixers.results.tables import benchmark_table, gradient_norms_table

ROOT = Path(__file__).resolve().parents[2]
FIGURES = "measured.json"  # in the folder, in the form of results/measured.json
SEGFORMER = "metaformer_segformer_s12"
MEMORY_NETWORKS: Mapping[str, Mapping[str, Any]] = {
    **{f"{SEGFORMER} {mixer}": {"name": SEGFORMER, "mixer": mixer} for mixer in KEUTH},
    **{name: {"name": name} for name in ("token_unet", "token_unet_released_8", "med_unext")},
}
PATCH, PATCHES = (96, 96, 96), 2
BUNDLE, EPOCHS, VALIDATED, GOAL = "brain_tissue_segmentation_grouped_conv", 60, 3, 0.86
TRAINED = re.compile(r"^(\S+ \S+?),\d+ - INFO - Epoch: 1/", re.MULTILINE)
VALIDATION = re.compile(r"^(\S+ \S+?),\d+ - INFO - Epoch\[(\d+)\] Metrics -- .*val_mean_dice: ([\d.]+)", re.MULTILINE)
AMP = {"float32": {"amp": False}, "bfloat16": {"amp": True}}  # the bundles' mixed precision is bfloat16


@one_line_errors("gpu_day")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("compare", "norms", "memory", "training", "record"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", nargs="?", default="", help="of the names of comparisons")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the script out")
    arguments = parser.parse_args()
    if arguments.part == "record":
        return take(arguments.folder)
    part = Part(arguments.folder, arguments.device)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.part == "compare":
        part.compare(arguments.text)
    else:
        {"norms": part.norms, "memory": part.memory, "training": part.training}[arguments.part]()


class Part:
    """Rows of sections, kept one by one in a folder.

    Args:
        folder: of the figures.
        device: as torch names it.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.card = device_name(device)

    def rows(self, section: str, keys: Iterable[str], measure: Callable[[str], list[dict[str, Any]]]) -> list[Any]:
        """Measure what the section lacks, a key at a time, and return all rows; each has its ``key``."""
        run = describe_run(section, device=self.card, checkout=ROOT)
        run["versions"] |= versions(PEERS)
        path = self.folder / FIGURES
        kept = measured(path).get(section) if path.exists() else None
        if kept and (kept["code"], kept["device"]) != (run["code"], run["device"]):
            raise InputError(f"{path} holds {section!r} of other code or of another device: name a new folder")
        rows = kept["figures"] if kept else []
        for key in keys:
            if not any(row["key"] == key for row in rows):
                rows += [{"key": key, **row} for row in measure(key)]
                record(section, rows, run=run, path=path)
                print(f"{section}: {key}: done", file=sys.stderr, flush=True)
        return rows

    def compare(self, text: str) -> None:
        """Those that are too large for a CPU, or all with this text where none is."""
        named = [name for name in COMPARISONS if text in name]
        names = [name for name in named if COMPARISONS[name].gpu] or named
        if not names:
            raise InputError(f"no comparison has {text!r} in its name; valid: {', '.join(COMPARISONS)}")
        rows = self.rows(
            f"benchmark {self.device}", names, lambda name: list(map(as_json, compare(name, device=self.device)))
        )
        print(benchmark_table(row for row in rows if row["key"] in names))

    def norms(self) -> None:
        pairs = {
            f"{way} {precision}": (way, precision)
            for way in backends(self.device)
            for precision in precisions(self.device)
        }
        rows = self.rows(
            f"gradient norms {self.device}",
            pairs,
            lambda key: [train(*pairs[key], device=self.device, steps=STEPS).summary()],
        )
        print(gradient_norms_table({self.device: rows}))

    def memory(self) -> None:
        print(planner_memory_table(self.rows(f"planner memory {self.device}", MEMORY_NETWORKS, self._memory)))

    def _memory(self, label: str) -> list[dict[str, Any]]:
        """GiB of a training step with AdamW: the planner's estimate, and the peak in both precisions of nnU-Net."""
        options: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, **MEMORY_NETWORKS[label]}
        if options.get("mixer") == "random_mixing":
            options["input_size"] = PATCH
        build = partial(create_network, options.pop("name"), **options)
        row = {"network": label, "estimate": training_memory(build, 1, PATCH).gib(PATCHES)}
        for precision in ("float32", "float16"):
            row[precision] = self._peak(build, half=precision == "float16") / GIB
        return [row]

    def _peak(self, build: Callable[[], torch.nn.Module], *, half: bool) -> int:
        kind = torch.device(self.device).type
        gc.collect()  # the network before may still hold its memory
        network = build().to(self.device).train()
        optimizer = torch.optim.AdamW(network.parameters())
        context = torch.autocast(kind, torch.float16) if half and kind == "cuda" else nullcontext()
        peak_bytes(self.device, reset=True)
        for _ in range(3):
            optimizer.zero_grad()
            with context:
                logits = network(torch.randn(PATCHES, 1, *PATCH, device=self.device))
            logits.float().square().mean().backward()
            optimizer.step()
        return peak_bytes(self.device) or 0

    def training(self) -> None:
        print(gpu_training_table(self.rows(f"gpu training {self.device}", AMP, self._training)))

    def _training(self, precision: str) -> list[dict[str, Any]]:
        data, log = self.folder / "Dataset900_BrainTissue", self.folder / f"training-{precision}.log"
        if not data.exists():
            write_brain_demo(data)
        lengths = {"epochs": EPOCHS, "val_interval": VALIDATED, "device": f"$torch.device('{self.device}')"}
        places = {
            "dataset_dir": data,
            "ckpt_dir": self.folder / precision,
            "output_dir": self.folder / precision / "log",
        }
        options = {**places, **lengths, **AMP[precision]}
        command = bundle_command(ROOT / "bundles" / BUNDLE, ["train.json"], options)
        run_python(command, environment=os.environ, log=log)
        return [{"precision": precision, **course(log.read_text())}]


def course(log: str) -> dict[str, Any]:
    """Minutes until the validation's mean Dice reaches GOAL (None: never), minutes in all, and the best Dice."""
    if (start := TRAINED.search(log)) is None or not (found := VALIDATION.findall(log)):
        raise InputError(f"the log of a training of {BUNDLE} has no validation")
    began = datetime.fromisoformat(start[1])
    minutes = [(datetime.fromisoformat(time) - began).total_seconds() / 60 for time, _, _ in found]
    dice = [float(score) for _, _, score in found]
    reached = [each for each, score in zip(minutes, dice, strict=True) if score >= GOAL]
    return {"minutes_to_goal": min(reached, default=None), "minutes": minutes[-1], "dice": max(dice)}


def take(folder: Path) -> None:
    """Write the folder's figures into results/measured.json and the tables.

    Raises:
        InputError: the checkout has changes, or other code than was measured; or the figures are not a GPU's.
    """
    path = folder / FIGURES
    if not path.is_file():
        raise InputError(f"{path} does not exist: nothing was measured in {folder}")
    sections = measured(path)
    for name, section in sections.items():
        run = describe_run(name, device=section["device"], checkout=ROOT)
        check_committed(run)
        if section["device"] == "cpu":
            raise InputError(f"{path}: {name!r} was measured on a CPU, to try the script out")
        if section["code"] != run["code"]:
            raise InputError(f"{path}: {name!r} is of other code than this checkout's; measure again")
        section["commit"] = run["commit"]
        section.pop("dirty")
    for name, section in sections.items():
        figures = section.pop("figures")
        if name.startswith("gradient norms"):
            figures = {"steps": STEPS, "batch": BATCH, "image": IMAGE, "rows": figures}
        record(name, figures, run=section)
    documents.write(ROOT)


if __name__ == "__main__":
    main()
