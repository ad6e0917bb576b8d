"""Minimal nnU-Net plans, enough to construct a trainer and build its network."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def dataset_json() -> dict[str, Any]:
    return {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "object": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }


@pytest.fixture
def stock_plans() -> dict[str, Any]:
    """Plans as ``nnUNetv2_train`` hands them to a trainer: 2D, 3D, and one that inherits from 3D."""

    def configuration(patch_size: list[int], strides: list[list[int]]) -> dict[str, Any]:
        stock = {
            "network_class_name": "stock.Network",
            "arch_kwargs": {"strides": strides},
            "_kw_requires_import": [],
        }
        return {"data_identifier": "x", "patch_size": patch_size, "batch_size": 2, "architecture": stock}

    return {
        "continue_training": False,
        "dataset_name": "Dataset901_Tiny",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": configuration([32, 48], [[1, 1], [2, 2], [2, 2], [2, 2]]),
            "3d_fullres": configuration([32, 16, 24], [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 1, 1]]),
            "3d_child": {"inherits_from": "3d_fullres", "batch_size": 3},
        },
    }


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    """nnU-Net's three folders, empty, under ``tmp_path``; no variable of ours set."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in (
        "nnUNet_extTrainer", "MEDMIXERS_EPOCHS", "MEDMIXERS_ITERATIONS_PER_EPOCH",
        "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH", "MEDMIXERS_MINUTES", "MEDMIXERS_PRETRAINED",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return tmp_path
