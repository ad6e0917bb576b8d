"""What nnU-Net's own planner takes for a data set, for a new bundle: spacing, patch and batch.

nnU-Net's functions do the work: ``analyze_case`` of its fingerprint reads each case, ``ExperimentPlanner`` plans. Two
things differ. A volume's axes are sorted to left-right, posterior-anterior, inferior-superior first, since bundles
reorient images, and nnU-Net does not. And nothing is written to nnU-Net's folders.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from medmixers.bundles.planned import DataPlan
from medmixers.datasets.case_facts import orientation
from medmixers.datasets.datalist_format import FILE, read_datalist
from medmixers.datasets.image_files import read_image
from medmixers.datasets.raw_checks import check_raw_dataset
from medmixers.datasets.raw_format import label_names, read_description, training_cases
from medmixers.errors import InputError, first_line
from medmixers.progress import progress
from medmixers.tasks import TaskSpec

NAME = "Dataset001_Planned"  # of the data set in the temporary folders
LARGEST_SHARE, SMALLEST_BATCH = 0.05, 2  # nnU-Net: a batch holds at most 5 % of the data, and at least 2 patches
BOUNDS = "at most 5 % of the data and at least 2"
BYTES, GIB = 4, 2**30  # of a voxel in memory, in single precision
VOXELS_OF = 4  # cases whose voxels are checked before nnU-Net reads them all


def plan_data(folder: str | Path, task: TaskSpec) -> DataPlan:
    """The plan of nnU-Net for the training cases of a folder.

    Tasks of whole images have no patches: they get a batch by nnU-Net's rule for its size.

    Args:
        folder: a data set in nnU-Net raw format, or one with datalist.json.
        task: its channels and labels must be those of the data set.

    Raises:
        InputError: the data set cannot be read, or is of another task.
    """
    folder = Path(folder)
    whole = task.image_size is not None or task.task == "classification"
    if not task.has_raw_format:
        if not whole:
            raise InputError(
                f"task {task.name!r} has overlapping masks without an image_size: give --roi_size, not --data"
            )
        return _whole_images(len(read_datalist(folder)["training"]))
    if (folder / FILE).is_file() and not (folder / "dataset.json").is_file():
        raise InputError(f"{folder} holds {FILE}; data of task {task.name!r} are in nnU-Net raw format")
    description = read_description(folder)
    _check_task(folder, description, task)
    if whole:
        return _whole_images(len(training_cases(folder, description)))
    axes = check_raw_dataset(folder, parts=("training",), voxels_of=VOXELS_OF)
    if axes != task.spatial_dims:
        raise InputError(f"the images of {folder} are {axes}D, task {task.name!r} is {task.spatial_dims}D")
    return _planned(folder, description, task)


def _whole_images(cases: int) -> DataPlan:
    if not cases:
        raise InputError("the data set has no training case to plan for")
    batch = max(round(cases * LARGEST_SHARE), SMALLEST_BATCH)
    return DataPlan(cases=cases, batch_size=batch, batch_rule=f"nnU-Net's rule, {BOUNDS}")


def _check_task(folder: Path, description: dict[str, Any], task: TaskSpec) -> None:
    channels, values = len(description["channel_names"]), list(label_names(description))
    if channels != len(task.channels):
        raise InputError(f"{folder} has {channels} channels, task {task.name!r} has {len(task.channels)}")
    if values != task.file_values:
        raise InputError(f"{folder} has the labels {values}, task {task.name!r} has {task.file_values}")


def _planned(folder: Path, description: dict[str, Any], task: TaskSpec) -> DataPlan:
    """Let nnU-Net plan in temporary folders. Its axes are z, y, x; of pictures 1, y, x."""
    dims = task.spatial_dims
    cases = {
        case.name: {
            "images": [str(file.absolute()) for file in case.images],
            "label": str(case.label and case.label.absolute()),
        }
        for case in training_cases(folder, description)
    }
    fingerprint = _fingerprint(description, cases, dims)
    plan, theirs = _nnunet_plan(description, cases, fingerprint, task)
    median = plan["median_image_size_in_voxels"]
    is_picture = issubclass(_reader(description, cases), NaturalImage2DIO)
    voxels = float(np.prod(median)) * len(cases) * (len(task.channels) + 1)
    return DataPlan(
        cases=len(cases),
        batch_size=int(plan["batch_size"]),
        batch_rule=f"nnU-Net's batch for this patch, {BOUNDS}",
        spacing=None if is_picture else tuple(round(edge, 5) for edge in _bundle_axes(theirs, dims)),
        median_spacing=None if is_picture else _bundle_axes(np.median(fingerprint["spacings"], 0), dims),
        patch_size=tuple(int(edge) for edge in _bundle_axes(plan["patch_size"], dims)),
        median_size=tuple(round(edge) for edge in _bundle_axes(median, dims)),
        cached_gib=voxels * BYTES / GIB,
    )


def _bundle_axes(values: Sequence[float], dims: int) -> tuple[float, ...]:
    """Of nnU-Net's last axes, in the order x, y, z."""
    return tuple(float(value) for value in values[::-1][:dims])


def _fingerprint(description: dict[str, Any], cases: dict[str, Any], dims: int) -> dict[str, Any]:
    """nnU-Net's fingerprint, without intensities, of volumes with sorted axes."""
    reader = _reader(description, cases)

    def analyse(name: str) -> tuple[list[int], list[float], float]:
        files = cases[name]
        try:
            found = DatasetFingerprintExtractor.analyze_case(files["images"], files["label"], reader, num_samples=1)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise InputError(f"case {name!r}: nnU-Net cannot read it: {first_line(error)}") from error
        shape, spacing = list(found[0]), list(found[1])
        order = _sorted_axes(Path(files["images"][0])) if dims == 3 else [0, 1, 2]
        return [int(shape[axis]) for axis in order], [float(spacing[axis]) for axis in order], float(found[4])

    with ThreadPoolExecutor(max(1, min(default_num_processes, os.cpu_count() or 1))) as pool:
        rows = list(progress(pool.map(analyse, cases), "plan", total=len(cases)))
    return {
        "shapes_after_crop": [row[0] for row in rows],
        "spacings": [row[1] for row in rows],
        "median_relative_size_after_cropping": float(np.median([row[2] for row in rows])),
        "foreground_intensity_properties_per_channel": {},
    }


def _reader(description: dict[str, Any], cases: dict[str, Any]) -> type:
    first = next(iter(cases.values()))["images"][0]
    return determine_reader_writer_from_dataset_json(description, first, verbose=False)


def _sorted_axes(image: Path) -> list[int]:
    """Index of nnU-Net's axes (last axis of the file first) that lie along z, y and x of the patient."""
    of_file = orientation(image, read_image(image, whole=False))[:, 0]  # file's axis -> x, y, z of the patient
    return [2 - int(np.flatnonzero(of_file == axis)[0]) for axis in (2, 1, 0)]


def _nnunet_plan(
    description: dict[str, Any], cases: dict[str, Any], fingerprint: dict[str, Any], task: TaskSpec
) -> tuple[dict[str, Any], Sequence[float]]:
    """Configuration of nnU-Net's plans in the order z, y, x, at the task's spacing if it has one; and nnU-Net's own."""
    chosen = None if task.spacing is None else [float(edge) for edge in reversed(task.spacing)]
    if chosen is not None and len(chosen) == 2:
        chosen = [float(fingerprint["spacings"][0][0]), *chosen]
    with tempfile.TemporaryDirectory() as folder, _nnunet_folders(Path(folder)) as (raw, preprocessed):
        (raw / "dataset.json").write_text(json.dumps({**description, "dataset": cases}))
        (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        planner = ExperimentPlanner(NAME, overwrite_target_spacing=chosen, suppress_transpose=False)
        planner.lowres_creation_threshold = 0  # no 3d_lowres: a bundle has one resolution
        # It prints whole plans, and builds its network for each patch that it tries: only the shapes count.
        with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
            plans = planner.plan_experiment()
        theirs = _rule_spacing(planner)
    configuration = plans["configurations"]["3d_fullres" if task.spatial_dims == 3 else "2d"]
    keys = ("spacing", "median_image_size_in_voxels", "patch_size")
    back = plans["transpose_backward"] if task.spatial_dims == 3 else (0, 1)
    ordered = {key: [configuration[key][axis] for axis in back] for key in keys}
    return {**ordered, "batch_size": configuration["batch_size"]}, theirs


def _rule_spacing(planner: ExperimentPlanner) -> list[float]:
    """The spacing that nnU-Net's rule gives, whatever the planner was told to take."""
    planner.overwrite_target_spacing = None
    return [float(edge) for edge in planner.determine_fullres_target_spacing()]


@contextlib.contextmanager
def _nnunet_folders(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Folders of the data set below ``folder``, which nnU-Net's variables name meanwhile."""
    before = {name: os.environ.get(name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    try:
        for name in before:
            os.environ[name] = str(folder / name)
            (folder / name / NAME).mkdir(parents=True)
        yield folder / "nnUNet_raw" / NAME, folder / "nnUNet_preprocessed" / NAME
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
