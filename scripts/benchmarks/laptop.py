"""Dice after ten minutes of nnUNetv2_train on a CPU, and seconds per iteration beside nnU-Net's own network.

python scripts/benchmarks/laptop.py WORK                        # the shapes; WORK keeps data and trainings
python scripts/benchmarks/laptop.py WORK --templates FOLDER     # the brains too: 12 minutes per row
python scripts/benchmarks/laptop.py WORK --only "Shapes, Token" --record

FOLDER holds ch2, aal, inia19-t1-brain and inia19-NeuroMaps (.nii.gz) of Debian's package mricron-data. Each data set
has 13 training cases: nnU-Net's fold 0 trains with 10 and validates with 3. A brain's cases are one real image under
random smooth deformations, with random contrast, bias field and noise; so they vary less than patients do. The trainers
were made with Colin27 alone. The other data sets were kept back until nothing changed any more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from processes import nnunet_environment, run_until, wait_for
from scipy import ndimage

from medmixers.demo.subjects import random_displacement, scanned, smooth_field, voxel_sizes
from medmixers.errors import InputError, one_line_errors
from medmixers.files import written_whole
from medmixers.nnunet.strides import fitted_patch_size
from medmixers.profiling import in_fresh_process, peak_bytes
from medmixers.results import check_quiet_machine, check_recordable, describe_run, documents, measured, record
from medmixers.results.tables import laptop_table

ROOT = Path(__file__).resolve().parents[2]
CASES = 13
SECTIONS = {  # trainer -> its section of measured.json
    "nnUNetTrainerTokenUNet_10minutes": "laptop token_unet cpu",
    "nnUNetTrainerMetaFormerGroupedConv_10minutes": "laptop metaformer cpu",
}
MEMORY_STEPS = 3
STOCK = "nnUNetTrainerStockRecipe"  # nnU-Net's network and recipe; the environment shortens it
STOCK_LENGTH = {
    "nnUNet_n_proc_DA": "0",  # as ours
    "MEDMIXERS_EPOCHS": "1",
    "MEDMIXERS_ITERATIONS_PER_EPOCH": "20",
    "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH": "1",
}
AAL = {
    "hippocampus": [37, 38],
    "caudate": [71, 72],
    "putamen": [73, 74],
    "thalamus": [77, 78],
    "cerebellum": list(range(91, 117)),
}
NEUROMAPS = {f"structure {code}": [code, code + 1000] for code in (2, 196, 237, 151, 215)}  # left and right
# Radius in voxels, intensity and number of the ellipsoids of each class, beside a body of intensity 1.
ELLIPSOIDS = ((10, 0.45, 2), (6, -0.4, 3), (4, 0.7, 4), (3, -0.7, 4))
SHAPE, SPACING = (80, 96, 72), (1.5, 1.5, 2.0)
Volume = NDArray[Any]


class DataSet(NamedTuple):
    """A data set: its number for nnU-Net, its classes, and what makes case i, an image and its labels on one grid."""

    number: int
    name: str
    classes: tuple[str, ...]
    case: Callable[[np.random.Generator], tuple[Volume, Volume, NDArray[np.float64]]]

    @property
    def folder(self) -> str:
        """As nnU-Net names it."""
        return f"Dataset{self.number}_{self.name}"


def brain(number: int, name: str, files: tuple[Path, Path], groups: dict[str, list[int]], step: int) -> DataSet:
    """Deformations of one atlas, on a grid ``step`` times coarser than its own."""
    image, atlas = (nib.load(file) for file in files)
    grey = image.get_fdata(dtype=np.float32)
    grey = ndimage.gaussian_filter(grey / grey.max(), step / 2.5)
    codes = np.asarray(atlas.dataobj).round().astype(int)
    shares = [ndimage.gaussian_filter(np.isin(codes, of).astype(np.float32), step / 2.5) for of in groups.values()]
    shape = tuple(edge // step for edge in grey.shape)
    affine = image.affine @ np.diag([step, step, step, 1])
    edges = voxel_sizes(affine)
    size = edges.mean() / 2  # deformations in proportion: a macaque's brain has half the length of ours

    def case(rng: np.random.Generator) -> tuple[Volume, Volume, NDArray[np.float64]]:
        displacement = size * random_displacement(shape, edges / size, rng)
        where = step * (np.indices(shape, dtype=np.float32) + displacement / edges.reshape(3, 1, 1, 1))
        warped = ndimage.map_coordinates(grey, where, order=3).clip(0)
        parts = np.stack([ndimage.map_coordinates(share, where, order=1) for share in shares])
        label = np.where(parts.max(0) >= 0.5, parts.argmax(0) + 1, 0)
        return scanned(warped, np.full(3, 20.0), rng), label, affine

    return DataSet(number, name, tuple(groups), case)


def shapes_case(rng: np.random.Generator) -> tuple[Volume, Volume, NDArray[np.float64]]:
    """Ellipsoids of four sizes in a textured body, among cubes that are background."""
    extent = np.array(SHAPE).reshape(3, 1, 1, 1)
    grid = np.indices(SHAPE, dtype=np.float32)
    image = 0.25 * smooth_field(SHAPE, np.full(3, 6.0), rng)
    image = image + ((((grid - extent / 2) / (0.46 * extent)) ** 2).sum(0) < 1)
    label = np.zeros(SHAPE, np.uint8)
    for value, (radius, intensity, number) in enumerate(ELLIPSOIDS, start=1):
        for _ in range(number):
            centre = (np.array(SHAPE) * rng.uniform(0.28, 0.72, 3)).reshape(3, 1, 1, 1)
            axes = (radius * rng.uniform(0.75, 1.3, 3)).reshape(3, 1, 1, 1)
            inside = (((grid - centre) / axes) ** 2).sum(0) < 1
            if not label[inside].any():
                image[inside] += intensity
                label[inside] = value
    for _ in range(5):
        low = (np.array(SHAPE) * rng.uniform(0.2, 0.75, 3)).astype(int)
        cube = tuple(slice(start, start + int(rng.integers(4, 10))) for start in low)
        if not label[cube].any():
            image[cube] += rng.choice([-0.6, 0.6])
    image = ndimage.gaussian_filter(image, 0.6) + rng.normal(scale=0.15, size=SHAPE)
    return image, label, np.diag([*SPACING, 1.0])


def data_sets(templates: Path | None) -> Iterator[DataSet]:
    yield DataSet(912, "Shapes", tuple(f"radius {radius}" for radius, *_ in ELLIPSOIDS), shapes_case)
    if templates is not None:
        colin, macaque = (
            tuple(templates / f"{stem}.nii.gz" for stem in stems)
            for stems in (("ch2", "aal"), ("inia19-t1-brain", "inia19-NeuroMaps"))
        )
        if missing := [file for file in (*colin, *macaque) if not file.is_file()]:
            raise InputError(f"{missing[0]} does not exist; --templates is the folder of Debian's mricron-data")
        yield brain(910, "Colin27", (colin[0], colin[1]), AAL, 2)
        yield brain(911, "Macaque", (macaque[0], macaque[1]), NEUROMAPS, 2)


def write_data(data: DataSet, raw: Path) -> None:
    """In nnU-Net's raw format, whole or not at all; nothing if it is there."""
    if (raw / data.folder).exists():
        return
    raw.mkdir(parents=True, exist_ok=True)
    with written_whole(raw / data.folder) as folder:
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        for index in range(CASES):
            image, label, affine = data.case(np.random.default_rng([data.number, index]))
            nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / f"imagesTr/c_{index:03d}_0000.nii.gz")
            nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / f"labelsTr/c_{index:03d}.nii.gz")
        labels = {"background": 0, **{name: value for value, name in enumerate(data.classes, start=1)}}
        description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": CASES, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(description))


def run(work: Path, log: Path, *command: str, **variables: str) -> int:
    """Run a command with its output in ``log``. Returns the peak of its memory in bytes."""
    with log.open("w") as out:
        process = subprocess.Popen(command, env={**nnunet_environment(work), **variables}, stdout=out, stderr=out)
        peak = wait_for(process)
    if process.returncode:
        raise InputError(f"{' '.join(command)} failed; its output is in {log}")
    return peak


def trained(work: Path, data: DataSet, trainer: str) -> dict[str, Any]:
    """Figures of one training and of the iterations of nnU-Net's own network. A finished training is not repeated."""
    write_data(data, work / "nnUNet_raw")
    number = str(data.number)
    if not (work / "nnUNet_preprocessed" / data.folder / "nnUNetPlans_3d_fullres").exists():
        run(work, work / f"plan_{number}.log", "nnUNetv2_plan_and_preprocess", "-d", number, "-c", "3d_fullres")
    log, peak = (work / f"{data.name}_{trainer}.{suffix}" for suffix in ("log", "peak"))
    folder = work / "nnUNet_results" / data.folder / f"{trainer}__nnUNetPlans__3d_fullres"
    scores = folder / "fold_0" / "validation" / "summary.json"
    if not scores.exists():
        command = ("nnUNetv2_train", number, "3d_fullres", "0", "-tr", trainer, "-device", "cpu")
        peak.write_text(str(run(work, log, *command)))
    row = json.loads((folder / "plans.json").read_text())["configurations"]["3d_fullres"]
    dice = json.loads(scores.read_text())["mean"]
    found = re.findall(r"(\d+) iterations of about ([\d.]+) s", log.read_text())
    return {
        "data": data.name,
        "trainer": trainer,
        "patch": row["patch_size"],
        "iterations": sum(int(iterations) for iterations, _ in found),
        "seconds_per_iteration": float(np.median([float(seconds) for _, seconds in found])),
        "stock_seconds_per_iteration": stock_seconds(work, data, row),
        "step_bytes": step_bytes(work, data.number, trainer),
        "peak_bytes": int(peak.read_text()) if peak.exists() else None,
        "dice": {name: dice[str(value)]["Dice"] for value, name in enumerate(data.classes, start=1)},
    }


def stock_seconds(work: Path, data: DataSet, row: dict[str, Any]) -> float:
    """Seconds per iteration of nnU-Net's own network and recipe, at a patch rounded up to what its strides divide."""
    preprocessed = work / "nnUNet_preprocessed" / data.folder
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    chosen = plans["configurations"]["3d_fullres"]
    patch = fitted_patch_size(row["patch_size"], chosen["architecture"]["arch_kwargs"]["strides"])
    chosen.update(patch_size=patch, batch_size=row["batch_size"])
    plans["plans_name"] = "SamePatch"
    (preprocessed / "SamePatch.json").write_text(json.dumps(plans))
    command = ["nnUNetv2_train", str(data.number), "3d_fullres", "0", "-tr", STOCK, "-p", "SamePatch", "-device", "cpu"]
    environment = {**nnunet_environment(work), **STOCK_LENGTH}
    found = run_until(r"Epoch time: ([\d.]+) s", command, environment=environment)  # its validation would mirror
    return float(found[1]) / int(STOCK_LENGTH["MEDMIXERS_ITERATIONS_PER_EPOCH"])


def step_bytes(work: Path, number: int, trainer: str) -> int:
    """Peak memory in bytes of some training steps in a fresh process, above its imports, data loaders and weights."""
    with tempfile.TemporaryDirectory() as results:
        environment = {**nnunet_environment(work), "nnUNet_results": results}
        return in_fresh_process(_step_bytes, environment, number, trainer)


def _step_bytes(environment: dict[str, str], number: int, trainer: str) -> int:
    os.environ.update(environment)  # nnU-Net reads it when it is imported
    from nnunetv2.run.run_training import get_trainer_from_args

    training = get_trainer_from_args(str(number), "3d_fullres", 0, trainer, "nnUNetPlans", device=torch.device("cpu"))
    training.on_train_start()
    before = peak_bytes("cpu", reset=True)
    for _ in range(MEMORY_STEPS):  # the optimizer's state is there from the second step on
        training.train_step(next(training.dataloader_train))
    after = peak_bytes("cpu")
    assert before is not None  # Windows alone does not report it
    assert after is not None
    return after - before


@one_line_errors("laptop")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of the data and the trainings, about 1 GB")
    parser.add_argument("--templates", type=Path, help="folder of Debian's mricron-data")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help='rows with this text, as in "Colin27, nnUNetTrainerT"'
    )
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    pairs = [(data, trainer) for data in data_sets(arguments.templates) for trainer in SECTIONS]
    chosen = [(data, trainer) for data, trainer in pairs if arguments.only in f"{data.name}, {trainer}"]
    if not chosen:
        valid = "; ".join(f"{data.name}, {trainer}" for data, trainer in pairs)
        raise InputError(f"no row has {arguments.only!r} in it; valid: {valid}")
    documents.render(ROOT)  # wrong markers must show before the minutes of training
    about = {trainer: describe_run(SECTIONS[trainer], device="cpu", checkout=ROOT) for _, trainer in chosen}
    if arguments.record:
        check_recordable(*about.values())
    for data, trainer in chosen:
        if arguments.record:
            check_quiet_machine()
        figures = trained(arguments.work, data, trainer)
        print(laptop_table([figures]), flush=True)
        if arguments.record:  # each row by itself: it took 12 minutes
            section, start = SECTIONS[trainer], about[trainer]
            before = measured().get(section, {})
            rows = before["figures"] if before.get("code") == start["code"] else []  # none of older code
            kept = [row for row in rows if row["data"] != data.name]
            record(section, sorted([*kept, figures], key=lambda row: row["data"]), run=start)
    if arguments.record:
        documents.write(ROOT)


if __name__ == "__main__":
    sys.exit(main())
