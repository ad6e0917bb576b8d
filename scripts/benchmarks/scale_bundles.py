"""Time and peak memory of a bundle's prediction and evaluation over the number of cases and of classes.

The network is one 3 x 3 x 3 convolution, so that the figures are those of the start, reading, windows, resampling,
scores and writing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
from processes import bundle_command, run_python

from medmixers.bundles.new import new_bundle
from medmixers.files import copy_file
from medmixers.tasks.palette import with_background
from medmixers.tasks.spec import TaskSpec

CASES, CLASSES = (1, 33, 129), (2, 18, 66)
SMALL, LARGE = 32, 96  # voxels along an edge of the image: over cases, over classes
FEW = 3  # classes where cases are counted
SPACING, NETWORK_SPACING = 1.2, 1.5  # mm
NOTES = {  # what follows from the code
    ("prediction", "cases"): "time 1, memory 0",
    ("prediction", "classes"): "at most 1",
    ("evaluation", "cases"): "time 1, memory 0",
    ("evaluation", "classes"): "at most 1",
}


def scale_figures(
    *,
    cases: Sequence[int] = CASES,
    classes: Sequence[int] = CLASSES,
    large: int = LARGE,
    repeats: int = 1,
    announce: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """One row per command and what it is counted over: counts, seconds and peaks.

    Repeats alternate over all points, and the median counts.
    """
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        sizes = {"cases": [(n, FEW, SMALL) for n in cases], "classes": [(1, n, large) for n in classes]}
        made = {
            size: write_bundle(folder / "-".join(map(str, size)), *size) for group in sizes.values() for size in group
        }
        keys = [(command, over) for command in ("prediction", "evaluation") for over in sizes]
        runs: dict[Any, list[tuple[float, int]]] = {(key, size): [] for key in keys for size in sizes[key[1]]}
        for _ in range(repeats):
            for (key, size), found in runs.items():
                found.append(run_python(command(key[0], *made[size])))
                announce(f"{key[0]} by {key[1]} {size}: {found[-1][0]:.1f} s")
    rows = []
    for key in keys:
        points = [runs[key, size] for size in sizes[key[1]]]
        rows.append(
            {
                "command": key[0],
                "over": key[1],
                "counts": list(cases if key[1] == "cases" else classes),
                "seconds": [round(median(seconds for seconds, _ in found), 2) for found in points],
                "peak_bytes": [max(peak for _, peak in found) for found in points],
                "note": NOTES[key],
            }
        )
    return rows


def write_bundle(folder: Path, cases: int, classes: int, edge: int) -> tuple[Path, Path]:
    """A bundle for so many classes with weights, and a data set with so many held-out cases; folder must not exist."""
    bundle = new_bundle(task(classes), network="metaformer_segformer_s12", mixer="conv", out=folder)
    data = folder / "data"
    write_cases(data, cases, classes, edge)
    arguments = {"in_channels": 1, "out_channels": classes, "kernel_size": 3, "padding": 1}
    overlay: dict[str, Any] = {
        "network_def": {"_target_": "torch.nn.Conv3d", **arguments},
        "device": "$torch.device('cpu')",
    }
    overlay |= {"dataset_dir": str(data), "roi_size": [LARGE] * 3, "sw_batch_size": 1, "amp": False, "num_workers": 0}
    (folder / "overlay.json").write_text(json.dumps(overlay), "utf-8")
    torch.manual_seed(0)
    torch.save(torch.nn.Conv3d(1, classes, 3, padding=1).state_dict(), folder / "model.pt")
    return bundle, folder


def task(classes: int) -> TaskSpec:
    """A task with so many labels, the background among them."""
    labels = with_background(*(f"label {k}" for k in range(1, classes)))
    return TaskSpec(
        name="scale", title="Scale", task="segmentation", modality="CT", spatial_dims=3, channels=("CT",),
        labels=labels, spacing=(NETWORK_SPACING,) * 3, intensity="window", window=(-200.0, 300.0), validation_every=5,
        licence="none", citation="none", data_source="synthetic", intended_use="Measuring.", limits="Not for use.",
    )  # fmt: skip


def write_cases(data: Path, cases: int, classes: int, edge: int) -> None:
    """Held-out cases in nnU-Net raw format, all with the same voxels: boxes of each label along the last axis."""
    for name in ("imagesTs", "labelsTs"):
        (data / name).mkdir(parents=True)
    affine = np.diag([-SPACING, SPACING, SPACING, 1.0])
    label = np.broadcast_to(np.arange(edge) * classes // edge, (edge,) * 3).astype(np.uint8)
    rng = np.random.default_rng(0)
    image = (10.0 * label + rng.normal(0, 50, label.shape)).astype(np.int16)
    for folder, voxels, ending in (("imagesTs", image, "_0000.nii"), ("labelsTs", label, ".nii")):
        first = data / folder / f"case_0000{ending}"
        nib.save(nib.Nifti1Image(voxels, affine), first)
        for number in range(1, cases):
            copy_file(first, first.with_name(f"case_{number:04d}{ending}"))
    names = {"background": 0, **{f"label {k}": k for k in range(1, classes)}}
    description = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 0, "file_ending": ".nii"}
    (data / "dataset.json").write_text(json.dumps(description), "utf-8")


def command(kind: str, bundle: Path, folder: Path) -> list[str]:
    """Arguments of Python that predict or evaluate."""
    configs = ["inference.json"] if kind == "prediction" else ["train.json", "evaluate.json"]
    options = {"ckpt_path": folder / "model.pt", "output_dir": folder / kind}
    return bundle_command(bundle, [*configs, folder / "overlay.json"], options)
