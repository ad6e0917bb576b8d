"""The demo's data: subjects simulated from one real anatomy, the MNI152 template, in nnU-Net raw format.

The template is an average of 152 healthy adults (Fonov et al. 2011, ICBM152 2009a, nonlinear) without skull, with maps
of the probability of grey and of white matter. nilearn contains all three, so nothing is downloaded. Each case is the
template under its own smooth deformation, with its own contrast, bias field, noise and scanner gain. The data check
tools; they say nothing about networks on patients.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medmixers.errors import ExistingFileError, InputError, MissingPackageError
from medmixers.files import written_whole
from medmixers.progress import progress
from medmixers.tasks import TASKS

Array = NDArray[np.float32]

MARKER = "medmixers_demo.json"
VERSION = 1  # raise it when the same parameters would write other voxels
LABELS = {name: value for value, name in TASKS["brain_tissue_segmentation"].label_names.items()}
# Threshold of the larger probability. Chosen by eye at 2 mm: at 0.5 the blurred sulci of the average brain fall apart
# into single voxels, at 0.2 sulci and ventricles close.
THRESHOLD = 0.3
SMALLEST_JACOBIAN = 0.3  # smallest part of its volume that a voxel keeps: 0 would be a fold


class Anatomy(NamedTuple):
    """T1 template, tissue probabilities, brain mask, each (X, Y, Z); affine from voxels to millimetres."""

    t1: Array
    grey: Array
    white: Array
    mask: Array
    affine: NDArray[np.float64]


class Case(NamedTuple):
    """One simulated subject: image (X, Y, Z) float32, exactly 0 outside the brain; label (X, Y, Z) uint8."""

    image: Array
    label: NDArray[np.uint8]


def write_brain_demo(
    out: str | Path, *, cases: int = 12, held_out: int = 3, seed: int = 0, resolution: float = 2
) -> Path:
    """Write the demo's data set, or reuse it if ``out`` already holds it with these parameters.

    Args:
        out: the data set's folder. nnU-Net finds it by name, so for nnU-Net it should be
            ``.../nnUNet_raw/Dataset900_BrainTissue``.
        cases: number of simulated subjects.
        held_out: number of subjects, the last ones, that go to imagesTs and labelsTs.
        seed: case i depends only on the seed and on i.
        resolution: edge of a voxel in millimetres; 2 gives volumes of 99 x 117 x 95.

    Returns:
        ``out`` as a path. It appears whole or not at all.

    Raises:
        InputError: a parameter out of range.
        ExistingFileError: ``out`` exists and is not this data set; nothing in it is changed.
        MissingPackageError: nilearn is not installed.
    """
    if not 1 <= held_out < cases:
        raise InputError(f"held_out must be at least 1 and less than cases, got {held_out=}, {cases=}")
    if not 1 <= resolution <= 8:
        raise InputError(f"resolution must be from 1 to 8 mm, got {resolution=}")
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed=}")
    out = Path(out)
    parameters = {"cases": cases, "held_out": held_out, "seed": seed, "resolution": float(resolution)}
    if _is_written(out, parameters):
        return out
    anatomy = load_anatomy(resolution)
    with written_whole(out) as partial:
        partial.mkdir()
        _write_folder(partial, anatomy, parameters)
    return out


def load_anatomy(resolution: float = 2) -> Anatomy:
    """The template and its tissue maps from nilearn, resampled to isotropic voxels of ``resolution`` mm."""
    try:
        from nilearn import datasets
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'the demo\'s data needs nilearn ({error}): pip install "medmixers[demo]"') from error
    t1 = datasets.load_mni152_template(resolution=resolution)
    maps = (
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
        datasets.load_mni152_brain_mask,
    )
    grey, white, mask = (load(resolution=resolution).get_fdata(dtype=np.float32) for load in maps)
    return Anatomy(t1.get_fdata(dtype=np.float32), grey, white, mask, t1.affine)


def simulate_case(anatomy: Anatomy, *, seed: int, index: int) -> Case:
    """Subject ``index`` of the series ``seed``: warp, label the warped probabilities, then appearance."""
    rng = np.random.default_rng([seed, index])
    spacing = voxel_sizes(anatomy.affine)
    displacement = random_displacement(anatomy.t1.shape, spacing, rng)
    coordinates = np.indices(anatomy.t1.shape, dtype=np.float32) + displacement / spacing.reshape(3, 1, 1, 1)
    t1 = ndimage.map_coordinates(anatomy.t1, coordinates, order=3).clip(0)
    grey, white, mask = (
        ndimage.map_coordinates(volume, coordinates, order=1) for volume in (anatomy.grey, anatomy.white, anatomy.mask)
    )
    image = _appearance(t1, grey, white, spacing, rng)
    label = tissue_labels(grey, white)
    image[mask < 0.5] = 0  # images without skull have exactly 0 around the brain
    label[mask < 0.5] = 0
    return Case(image.astype(np.float32), label)


def tissue_labels(grey: Array, white: Array, *, threshold: float = THRESHOLD) -> NDArray[np.uint8]:
    """1 or 2 by the larger probability where it reaches ``threshold``, else 0. All arrays (X, Y, Z)."""
    tissue = np.where(white > grey, LABELS["white_matter"], LABELS["grey_matter"])
    return np.where(np.maximum(grey, white) >= threshold, tissue, LABELS["background"]).astype(np.uint8)


def random_displacement(shape: tuple[int, ...], spacing: NDArray[np.float64], rng: np.random.Generator) -> Array:
    """A smooth map without folds, as displacements in mm, (3, X, Y, Z).

    Head size and pose (standard deviations: 3 % scale, 1.5 % shear, 3 degrees, 1.5 mm) plus local variation
    (Gaussian fields of 20 mm width and 2 mm standard deviation), shrunk until every voxel keeps
    SMALLEST_JACOBIAN of its volume.
    """
    centre = (np.array(shape) - 1) / 2
    millimetres = (np.indices(shape) - centre.reshape(3, 1, 1, 1)) * spacing.reshape(3, 1, 1, 1)
    matrix = rng.normal(scale=0.015, size=(3, 3)) * (1 + np.eye(3)) + _skew(rng.normal(scale=0.05, size=3))
    displacement = np.tensordot(matrix, millimetres, axes=1) + rng.normal(scale=1.5, size=(3, 1, 1, 1))
    displacement += 2.0 * np.stack([smooth_field(shape, 20 / spacing, rng) for _ in range(3)])
    while jacobian_determinant(displacement, spacing).min() < SMALLEST_JACOBIAN:
        displacement *= 0.8
    return displacement.astype(np.float32)


def jacobian_determinant(displacement: NDArray[Any], spacing: NDArray[np.float64]) -> NDArray[Any]:
    """Local volume factor of x -> x + displacement(x), (X, Y, Z); not positive where the map folds."""
    gradient = np.stack([np.stack(np.gradient(component, *spacing)) for component in displacement])
    matrices = np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3)
    return np.linalg.det(matrices)


def smooth_field(shape: tuple[int, ...], sigma: NDArray[np.float64], rng: np.random.Generator) -> Array:
    """Gaussian random field of mean 0 and standard deviation 1; ``sigma`` is its width in voxels per axis."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, truncate=3)
    field -= field.mean()
    return field / field.std()


def voxel_sizes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edge lengths of a voxel in mm."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def _skew(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z = angles
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _appearance(t1: Array, grey: Array, white: Array, spacing: NDArray[np.float64], rng: np.random.Generator) -> Array:
    """Add tissue contrast and one simulated scanner. Template: 0 to 1."""
    shift = rng.normal(scale=0.04, size=2)
    return scanned(t1 * (1 + shift[0] * grey + shift[1] * white), 40 / spacing, rng)


def scanned(image: NDArray[Any], width: NDArray[np.float64], rng: np.random.Generator) -> NDArray[Any]:
    """Add gamma, bias field, Rician noise and gain of one simulated scanner.

    Args:
        image: (X, Y, Z), from 0 to 1.
        width: of the bias field, in voxels per axis.
        rng: draws the scanner.
    """
    image = image ** np.exp(rng.normal(scale=0.15))
    image *= np.exp(0.12 * smooth_field(image.shape, width, rng))
    sigma = rng.uniform(0.015, 0.04)
    real, imaginary = rng.normal(scale=sigma, size=(2, *image.shape))
    return np.hypot(image + real, imaginary) * rng.uniform(300, 1200)


def _case_name(index: int) -> str:
    return f"brain_{index:03d}"


def _case_files(index: int, parameters: dict[str, Any]) -> tuple[str, str]:
    """Image and label of a case, relative to the data set's folder."""
    part = "Tr" if index < parameters["cases"] - parameters["held_out"] else "Ts"
    return f"images{part}/{_case_name(index)}_0000.nii.gz", f"labels{part}/{_case_name(index)}.nii.gz"


def _write_folder(folder: Path, anatomy: Anatomy, parameters: dict[str, Any]) -> None:
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir()
    for index in progress(range(parameters["cases"]), "simulate subjects"):
        case = simulate_case(anatomy, seed=parameters["seed"], index=index)
        for data, name in zip(case, _case_files(index, parameters), strict=True):
            nifti = nib.Nifti1Image(data, anatomy.affine)
            nifti.header.set_xyzt_units("mm")
            nib.save(nifti, folder / name)
    (folder / "dataset.json").write_text(json.dumps(_dataset_json(parameters), indent=2) + "\n")
    (folder / MARKER).write_text(json.dumps(_marker(parameters), indent=2) + "\n")


def _dataset_json(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "BrainTissue",
        "description": (
            f"One real anatomy, {parameters['cases']} simulated subjects: the MNI152 2009a T1 template, an "
            "average of 152 healthy adults, under random smooth deformations with simulated contrast, bias "
            "field and noise. Grey or white matter is the larger of the two probabilities where it reaches "
            f"{THRESHOLD}. A check of tools, not evidence about networks."
        ),
        "reference": "Fonov et al., NeuroImage 54 (2011) 313-327, as distributed with nilearn",
        "channel_names": {"0": "T1"},
        "labels": LABELS,
        "numTraining": parameters["cases"] - parameters["held_out"],
        "file_ending": ".nii.gz",
    }


def _marker(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"writer": __name__, "version": VERSION, "parameters": parameters}


def _is_written(out: Path, parameters: dict[str, Any]) -> bool:
    """Whether ``out`` holds this data set. Raises ExistingFileError if it holds anything else."""
    if not out.exists():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False  # os.rename replaces an empty folder
    try:
        marker = json.loads((out / MARKER).read_text())
        found = {"version": marker["version"], **marker["parameters"]}
        ours = marker["writer"] == __name__
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ExistingFileError(f"{out} exists and was not written by medmixers; choose another folder")
    wanted = {"version": VERSION, **parameters}
    if found != wanted:
        difference = ", ".join(
            f"{k}={found.get(k)} (asked for {wanted[k]})" for k in wanted if found.get(k) != wanted[k]
        )
        raise ExistingFileError(f"{out} holds a demo with {difference}; delete it or choose another folder")
    files = [name for index in range(parameters["cases"]) for name in _case_files(index, parameters)]
    missing = [name for name in [*files, "dataset.json"] if not (out / name).is_file()]
    if missing:
        raise ExistingFileError(f"{out} is incomplete, {missing[0]} is missing; delete it and run again")
    return True
