"""Tiny data of both worlds of a study: a bundle's data set, and one in nnU-Net's raw folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bundles"))
sys.path.insert(0, str(Path(__file__).parents[1] / "nnunet"))
from bundle_helpers import write_dataset
from nnunet_workplace import write_cases


def write_both_worlds(folder: Path, monkeypatch: pytest.MonkeyPatch, *, training: int, held_out: int) -> None:
    """Write ``brain`` with these numbers of cases and nnU-Net's data set 900, which nnU-Net then finds."""
    write_dataset(folder / "brain", training=training, held_out=held_out)
    write_cases(folder / "nnUNet_raw" / "Dataset900_Cube")
    monkeypatch.setenv("nnUNet_raw", str(folder / "nnUNet_raw"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
