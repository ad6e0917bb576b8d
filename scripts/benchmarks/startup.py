"""Time from a command to its answer, each in a process of its own: what imports and checks cost.

python scripts/benchmarks/startup.py            # prints the table
python scripts/benchmarks/startup.py --record   # and writes it to results/measured.json and the documents

The last row is a bundle's training from the command to the end of its first step, on four tiny volumes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from recording import measure_and_print

from medmixers.bundles.verify.synthetic import write_synthetic
from medmixers.errors import one_line_errors
from medmixers.results.tables import startup_table

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 5
BUNDLE = "brain_tissue_segmentation_grouped_conv"
NETWORK = "medmixers.create_network('metaformer_s12', spatial_dims=2, in_channels=3, out_channels=2, mixer='pooling')"
COMMANDS: dict[str, list[str]] = {
    "python": ["-c", ""],
    "medmixers --version": ["-m", "medmixers", "--version"],
    "medmixers list networks": ["-m", "medmixers", "list", "networks"],
    "import torch": ["-c", "import torch"],
    "create_network('metaformer_s12')": ["-c", f"import medmixers; {NETWORK}"],
    "import monai.bundle": ["-c", "import monai.bundle"],
    "import nnunetv2.run.run_training": [
        "-c",
        "from nnunetv2.run.run_training import run_training_entry as run; run()",
        "-h",
    ],
}


def measured(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"{command} ended with status {done.returncode}: {done.stderr[-500:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def first_step() -> tuple[float, float]:
    """Wall and processor seconds from the command to the end of a bundle's first training step; then it is ended."""
    root = ROOT / "bundles" / BUNDLE
    metadata = json.loads((root / "configs" / "metadata.json").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_synthetic(folder / "data", metadata, {"spatial_dims": 3, "label_values": (0, 1, 2)})
        options = {
            "dataset_dir": dataset,
            "ckpt_dir": folder / "models",
            "epochs": 1,
            "roi_size": "[32,32,32]",
            "num_workers": 0,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        configs = ["--config_file", str(root / "configs" / "train.json"), "--bundle_root", str(root)]
        start, before = time.perf_counter(), os.times()
        command = [sys.executable, "-u", "-m", "monai.bundle", "run", *configs, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if "Iter: 1/" in line:
                break
        else:
            raise RuntimeError("no first step: " + "".join(lines[-5:]))
        seconds = time.perf_counter() - start
        process.kill()
        process.communicate()
        after = os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def row(label: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Medians of wall and processor seconds."""
    wall, cpu = (round(median(column), 2) for column in zip(*times, strict=True))
    return {"command": label, "wall_s": wall, "cpu_s": cpu}


def startup_figures() -> list[dict[str, Any]]:
    """A row per command, and one for the first step of a training."""
    figures = []
    for label, command in COMMANDS.items():
        measured(command)  # the first reads files from disk
        figures.append(row(label, [measured(command) for _ in range(REPEATS)]))
    first_step()
    return [*figures, row(f"a step of {BUNDLE}", [first_step() for _ in range(REPEATS)])]


@one_line_errors("startup")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    measure_and_print("start-up", startup_figures, startup_table, is_recorded=arguments.record)


if __name__ == "__main__":
    main()
