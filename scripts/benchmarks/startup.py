"""Time from a command to its answer, each in a process of its own: what imports and checks cost.

python scripts/benchmarks/startup.py            # prints the table
python scripts/benchmarks/startup.py --record   # and writes it to results/measured.json and the documents

The last rows are trainings from the command to the end of the first step, on four tiny volumes: a bundle's, and those
of nnUNetv2_train, whose first epoch has one step of training and one of validation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from processes import bundle_command, nnunet_environment, run_until
from recording import measure_and_print

from medmixers.bundles.verify.synthetic import write_synthetic
from medmixers.errors import one_line_errors
from medmixers.results.tables import startup_table

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 5
BUNDLE = "brain_tissue_segmentation_grouped_conv"
NNUNET_TRAINERS = ("nnUNetTrainerStockRecipe", "nnUNetTrainerTokenUNet")  # nnU-Net's own network, and one of ours
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


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of the processes that a function starts and waits for."""
    start, before = time.perf_counter(), os.times()
    run()
    seconds, after = time.perf_counter() - start, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def answer(command: Sequence[str]) -> None:
    """Run Python with some arguments."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with status {done.returncode}: {done.stderr[-500:]}")


def bundle_step(folder: Path) -> Callable[[], Any]:
    """What trains a bundle until its first step has ended, on data that are written into a folder."""
    root = ROOT / "bundles" / BUNDLE
    options = {
        "dataset_dir": synthetic(folder / "bundle_data"),
        "ckpt_dir": folder / "models",
        "epochs": 1,
        "roi_size": "[32,32,32]",
        "num_workers": 0,
    }
    command = [sys.executable, *bundle_command(root, ["train.json"], options)]
    return partial(run_until, "Iter: 1/", command, environment=os.environ)


def nnunet_steps(folder: Path) -> dict[str, Callable[[], Any]]:
    """Trainer -> what trains by nnU-Net until its first epoch of one step has ended, on data in a folder."""
    environment = nnunet_environment(folder)
    (folder / "nnUNet_raw").mkdir()
    synthetic(folder / "nnUNet_raw" / "Dataset001_Synthetic")
    plan = ["nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-np", "1", "-npfp", "1"]
    subprocess.run(plan, env=environment, capture_output=True, check=True)
    environment |= {
        "MEDMIXERS_EPOCHS": "1",
        "MEDMIXERS_ITERATIONS_PER_EPOCH": "1",
        "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH": "1",
    }
    train = ["nnUNetv2_train", "1", "3d_fullres", "all", "-device", "cpu", "-tr"]
    return {
        trainer: partial(run_until, "Epoch time", [*train, trainer], environment=environment)
        for trainer in NNUNET_TRAINERS
    }


def synthetic(folder: Path) -> Path:
    """Four tiny volumes with labels, in nnU-Net's raw format."""
    metadata = json.loads((ROOT / "bundles" / BUNDLE / "configs" / "metadata.json").read_text("utf-8"))
    return write_synthetic(folder, metadata, {"spatial_dims": 3, "label_values": (0, 1, 2)})


def row(label: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Medians of wall and processor seconds."""
    wall, cpu = (round(median(column), 2) for column in zip(*times, strict=True))
    return {"command": label, "wall_s": wall, "cpu_s": cpu}


def startup_figures() -> list[dict[str, Any]]:
    """A row per command, and one per training for its first step. The repeats are interleaved."""
    runs: dict[str, Callable[[], Any]]
    runs = {label: partial(answer, command) for label, command in COMMANDS.items()}
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        trainings = {BUNDLE: bundle_step(Path(name)), **nnunet_steps(Path(name))}
        runs |= {f"a step of {label}": first_step for label, first_step in trainings.items()}
        for run in runs.values():
            run()  # the first reads files from disk
        times = [[timed(run) for run in runs.values()] for _ in range(REPEATS)]
    return [row(label, each) for label, each in zip(runs, zip(*times, strict=True), strict=True)]


@one_line_errors("startup")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    measure_and_print("start-up", startup_figures, startup_table, is_recorded=arguments.record)


if __name__ == "__main__":
    main()
