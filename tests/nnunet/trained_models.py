"""Two-fold models as nnU-Net's trainers save them, after a few of their own steps on a made batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

PATCH, STRIDES = [16, 24, 16], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
STOCK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [8, 16, 16],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": STRIDES,
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
DATASET = {
    "channel_names": {"0": "T1", "1": "CT"},
    "labels": {"background": 0, "shell": 1, "core": 2},
    "numTraining": 5,
    "file_ending": ".nii.gz",
}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
# an oblique, anisotropic grid whose axes are no patient's
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.4) @ np.diag([-1.1, 0.9, 2.7]), [12.0, -30.0, 7.5]
)


def plans(kind: str) -> dict[str, Any]:
    """Anisotropic plans that swap two axes, with two normalisations: "3d", "2d", or "cascade", its second stage."""
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": PATCH,
        "median_image_size_in_voxels": [20.0, 30.0, 24.0],
        "spacing": [2.2, 1.0, 1.3],
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
        "use_mask_for_norm": [False, False],
        "architecture": STOCK,
        "batch_dice": False,
    }
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{what}_kwargs"] = {
            "is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None,
        }  # fmt: skip
    others = {}
    if kind == "2d":
        strides = [[1, 1], [2, 2], [2, 2]]
        architecture = {**STOCK, "arch_kwargs": {**STOCK["arch_kwargs"], "strides": strides}}
        configuration.update(patch_size=PATCH[1:], spacing=[1.0, 1.3], architecture=architecture)
    elif kind == "cascade":
        others["3d_lowres"] = {**configuration, "next_stage": "3d_fullres"}
        configuration["previous_stage"] = "3d_lowres"
    intensity = {"mean": 40.0, "std": 60.0, "percentile_00_5": -200.0, "percentile_99_5": 300.0}
    return {
        "dataset_name": "Dataset901_Made",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 2, 1],
        "transpose_backward": [0, 2, 1],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensity, "1": intensity},
        "configurations": {"3d_fullres": configuration, **others},
        "continue_training": False,
    }


def train(
    folders: Path, trainer_class: type[nnUNetTrainer], *, folds: int = 2, kind: str = "3d", **dataset: Any
) -> Path:
    """The model folder of ``folds`` short trainings; ``folders`` as nnU-Net's variables name them."""
    stored = folders / "nnUNet_preprocessed" / "Dataset901_Made" / "nnUNetPlans_3d_fullres"
    stored.mkdir(parents=True, exist_ok=True)
    (stored / "case.b2nd").touch()  # nnU-Net looks at the ending only
    for fold in range(folds):
        torch.manual_seed(fold)
        trainer = trainer_class(plans(kind), "3d_fullres", fold, {**DATASET, **dataset}, torch.device("cpu"))
        trainer.initialize()
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # sets the axes to mirror
        heads = trainer.label_manager.num_segmentation_heads
        data = torch.randn(2, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
        logits = trainer.network(data)
        first = (data[:, :1] > 0).long() if not trainer.label_manager.has_regions else (data[:, :heads] > 0).float()
        target = [first[(slice(None), slice(None), *map(every, first.shape[2:], level.shape[2:]))] for level in logits]
        for _ in range(3):
            trainer.train_step({"data": data, "target": target})
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    model = Path(trainer.output_folder_base)
    write_json(model / "plans.json", trainer.plans_manager.plans)
    write_json(model / "dataset.json", trainer.dataset_json)
    return model


def every(size: int, kept: int) -> slice:
    return slice(None, None, size // kept)


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def write_images(folder: Path) -> None:
    """A case of two channels on the oblique grid, with a border of zeros that nnU-Net crops."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for channel, scale in enumerate((1.0, 100.0)):
        image = np.zeros((31, 27, 23), np.float32)
        image[3:-2, 4:, :-3] = scale * rng.normal(1, 1, (26, 23, 20))
        nib.save(nib.Nifti1Image(image, OBLIQUE), folder / f"case_{channel:04d}.nii.gz")
