"""Start and steps of a bundle's training over the number of cases in its data, with the count of files opened."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from processes import bundle_command, wait_for

from medmixers.files import copy_file

ROOT = Path(__file__).resolve().parents[2]
CASES, STEPS = (1000, 10000), 101
PICTURES, VOLUMES = "datalist.json, pictures", "nnU-Net raw format, volumes"
BUNDLES = {PICTURES: "chest_xray_pneumonia_classification_pooling", VOLUMES: "brain_tissue_segmentation_grouped_conv"}
EDGE = {PICTURES: 28, VOLUMES: 16}
# One stage's worth of work per step: what is measured is the loading.
NETWORK: dict[str, Any] = {"depths": [1] * 4, "dims": [32] * 4}
STEP = re.compile(r"Iter: (\d+)/\d+.*opened (\d+)")
# Runs MONAI's command, counts what it opens in a folder, and says the count in each line of a step.
LAUNCHER = """
import logging, os, runpy, sys
folder, opened, make = sys.argv.pop(1), [0], logging.getLogRecordFactory()
def count(event, details):
    if event == "open" and isinstance(details[0], (str, bytes)):
        opened[0] += os.fsdecode(details[0]).startswith(folder)
def told(*words, **options):
    record = make(*words, **options)
    if "Iter: " in str(record.msg):
        record.msg = f"{record.msg} opened {opened[0]}"
    return record
sys.addaudithook(count)
logging.setLogRecordFactory(told)
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def scale_figures(
    *, cases: Sequence[int] = CASES, steps: int = STEPS, announce: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """One row per kind of data and number of cases."""
    rows = []
    for kind in BUNDLES:
        for count in cases:
            with tempfile.TemporaryDirectory(prefix="scale-") as name:
                folder = Path(name).resolve() / "data"
                {PICTURES: write_pictures, VOLUMES: write_volumes}[kind](folder, count)
                rows.append({"data": kind, "cases": count, **training(kind, folder, steps)})
                announce(f"{kind} {count}: {rows[-1]}")
    return rows


def write_pictures(folder: Path, count: int) -> None:
    """Grey pictures of two classes, in a datalist.json with all parts."""
    (folder / "images").mkdir(parents=True)
    first = folder / "images" / "case_00000.png"
    pixels = np.random.default_rng(0).integers(0, 255, (EDGE[PICTURES],) * 2, np.uint8)
    Image.fromarray(pixels).save(first)
    items = [{"image": f"images/case_{n:05d}.png", "label": n % 2, "group": f"patient {n}"} for n in range(count)]
    for item in items[1:]:
        copy_file(first, folder / str(item["image"]))
    parts = {"training": items[count // 10 :], "validation": items[: count // 10], "test": []}
    (folder / "datalist.json").write_text(json.dumps(parts), "utf-8")


def write_volumes(folder: Path, count: int) -> None:
    """Training cases in nnU-Net raw format."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (EDGE[VOLUMES],) * 3, np.uint8)
    image = (label + rng.random(label.shape) + 1).astype(np.float32)
    for name, voxels, ending in (("imagesTr", image, "_0000.nii"), ("labelsTr", label, ".nii")):
        (folder / name).mkdir(parents=True)
        first = folder / name / f"case_00000{ending}"
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), first)
        for number in range(1, count):
            copy_file(first, folder / name / f"case_{number:05d}{ending}")
    names = json.loads((ROOT / "bundles" / BUNDLES[VOLUMES] / "configs" / "metadata.json").read_text("utf-8"))
    channels = names["network_data_format"]["outputs"]["pred"]["channel_def"].values()
    labels = {name: value for value, name in enumerate(channels)}
    description = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": count, "file_ending": ".nii"}
    (folder / "dataset.json").write_text(json.dumps(description), "utf-8")


def training(kind: str, folder: Path, steps: int) -> dict[str, Any]:
    """Seconds to the end of the first step, steps per second after it, opened files and the peak; then it is ended."""
    options = {
        "dataset_dir": folder,
        "ckpt_dir": folder.parent / "models",
        "epochs": 1,
        "batch_size": 2,
        "num_iterations_per_epoch": steps,
        "num_workers": 0,
        "cache_rate": 0.0,
        "device": "$torch.device('cpu')",
        "amp": False,
        **{f"network_def#{name}": value for name, value in NETWORK.items()},
        ("image_size" if kind == PICTURES else "roi_size"): [EDGE[kind]] * (2 if kind == PICTURES else 3),
    }
    command = bundle_command(ROOT / "bundles" / BUNDLES[kind], ["train.json"], options)
    start, seen, lines = time.monotonic(), {}, []
    words = [sys.executable, "-u", "-c", LAUNCHER, str(folder), *command[2:]]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout or ():
        lines.append(line)
        if found := STEP.search(line):
            seen[int(found[1])] = time.monotonic() - start, int(found[2])
        if steps in seen:
            break
    process.kill()
    peak = wait_for(process)
    if process.stdout:
        process.stdout.close()
    if steps not in seen:
        raise RuntimeError("the steps did not come: " + "".join(lines[-5:]))
    (first, opened), (last, opened_last) = seen[1], seen[steps]
    return {
        "start_s": round(first, 2),
        "steps_per_s": round((steps - 1) / (last - first), 2),
        "opens_start": opened,
        "opens_per_step": round((opened_last - opened) / (steps - 1), 2),
        "peak_bytes": peak,
    }
