"""nnU-Net's folders with tiny data, and its commands run in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np

import preloaded
from medmixers.nnunet.environment import trainer_path

TRAINER = "nnUNetTrainerTokenUNet"
MODEL = ("900", "3d_fullres", "0")
AFFINE = np.diag([1.5, 1.5, 1.5, 1.0])
AFFINE[:3, 3] = 10, -20, 30


class Workplace:
    """nnU-Net's folders, and its commands run in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raw = root / "nnUNet_raw" / "Dataset900_Cube"
        self.model = root / "nnUNet_results" / "Dataset900_Cube" / f"{TRAINER}__nnUNetPlans__3d_fullres"
        self.fold = self.model / "fold_0"
        self.environment = {
            **os.environ,
            **{name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
            "nnUNet_extTrainer": trainer_path({}),
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",  # a line is read when it is printed
            "OMP_WAIT_POLICY": "PASSIVE",  # nnU-Net takes every core: waiting threads must not spin in parallel runs
            "MEDMIXERS_ITERATIONS_PER_EPOCH": "2",
            "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH": "1",
        }

    def start(self, command: str, *arguments: str, preload: bool = False, **variables: str) -> subprocess.Popen:
        """Start a command of nnU-Net. One that starts no workers can be preloaded."""
        folder = sysconfig.get_path("scripts")
        script = shutil.which(command, path=os.pathsep.join([folder, os.environ["PATH"]])) or Path(folder, command)
        return subprocess.Popen(
            [*([preloaded.python()] if preload else []), script, *arguments],
            env={**self.environment, **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, command: str, *arguments: str, **variables: str) -> str:
        return output_of(self.start(command, *arguments, **variables))

    def medmixers(self, *arguments: str, preload: bool = False) -> str:
        command = [preloaded.python() if preload else sys.executable, "-m", "medmixers", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def start_training(self, *flags: str, preload: bool = False, **variables: str) -> subprocess.Popen:
        # The augmenter runs in this process: planning is the one command that needs a worker.
        arguments = (*MODEL, "-tr", TRAINER, "-device", "cpu", *flags)
        return self.start("nnUNetv2_train", *arguments, preload=preload, nnUNet_n_proc_DA="0", **variables)

    def train(self, *flags: str, **variables: str) -> str:
        return output_of(self.start_training(*flags, **variables))


def output_of(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-4000:]
    return output


def write_cases(raw: Path) -> None:
    """Five training and one test case of 32^3: a bright cube in noise."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (raw / folder).mkdir(parents=True)
    for index in range(6):
        part = "Tr" if index < 5 else "Ts"
        label = np.zeros((32, 32, 32), np.uint8)
        corner = rng.integers(4, 14, 3)
        label[tuple(slice(start, start + 14) for start in corner)] = 1
        image = (rng.normal(size=label.shape) + 5 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(image, AFFINE), raw / f"images{part}" / f"cube_{index}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, AFFINE), raw / f"labels{part}" / f"cube_{index}.nii.gz")
    row = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "cube": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(row))
