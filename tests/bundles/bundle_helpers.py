"""A tiny data set with an oblique, anisotropic geometry, and a way to run a bundle as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import preloaded
from medmixers.bundles.catalog import BUNDLES, BundleRow
from medmixers.bundles.render.parts import size_key
from medmixers.bundles.verify.synthetic import oblique_affine
from medmixers.errors import InputError, joined_lines

ROOT = Path(__file__).resolve().parents[2]
BRAIN = "brain_tissue_segmentation_grouped_conv"
# A bundle for each way in which configs differ.
ONE_OF_EACH = [
    "abdomen_ct_segmentation_global_attention",  # no background in the loss, a size-bound network
    "brain_tissue_segmentation_grouped_conv",  # 3D, exclusive labels
    "brain_tumor_segmentation_token_unet",  # 3D, regions, four channels
    "breast_tissue_segmentation_identity",  # 2D, an ignored value, sampled by frequency
    "cardiac_mri_segmentation_med_unext",  # a 2D network on volumes
    "chest_xray_segmentation_random_mixing",  # 2D, overlapping masks of whole images
    "lung_nodule_classification_pooling",  # 3D
    "skin_lesion_classification_conv",  # 2D
]
SHAPE = (24, 20, 22)
# Small enough for seconds on a CPU: the same network and the same configs, fewer channels and blocks.
SMALL = ("--network_def#depths", "[1,1,1,1]", "--network_def#dims", "[8,8,16,16]", "--roi_size", "[16,16,16]")
FOUR_STAGES = {"depths": [1, 1, 1, 1], "dims": [16, 16, 16, 16]}
SMALL_NETWORKS = {
    "metaformer_s12": FOUR_STAGES,
    "metaformer_segformer_s12": FOUR_STAGES,
    "med_next": FOUR_STAGES,
    "med_unext": {"channels": [8, 8, 8, 8, 8]},
}
USER_TASK = {
    "name": "my_organ_segmentation",
    "title": "My organ",
    "task": "segmentation",
    "modality": "CT",
    "spatial_dims": 3,
    "channels": ["CT"],
    "labels": ["background", "organ"],
    "spacing": [1.0, 1.0, 2.0],
    "intensity": "window",
    "window": [-100.0, 300.0],
    "licence": "ours",
    "citation": "none",
    "data_source": "one hospital",
    "intended_use": "Research.",
    "limits": "Not for clinical use.",
}
FOUR_LEVELS = {"channels": [8, 8, 8, 8]}  # Token-UNet and its like


def write_dataset(folder: Path, *, training: int = 4, held_out: int = 2) -> Path:
    """nnU-Net raw format: labels are levels of a smooth random field, the image is the label with noise."""
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(training + held_out):
        part = "Tr" if index < training else "Ts"
        field = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3)
        label = np.digitize(field, np.quantile(field, [0.4, 0.7])).astype(np.uint8)
        image = (100.0 * label + 50 + rng.normal(scale=10, size=SHAPE)).astype(np.float32)
        save(folder / f"images{part}" / f"case_{index}_0000.nii.gz", image)
        save(folder / f"labels{part}" / f"case_{index}.nii.gz", label)
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "grey_matter": 1, "white_matter": 2},
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def save(path: Path, data: np.ndarray) -> None:
    """A NIfTI file in the oblique geometry."""
    nib.save(nib.Nifti1Image(data, oblique_affine()), path)


def last_words(error: pytest.ExceptionInfo[SystemExit]) -> str:
    """The one line with which a check ended the process; test_options.py reads it from stderr."""
    assert error.value.code == 2
    assert isinstance(error.value.__cause__, InputError)
    return f"medmixers: error: {joined_lines(error.value.__cause__)}"


def run_bundle(
    cwd: Path,
    *configs: str,
    bundle: str = BRAIN,
    small: tuple[str, ...] = SMALL,
    ranks: int = 1,
    preload: bool = True,
    **overrides: str,
) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run`` of a committed bundle, from the working directory ``cwd``.

    Several ranks are started by torchrun, on the CPU.
    """
    root = ROOT / "bundles" / bundle
    files = [str(root / "configs" / f"{name}.json") for name in configs]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    python = preloaded.python() if preload else sys.executable
    command = [python, *torchrun, "-m", "monai.bundle", "run", "--bundle_root", str(root)]
    command += ["--config_file", str(files) if len(files) > 1 else files[0], *small]
    for key, value in overrides.items():
        command += [f"--{key}", value]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"CUDA_VISIBLE_DEVICES": ""} if ranks > 1 else {})}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def run_here(*configs: str, bundle: str, **overrides: Any) -> None:
    """The same within this process, which saves the seconds of the imports; overrides are values, not words."""
    root = ROOT / "bundles" / bundle
    files = [str(root / "configs" / f"{name}.json") for name in configs]
    monai.bundle.run(config_file=files, bundle_root=str(root), **{**small_options(BUNDLES[bundle]), **overrides})


def small_options(row: BundleRow) -> dict[str, Any]:
    """Overrides that keep a bundle's configs and make its network and images small."""
    options = {f"network_def#{key}": value for key, value in SMALL_NETWORKS.get(row.network, FOUR_LEVELS).items()}
    return {**options, size_key(row): [32, 32] if len(row.size) == 2 else [16, 16, 16]}
