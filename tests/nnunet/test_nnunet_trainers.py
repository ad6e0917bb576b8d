"""Trainers: found by nnU-Net, picklable, and what they put into the plans."""

import pickle
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from medmixers import create_network, list_mixers
from medmixers.nnunet.environment import trainer_folder
from medmixers.nnunet.trainer_classes import TRAINERS, metaformer_trainer_name
from medmixers.recipes import RECIPES

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", TRAINERS)
def test_nnunet_finds_each_trainer_through_the_variable(name, nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainer_folder()))
    found = recursive_find_trainer_class_by_name(name)
    assert found is TRAINERS[name]
    assert pickle.loads(pickle.dumps(found)) is found
    assert "medmixers_trainers" not in sys.modules  # nnU-Net cleaned up, and the class survived it


def test_nnunet_does_not_find_them_without_the_variable(nnunet_folders):
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer nnUNetTrainerTokenUNet"):
        recursive_find_trainer_class_by_name("nnUNetTrainerTokenUNet")


def test_there_is_one_trainer_for_each_mixer():
    assert metaformer_trainer_name("grouped_conv") == "nnUNetTrainerMetaFormerGroupedConv"
    assert metaformer_trainer_name("spatial_fc") == "nnUNetTrainerMetaFormerSpatialFC"
    assert {metaformer_trainer_name(mixer) for mixer in list_mixers()} < set(TRAINERS)
    without = TRAINERS["nnUNetTrainerStockRecipe"]
    assert all(trainer.recipe in RECIPES for trainer in TRAINERS.values() if trainer is not without)


PATCHES = {"2d": [32, 48], "3d_fullres": [32, 16, 24], "3d_child": [32, 16, 24]}
# A network of each kind, one of them bound to its size, in every configuration; the others in 3D.
IN_EACH = {
    "nnUNetTrainerStockRecipe", "nnUNetTrainerTokenUNet", "nnUNetTrainerMedUNeXt",
    metaformer_trainer_name("grouped_conv"), metaformer_trainer_name("random_mixing"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "configuration", "patch_size"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] * (each[0] not in IN_EACH and each[1] != "3d_fullres"))
        for each in ((name, *item) for name in TRAINERS for item in PATCHES.items())
    ],
)
def test_plans_hold_the_network_and_rebuild_it(
    name, configuration, patch_size, nnunet_folders, stock_plans, dataset_json
):
    given = deepcopy(stock_plans)
    trainer = TRAINERS[name](given, configuration, "all", dataset_json, CPU)
    saved = trainer.plans_manager.plans["configurations"]
    if trainer.network_name is None:
        assert saved == stock_plans["configurations"]
        return
    row = saved[configuration]["architecture"]
    options = dict(row["arch_kwargs"])

    assert row["network_class_name"] == "medmixers.nnunet.architecture.create_network_from_plans"
    assert options.pop("name") == trainer.network_name
    assert options.pop("spatial_dims") == len(patch_size)
    bound = metaformer_trainer_name("random_mixing"), metaformer_trainer_name("spatial_fc"), "nnUNetTrainerMedUNeXt"
    patch_size = [-(-size // 32) * 32 for size in patch_size] if name == "nnUNetTrainerMedUNeXt" else patch_size
    assert saved[configuration]["patch_size"] == trainer.configuration_manager.patch_size == patch_size
    assert options.get("input_size") == (patch_size if name in bound else None)
    strides = np.array(options.pop("strides"))
    assert [size % step for size, step in zip(patch_size, strides.prod(0), strict=True)] == [0] * len(patch_size)
    assert len(trainer._get_deep_supervision_scales()) == len(strides) - 1
    assert given["configurations"] == stock_plans["configurations"], "the caller's plans were changed"
    assert trainer.my_init_kwargs["plans"]["configurations"] == saved, "the checkpoint would hold other plans"
    others = {key: value for key, value in saved.items() if key != configuration}
    assert others == {key: stock_plans["configurations"][key] for key in others}

    network = trainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, trainer.enable_deep_supervision
    )
    with torch.device("meta"):
        plain = create_network(
            trainer.network_name, spatial_dims=len(patch_size), in_channels=1, out_channels=2, aux_heads=True, **options
        )
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert not hasattr(network, "initialize")  # nnU-Net would apply it over our own initialisation
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 1, *patch_size))[0].shape == (1, 2, *patch_size)
        trainer.network = network
        trainer.set_deep_supervision_enabled(False)  # nnU-Net's own
        assert network(torch.zeros(1, 1, *patch_size)).shape == (1, 2, *patch_size)


def test_optimizer_is_the_recipes(nnunet_folders, stock_plans, dataset_json):
    trainer = TRAINERS["nnUNetTrainerUNetStarStar"](stock_plans, "2d", "all", dataset_json, CPU)
    trainer.network = torch.nn.Linear(2, 2)
    optimizer, schedule = trainer.configure_optimizers()
    recipe = RECIPES[trainer.recipe]
    assert type(optimizer).__name__ == recipe.optimizer
    assert optimizer.defaults["lr"] == trainer.initial_lr == recipe.learning_rate
    assert optimizer.defaults["weight_decay"] == trainer.weight_decay == recipe.weight_decay
    assert schedule.epochs == trainer.num_epochs


@pytest.mark.parametrize("mixer", ["global_attention", "random_mixing", "spatial_fc"])
def test_too_many_tokens_for_all_pairs_are_refused(mixer, nnunet_folders, stock_plans, dataset_json):
    stock_plans["configurations"]["3d_fullres"]["patch_size"] = [128, 128, 192]  # 32 * 32 * 48 tokens behind the stem
    message = f"with {mixer} relates all pairs of tokens: a patch of 128 x 128 x 192 has 49152 in stage 1"
    with pytest.raises(ValueError, match=message):
        TRAINERS[metaformer_trainer_name(mixer)](stock_plans, "3d_fullres", "all", dataset_json, CPU)
    assert not list(nnunet_folders.iterdir())
    TRAINERS["nnUNetTrainerMetaFormerPooling"](stock_plans, "3d_fullres", "all", dataset_json, CPU)


def test_stock_recipe_is_nnunets_own_but_for_the_length(nnunet_folders, stock_plans, dataset_json, monkeypatch):
    monkeypatch.setenv("MEDMIXERS_EPOCHS", "7")
    arguments = (stock_plans, "2d", "all", dataset_json, CPU)
    ours, stock = TRAINERS["nnUNetTrainerStockRecipe"](*arguments), nnUNetTrainer(*deepcopy(arguments))
    stock.num_epochs = 7
    made = []
    for trainer in (ours, stock):
        trainer.network = torch.nn.Linear(2, 2)
        optimizer, schedule = trainer.configure_optimizers()
        rates = []
        for epoch in range(7):
            schedule.step(epoch)
            rates.append(optimizer.param_groups[0]["lr"])
        made.append((type(optimizer), optimizer.defaults, type(schedule), rates))
    assert made[0] == made[1]
    assert made[0][3][0] == 1e-2


def test_run_length_comes_from_the_environment(nnunet_folders, stock_plans, dataset_json, monkeypatch):
    trainer = TRAINERS["nnUNetTrainerUNetStarStar"](deepcopy(stock_plans), "2d", "all", dataset_json, CPU)
    assert run_length(trainer) == (1000, 250, 50)  # nnU-Net's own
    assert trainer.save_every == 50
    monkeypatch.setenv("MEDMIXERS_EPOCHS", "7")
    monkeypatch.setenv("MEDMIXERS_ITERATIONS_PER_EPOCH", "3")
    monkeypatch.setenv("MEDMIXERS_VAL_ITERATIONS_PER_EPOCH", "2")
    trainer = TRAINERS["nnUNetTrainerUNetStarStar"](deepcopy(stock_plans), "2d", "all", dataset_json, CPU)
    assert run_length(trainer) == (7, 3, 2)
    assert trainer.save_every == 1


def run_length(trainer):
    return trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch


@pytest.mark.parametrize("value", ["0", "-3", "2.5", "many", "", " 4", "1e3"])
@pytest.mark.parametrize(
    "variable", ["MEDMIXERS_EPOCHS", "MEDMIXERS_ITERATIONS_PER_EPOCH", "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH"]
)
def test_a_bad_run_length_names_variable_and_value(
    variable, value, nnunet_folders, stock_plans, dataset_json, monkeypatch
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^{variable} must be a whole number of at least 1, got '{value}'$"):
        TRAINERS["nnUNetTrainerTokenUNet"](stock_plans, "2d", "all", dataset_json, CPU)
    assert not list(nnunet_folders.iterdir()), "a refused run must leave nothing behind"


def test_an_unknown_configuration_is_nnunets_own_error(nnunet_folders, stock_plans, dataset_json):
    with pytest.raises(RuntimeError, match="configuration 4d not found"):
        TRAINERS["nnUNetTrainerTokenUNet"](stock_plans, "4d", "all", dataset_json, CPU)
    assert not list(nnunet_folders.iterdir())


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    nnunet_folders, stock_plans, dataset_json, monkeypatch, tmp_path
):
    trainer = TRAINERS["nnUNetTrainerMedUNeXt"](stock_plans, "3d_fullres", 0, dataset_json, CPU)
    trainer.network, trainer.optimizer, trainer.grad_scaler = torch.nn.Linear(2, 2), SimpleNamespace(), None
    trainer.optimizer.state_dict = dict
    latest = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(latest))
    assert torch.load(latest, weights_only=False)["current_epoch"] == 1
    before = latest.read_bytes()

    def half(content, file):
        Path(file).write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        trainer.save_checkpoint(str(latest))
    assert latest.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "checkpoint" in path.name] == [latest.name]
