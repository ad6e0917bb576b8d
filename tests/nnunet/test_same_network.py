"""All folds of a model need one network: what trainers and readers of trained models refuse."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from medmixers.errors import InputError
from medmixers.nnunet.same_network import check_same_network
from medmixers.nnunet.trained import read_trained_model
from medmixers.nnunet.trainer_classes import TRAINERS

NAME = "nnUNetTrainerMetaFormerGroupedConv_10minutes"
CONFIGURATION = "3d_fullres"


@pytest.fixture
def large_plans(stock_plans):
    """A patch that one minute on a CPU makes smaller, to other strides than two minutes give."""
    stock_plans["configurations"][CONFIGURATION]["patch_size"] = [20, 48, 40]
    return stock_plans


def trainer_of(plans, dataset_json, fold=0):
    return TRAINERS[NAME](deepcopy(plans), CONFIGURATION, fold, dataset_json, torch.device("cpu"))


def saved(trainer):
    """What the check reads of the file that nnUNetTrainer.save_checkpoint writes."""
    file = Path(trainer.output_folder, "checkpoint_final.pth")
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"network_weights": {}, "trainer_name": NAME, "init_args": trainer.my_init_kwargs}
    torch.save(content, file)
    return file


def network_of(trainer):
    row = trainer.plans_manager.plans["configurations"][CONFIGURATION]
    return row["patch_size"], row["architecture"]["arch_kwargs"]["strides"]


@pytest.fixture
def one_minute(nnunet_folders, large_plans, dataset_json, monkeypatch):
    """The checkpoint of fold 0, trained for one minute."""
    monkeypatch.setenv("MEDMIXERS_MINUTES", "1")
    trainer = trainer_of(large_plans, dataset_json)
    file = saved(trainer)
    monkeypatch.setenv("MEDMIXERS_MINUTES", "2")
    assert network_of(trainer_of(large_plans, dataset_json)) != network_of(trainer)
    return file


def test_weights_are_not_loaded_into_another_network(one_minute, large_plans, dataset_json, monkeypatch):
    """``--c`` and ``--val`` load the checkpoint."""
    loaded = []
    monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", lambda self, file: loaded.append(file))
    with pytest.raises(InputError, match=r"fold_0/checkpoint_final.pth was .*strides .*MEDMIXERS_MINUTES"):
        trainer_of(large_plans, dataset_json).load_checkpoint(str(one_minute))
    assert not loaded
    monkeypatch.setenv("MEDMIXERS_MINUTES", "1")
    trainer_of(large_plans, dataset_json).load_checkpoint(str(one_minute))
    assert loaded == [str(one_minute)]


def test_a_fold_does_not_replace_the_network_of_the_others(one_minute, large_plans, dataset_json, monkeypatch):
    started = []
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: started.append(self.fold))
    monkeypatch.setattr(nnUNetTrainer, "initialize", lambda self: None)
    with pytest.raises(InputError, match=r"fold_0/checkpoint_final.pth was trained with another network: patch_size"):
        trainer_of(large_plans, dataset_json, fold=1).on_train_start()
    assert not started
    monkeypatch.setenv("MEDMIXERS_MINUTES", "1")
    trainer_of(large_plans, dataset_json, fold=1).on_train_start()
    assert started == [1]


def test_a_fold_may_be_trained_anew(one_minute, large_plans, dataset_json, monkeypatch):
    """Nothing else is in the folder, and nnU-Net writes its plans again."""
    started = []
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: started.append(self.fold))
    monkeypatch.setattr(nnUNetTrainer, "initialize", lambda self: None)
    trainer_of(large_plans, dataset_json, fold=0).on_train_start()
    assert started == [0]


def test_a_model_of_two_networks_is_not_shared(one_minute, large_plans, dataset_json):
    trainer = trainer_of(large_plans, dataset_json, fold=1)
    saved(trainer)
    folder = one_minute.parents[1]
    (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    with pytest.raises(InputError, match=r"fold_0/checkpoint_final.pth was trained .* in plans.json"):
        read_trained_model(folder)


def test_what_agrees_passes(tmp_path, stock_plans):
    file, then = tmp_path / "checkpoint_final.pth", deepcopy(stock_plans)
    then["configurations"]["2d"]["patch_size"] = [8, 8]  # another configuration
    then["configurations"][CONFIGURATION]["batch_size"] = 7
    torch.save({"init_args": {"plans": then}}, file)
    check_same_network(file, stock_plans, "3d_child", owner="this run", remedy="")
    torch.save({"init_args": {"configuration": "3d_child"}}, file)  # a portable model
    check_same_network(file, stock_plans, "3d_child", owner="this run", remedy="")
