"""What no committed bundle has yet: configs of a recipe with SGD and with affine augmentation, as objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_helpers import BRAIN, write_dataset
from monai.bundle import ConfigParser
from scipy.stats import kstest

from medmixers.bundle_runtime.augmentation import RandNormalAffined
from medmixers.bundles.catalog import BUNDLES, BundleRow
from medmixers.bundles.render.training import train_config
from medmixers.recipes import RECIPES


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> BundleRow:
    """A row that is in no catalog, of a recipe that is in no table beyond this test."""
    recipe = replace(
        RECIPES["tshimanga2026"],
        affine_std=0.1,
        network_options={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    )
    monkeypatch.setitem(RECIPES._items, "sgd_affine", recipe)
    return replace(BUNDLES[BRAIN], recipe="sgd_affine", label="synthetic", roi_size=(16, 16, 16))


def resolve(row: BundleRow, dataset: Path) -> ConfigParser:
    parser = ConfigParser(train_config(row))
    parser["dataset_dir"] = parser["output_dir"] = str(dataset)
    return parser


def test_sgd_has_the_recipes_momentum(row: BundleRow, tmp_path: Path) -> None:
    parser = resolve(row, tmp_path)
    optimizer = parser.get_parsed_content("optimizer")
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-2, 0.99, 3e-5)
    assert group["nesterov"]
    assert len(group["params"]) == len(list(parser.get_parsed_content("network").parameters()))


def test_affine_matrices_have_the_recipes_deviation(row: BundleRow, tmp_path: Path) -> None:
    parser = resolve(row, write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=0))
    affine = parser.get_parsed_content("train::random_transforms")[-1]
    assert isinstance(affine, RandNormalAffined)
    affine.set_random_state(0)
    matrices = []
    for _ in range(2000):
        affine.randomize(3)
        matrices.append(affine.matrix.numpy())
    noise = np.array(matrices) - np.eye(3, 4)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=0.1)
    assert kstest(noise.ravel() / 0.1, "norm").pvalue > 0.01


def test_affine_keeps_labels_labels(row: BundleRow, tmp_path: Path) -> None:
    parser = resolve(row, write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=0))
    patch = parser.get_parsed_content("train::preprocessing")(parser.get_parsed_content("train_datalist")[0])[0]
    assert patch["image"].shape == patch["label"].shape == (1, 16, 16, 16)
    assert set(patch["label"].unique().tolist()) <= {0, 1, 2}


def test_gradients_are_accumulated_as_the_recipe_says(row: BundleRow, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=0)
    assert resolve(row, dataset).get_parsed_content("train::trainer").accumulation_steps == 16
