"""Predict a series with the inference of a bundle, in a process of its own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.model import ClassificationModel, SegmentationModel
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError
from medmixers.images.dicom import read_slices
from medmixers.images.dicom_seg import Series, numbered
from medmixers.images.dicom_values import with_syntax
from medmixers.processes import run_python
from medmixers.progress import note

CASE = "series"  # a name without the patient's
FILE = ".nii.gz"
# What computes the network -> the bundle's configs that it takes
RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "torch": ("inference",),
    "openvino": ("inference", "inference_openvino"),
}
GRID_MM = 1e-2  # affines in NIfTI files have single precision


def predict(
    model: SegmentationModel,
    channels: Sequence[Series],
    folder: Path,
    *,
    device: str | None = None,
    runtime: str = "torch",
) -> NDArray[Any]:
    """The structures of a case.

    Args:
        model: the bundle.
        channels: the series of each channel, on one grid.
        folder: an empty folder for what the prediction reads and writes.
        device: as torch names it; None takes the bundle's choice.
        runtime: a name in ``RUNTIMES``.

    Returns:
        (x, y, z) with the number of the segment, 0 for none; or (x, y, z, K) of 0 and 1 where segments may overlap.

    Raises:
        InputError: what the bundle's own checks refuse.
    """
    images, written = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    written.mkdir()
    links: dict[Path, Path] = {}
    if model.is_of_nnunet:
        entry: str | list[str] = _nifti_files(model, channels, images)
    else:
        entry, links = _linked_folders(channels, images)
    options = inference_options(images, written, entry, device)
    options["ckpt_path"] = str(model.weights.resolve())
    if "output_ext" in model.config:
        options |= {"output_ext": FILE, "separate_folder": False}
    if "output_postfix" in model.config:
        options["output_postfix"] = ""
    with _names_as_given(links):
        run_inference(model.bundle, options, folder, RUNTIMES[runtime])
    return _read(model, channels[0], written)


def classify(
    model: ClassificationModel,
    files: Sequence[Path],
    folder: Path,
    *,
    device: str | None = None,
    runtime: str = "torch",
) -> dict[str, float]:
    """Probabilities of a case: class -> from 0 to 1, in the order of the classes.

    Args:
        model: the bundle.
        files: of one DICOM image, or of a series.
        folder, device, runtime: as :func:`predict` has them.

    Raises:
        InputError: what the bundle's own checks refuse.
    """
    images, written = folder / "images", folder / "tables"
    written.mkdir(parents=True)
    links = _linked(files, images / CASE)
    options = inference_options(images, written, str(images / CASE), device)
    options["ckpt_path"] = str(model.weights.resolve())
    with _names_as_given(links):
        run_inference(model.bundle, options, folder, RUNTIMES[runtime])
    with open(written / "predictions.csv", newline="", encoding="utf-8") as table:
        (row,) = csv.DictReader(table)
    return {name: float(row[name]) for name in model.classes}


def inference_options(images: Path, written: Path, entry: str | list[str], device: str | None) -> dict[str, Any]:
    """Options of a bundle's inference for one case.

    Args:
        images: folder of the case's files.
        written: folder for the predictions.
        entry: of the case in the data list: a file or folder, or one per channel.
        device: as torch names it; None takes the bundle's choice.
    """
    options = {"dataset_dir": str(images), "output_dir": str(written), "datalist": [entry], "num_workers": 0}
    return options if device is None else {**options, "device": f"$torch.device({device!r})"}


def _linked(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """A folder with links to the files; with copies of those without preamble, which older bundles pass over.

    Returns:
        Each link, and at the end the folder -> what it stands for.
    """
    from pydicom import dcmread
    from pydicom.misc import is_dicom

    folder.mkdir(parents=True)
    links = {folder / f"{number:05d}_{file.name}": file for number, file in enumerate(files)}
    for place, file in links.items():
        if is_dicom(file):
            place.symlink_to(file.resolve())
        else:
            with_syntax(dcmread(file, force=True)).save_as(place, enforce_file_format=True)
    return {**links, folder: files[0].parent}


def _linked_folders(channels: Sequence[Series], images: Path) -> tuple[str | list[str], dict[Path, Path]]:
    """A folder per channel with links to its files: a folder of the user's may hold several series."""
    if len(channels) == 1:
        return str(images / CASE), _linked(channels[0].files, images / CASE)
    folders = [images / CASE / f"{channel:04d}" for channel in range(len(channels))]
    links: dict[Path, Path] = {}
    for series, folder in zip(channels, folders, strict=True):
        links |= _linked(series.files, folder)
    return [str(folder) for folder in folders], links


@contextmanager
def _names_as_given(links: Mapping[Path, Path]) -> Iterator[None]:
    """Name the user's files, in place of the links to them, in an input error of a bundle."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for place, file in links.items():
            text = text.replace(str(place), str(file))
            if file.is_file():
                text = text.replace(place.name, file.name)
        raise InputError(text) from None


def _nifti_files(model: SegmentationModel, channels: Sequence[Series], images: Path) -> list[str]:
    """A NIfTI file per channel, as nnU-Net's readers take them: voxels in the order of the series."""
    import nibabel as nib

    ending = json.loads((model.bundle / "configs" / "nnunet" / "dataset.json").read_text("utf-8"))["file_ending"]
    if ending.lower() not in NIFTI:
        raise InputError(f"the model takes {ending} files; this command feeds models that take NIfTI (.nii.gz, .nii)")
    reader = json.loads((model.bundle / "configs" / "nnunet" / "plans.json").read_text("utf-8"))["image_reader_writer"]
    axes = "".join(nib.aff2axcodes(channels[0].affine))
    if axes[2] not in "IS" and "Reorient" not in reader:
        note(
            f"medmixers: note: the slices of the series are not axial (voxel axes {axes}), and the model's reader, "
            f"{reader}, does not turn images: the model must have been trained on such images"
        )
    files = []
    for channel, series in enumerate(channels):
        file = images / f"{CASE}_{channel:04d}{ending}"
        nib.save(nib.Nifti1Image(read_slices(series.slices), series.affine), file)
        files.append(str(file))
    return files


def check_runtime(runtime: str) -> None:
    """Raise InputError for a name that is not in ``RUNTIMES``."""
    if runtime not in RUNTIMES:
        raise InputError(f"unknown runtime {runtime!r}; valid: {', '.join(RUNTIMES)}")


def run_inference(bundle: Path, options: dict[str, Any], folder: Path, names: Sequence[str]) -> None:
    """``python -m monai.bundle run`` of these configs of the bundle with options laid over them."""
    overlay = folder / "options.json"
    overlay.write_text(json.dumps(options), "utf-8")
    files = [bundle.resolve() / "configs" / f"{name}.json" for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise InputError(f"the bundle has no configs/{missing[0]}")
    configs = [str(file) for file in (*files, overlay)]
    command = ["-m", "monai.bundle", "run", "--bundle_root", str(bundle.resolve()), "--config_file", str(configs)]
    done = run_python(command, cwd=folder)
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines() or ["no message"]
    if done.returncode == 2 and ": error: " in lines[-1]:
        raise InputError(lines[-1].partition(": error: ")[2])
    raise RuntimeError(f"the bundle's inference ended with status {done.returncode}:\n{done.stderr}")


def _read(model: SegmentationModel, series: Series, folder: Path) -> NDArray[Any]:
    segments = model.segments
    if segments[0].values is None:
        masks = [_on_grid(folder / f"{CASE}_{segment.name}{FILE}", series) > 0 for segment in segments]
        return numbered(np.stack(masks, axis=-1), segments)
    labels = _on_grid(next(iter(sorted(folder.glob(f"{CASE}.nii*"))), folder / f"{CASE}{FILE}"), series)
    return numbered(labels, segments)


def _on_grid(file: Path, series: Series) -> NDArray[np.uint16]:
    """Values of a predicted file, which must lie on the grid of the series."""
    import nibabel as nib

    image = nib.load(file)
    if image.shape != series.shape or series.distance(image.affine) > GRID_MM:
        raise RuntimeError(f"the prediction is not on the grid of the series: {image.shape}, {image.affine.tolist()}")
    return np.asarray(image.dataobj).astype(np.uint16)
