"""Measure what uncertainty and the flag of unlike images are worth, on the demo's data with made faults.

python scripts/benchmarks/record_uncertainty.py FOLDER            # ten minutes of one core, half of them the training
python scripts/benchmarks/record_uncertainty.py FOLDER --record   # then results/measured.json and the documents' tables

FOLDER keeps the data and the trained bundle: a second run predicts only. New subjects, which neither trained nor
calibrated, are predicted as they are and with each fault. A recorded run needs a clean checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from record_flag import rician
from recording import score_and_print
from scipy import ndimage

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.new import write_bundle
from medmixers.clinic.uncertainty.calibrate import write_calibration
from medmixers.clinic.uncertainty.calibration import read_calibration
from medmixers.clinic.uncertainty.command import write_uncertainty
from medmixers.demo.subjects import Case, load_anatomy, simulate_case, write_brain_demo
from medmixers.errors import one_line_errors
from medmixers.results.tables import uncertainty_table

BUNDLE = "brain_tissue_segmentation_grouped_conv"
SOUND, FAULTY = 10, 5  # new subjects without a fault, and with each fault
FIRST = 1000  # number of the first new subject: the demo's own are 0 to 11
CHECKS = {"spacing": "spacing", "intensities": "intensities", "features": "features of the network"}


def noise(case: Case, rng: np.random.Generator) -> Case:
    """Rician noise of 15 % of the brightest tissue; the training has 1.5 to 4 %."""
    noisy = rician(0.15)(case.image, rng)
    return Case(np.where(case.image > 0, noisy, 0).astype(np.float32), case.label)


def inverted(case: Case, rng: np.random.Generator) -> Case:
    """Dark tissue is bright, as in another sequence."""
    inside = case.image > 0
    bright = np.where(inside, case.image.max() * 1.05 - case.image, 0)
    return Case(bright.astype(np.float32), case.label)


def upside_down(case: Case, rng: np.random.Generator) -> Case:
    """Flipped from head to foot, and the header does not say so."""
    return Case(case.image[..., ::-1].copy(), case.label[..., ::-1].copy())


def left_right(case: Case, rng: np.random.Generator) -> Case:
    """Flipped from left to right, and the header does not say so."""
    return Case(case.image[::-1].copy(), case.label[::-1].copy())


def blurred(case: Case, rng: np.random.Generator) -> Case:
    """A resolution of 6 mm (full width at half maximum) on the voxels of 2 mm."""
    smooth = ndimage.gaussian_filter(case.image, 6 / 2.355 / 2)
    return Case(np.where(case.image > 0, smooth, 0).astype(np.float32), case.label)


def coarse(case: Case, rng: np.random.Generator) -> Case:
    """Every second voxel of each axis; the header says 4 mm."""
    smooth = ndimage.gaussian_filter(case.image, 0.7)
    smooth[case.image == 0] = 0
    return Case(smooth[::2, ::2, ::2].copy(), case.label[::2, ::2, ::2].copy())


def sound(case: Case, rng: np.random.Generator) -> Case:
    """No fault."""
    return case


FAULTS: Mapping[str, tuple[str, Callable[[Case, np.random.Generator], Case]]] = {
    "sound": ("none: new subjects", sound),
    "noise": ("noise of 15 %", noise),
    "inverted": ("inverted contrast", inverted),
    "blurred": ("blurred to 6 mm", blurred),
    "coarse": ("voxels of 4 mm", coarse),
    "upside_down": ("flipped, head to foot", upside_down),
    "left_right": ("flipped, left to right", left_right),
}


def trained_bundle(folder: Path, data: Path) -> tuple[Path, float]:
    """The bundle, trained once on one core with its recipe, and the seconds that the training took."""
    bundle, times = folder / BUNDLE, folder / "training.json"
    if not times.is_file():
        if not bundle.is_dir():
            write_bundle(BUNDLES[BUNDLE], folder)
        start = time.monotonic()
        command = ["-m", "monai.bundle", "run", "--bundle_root", str(bundle), "--dataset_dir", str(data)]
        command += ["--config_file", str(bundle / "configs" / "train.json"), "--device", "$torch.device('cpu')"]
        subprocess.run([sys.executable, *command], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        times.write_text(json.dumps({"seconds": time.monotonic() - start}))
    return bundle, json.loads(times.read_text())["seconds"]


def write_images(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """The images of all faults. Returns the labels by case."""
    anatomy, labels = load_anatomy(), {}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SOUND):
        case = simulate_case(anatomy, seed=0, index=FIRST + number)
        for fault, (_, change) in FAULTS.items():
            if fault != "sound" and number >= FAULTY:
                continue
            image, label = change(case, np.random.default_rng([number, len(fault)]))
            affine = anatomy.affine @ np.diag([2, 2, 2, 1] if fault == "coarse" else [1, 1, 1, 1])
            nib.save(nib.Nifti1Image(image, affine), folder / f"{fault}-{number:02d}.nii.gz")
            labels[f"{fault}-{number:02d}"] = label
    return labels


def score(out: Path, case: str, truth: NDArray[np.uint8]) -> dict[str, Any]:
    """What was said of a case, and what is true."""
    facts = json.loads((out / "uncertainty" / f"{case}.json").read_text())
    image = nib.load(out / f"{case}.nii.gz")
    label, ml = np.asarray(image.dataobj), abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    dice, inside = [], []
    for value, row in enumerate(facts["structures"], start=1):
        mask, true = label == value, truth == value
        dice.append(2 * float((mask & true).sum()) / float(mask.sum() + true.sum()))
        inside.append(row["low"] <= true.sum() * ml <= row["high"])
    said = facts["unlike_training_data"]
    return {
        "flagged": bool(said),
        **{check: any(each.startswith(word) for each in said) for check, word in CHECKS.items()},
        "dice": float(np.mean(dice)),
        "predicted_dice": float(np.mean([row["predicted_dice"] or 0.0 for row in facts["structures"]])),
        "inside": float(np.mean(inside)),
    }


def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table."""
    counts = {key: sum(row[key] for row in rows) for key in ("flagged", *CHECKS)}
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("dice", "predicted_dice", "inside")}
    return {"fault": name, "images": len(rows), **counts, **means}


def measure(folder: Path) -> dict[str, Any]:
    """The figures. The folder keeps the data, the bundle and the predictions."""
    data = write_brain_demo(folder / "Dataset900_BrainTissue")
    bundle, seconds = trained_bundle(folder, data)
    print(write_calibration([bundle], data, device="cpu"), file=sys.stderr)
    found = read_calibration(bundle / "models" / "calibration.json")
    truth = write_images(folder / "images")
    print(write_uncertainty([bundle], folder / "images", folder / "predictions", device="cpu"), file=sys.stderr)
    rows = {case: score(folder / "predictions", case, label) for case, label in truth.items()}
    return {
        "bundle": bundle.name,
        "epochs": json.loads((bundle / "configs" / "train.json").read_text())["epochs"],
        "train_seconds": seconds,
        "validation_cases": found.cases,
        "training_images": 0 if found.training_images is None else found.training_images.count,
        "temperature": found.temperature,
        "error": found.error,
        "likelihood": found.likelihood,
        "rows": [
            summary(title, [row for case, row in rows.items() if case.startswith(f"{fault}-")])
            for fault, (title, _) in FAULTS.items()
        ],
    }


@one_line_errors("record_uncertainty")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the data, the bundle and the predictions")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder.resolve()
    score_and_print("uncertainty", lambda: measure(folder), uncertainty_table, is_recorded=arguments.record)


if __name__ == "__main__":
    main()
