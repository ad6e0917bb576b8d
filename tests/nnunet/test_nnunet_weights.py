"""Start weights: nnU-Net's -pretrained_weights with another class count, and our encoder loading in a trainer."""

import re
from types import MappingProxyType

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from medmixers import create_network
from medmixers.nnunet.architecture import create_network_from_plans
from medmixers.nnunet.trainer_classes import TRAINERS

CPU = torch.device("cpu")
TINY = {"depths": [1, 1], "dims": [16, 32], "decoder_channels": 8, "mixer": "pooling"}
ONES, TWOS = [1] * 3, [2] * 3
NETWORKS = {
    "metaformer_segformer_s12": {**TINY, "strides": [ONES, TWOS, TWOS]},
    "token_unet": {"channels": [4, 8, 16], "transformer_heads": 4, "strides": [ONES, TWOS, TWOS]},
    "med_unext": {"channels": [4, 6, 8, 8, 8], "med_depth": 1, "input_size": [32] * 3, "strides": [ONES] + [TWOS] * 5},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_pretrained_weights_of_another_class_count(name, tmp_path):
    options = {**NETWORKS[name], "name": name, "spatial_dims": 3}
    source = create_network_from_plans(1, 7, deep_supervision=True, **options)
    torch.save({"network_weights": source.state_dict()}, tmp_path / "checkpoint_final.pth")
    target = create_network_from_plans(1, 2, deep_supervision=True, **options)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    load_pretrained_weights(target, tmp_path / "checkpoint_final.pth")
    for key, value in target.state_dict().items():
        expected = before[key] if ".seg_layers." in key else source.state_dict()[key]
        assert torch.equal(value, expected), key


WITHOUT_HEADS = {"token_unet_released_8": [[1, 1], [2, 2], [4, 4]], "unet_keuth2025": [[1, 1], [2, 2], [16, 16]]}


@pytest.mark.parametrize("name", WITHOUT_HEADS)
def test_another_class_count_of_a_network_without_seg_layers_is_refused_by_nnunet(name, tmp_path):
    options = {"name": name, "spatial_dims": 2, "strides": WITHOUT_HEADS[name]}
    source, same, other = (create_network_from_plans(1, classes, True, **options) for classes in (7, 7, 2))
    torch.save({"network_weights": source.state_dict()}, tmp_path / "checkpoint_final.pth")
    load_pretrained_weights(same, tmp_path / "checkpoint_final.pth")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in same.state_dict().items())
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(AssertionError, match=r"The shape of the parameters of key \S+ is not the same"):
        load_pretrained_weights(other, tmp_path / "checkpoint_final.pth")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


class nnUNetTrainerTinyMetaFormer(TRAINERS["nnUNetTrainerMetaFormerPooling"]):
    """The pooling trainer with a network that builds at once."""

    network_options = MappingProxyType(TINY)


@pytest.fixture
def encoder_file(tmp_path):
    """A 2D classifier of ours for three channels, trained elsewhere."""
    torch.manual_seed(0)
    classifier = create_network(
        "metaformer_s12", spatial_dims=2, in_channels=3, out_channels=9, mixer="pooling",
        depths=(1, 1), dims=(16, 32),
    )  # fmt: skip
    path = tmp_path / "classifier.pt"
    torch.save(classifier.state_dict(), path)
    return path, classifier


def start(stock_plans, dataset_json, *, epoch=0):
    trainer = nnUNetTrainerTinyMetaFormer(stock_plans, "3d_fullres", "all", dataset_json, CPU)
    trainer.initialize()
    trainer.current_epoch = epoch
    trainer.on_train_start()
    return trainer


def test_an_encoder_starts_from_our_classifier(
    encoder_file, nnunet_folders, stock_plans, dataset_json, monkeypatch, capsys
):
    path, classifier = encoder_file
    monkeypatch.setenv("MEDMIXERS_PRETRAINED", str(path))
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)  # it wants data
    monkeypatch.setattr(nnUNetTrainer, "initialize", initialize_without_data)
    trainer = start(dict(stock_plans), dataset_json)
    flat = classifier.encoder.stages[0].blocks[0].mlp.fc1.weight
    deep = trainer.network.encoder.stages[0].blocks[0].mlp.fc1.weight
    assert torch.equal(deep[..., 0], flat)  # a pointwise kernel has the length 1 along the new axis
    kernel = trainer.network.encoder.stages[1].downsample.conv.weight
    torch.testing.assert_close(kernel.sum(2), classifier.encoder.stages[1].downsample.conv.weight)
    assert "inflated to 3D" in capsys.readouterr().out


def test_a_resumed_training_keeps_its_weights(encoder_file, nnunet_folders, stock_plans, dataset_json, monkeypatch):
    path, classifier = encoder_file
    monkeypatch.setenv("MEDMIXERS_PRETRAINED", str(path))
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    monkeypatch.setattr(nnUNetTrainer, "initialize", initialize_without_data)
    trainer = start(dict(stock_plans), dataset_json, epoch=3)
    flat = classifier.encoder.stages[0].blocks[0].mlp.fc1.weight
    assert not torch.equal(trainer.network.encoder.stages[0].blocks[0].mlp.fc1.weight[..., 0], flat)


def test_a_source_of_no_weights_stops_the_run_at_once(
    nnunet_folders, stock_plans, dataset_json, monkeypatch, tmp_path_factory
):
    junk = tmp_path_factory.mktemp("weights") / "junk.pt"
    junk.write_text("hello\n")
    for value, message in (
        ("/no/weights.pt", "no weights file '/no/weights.pt'; valid: a file, or 'timm:NAME'"),
        (str(junk), f"'{junk}' cannot be read as weights: torch.save did not write it"),
        ("timm:poolformer_s13", "timm has no model 'poolformer_s13'"),
    ):
        monkeypatch.setenv("MEDMIXERS_PRETRAINED", value)
        with pytest.raises(ValueError, match=re.escape(f"MEDMIXERS_PRETRAINED: {message}")):
            nnUNetTrainerTinyMetaFormer(stock_plans, "3d_fullres", "all", dataset_json, CPU)
    assert not list(nnunet_folders.iterdir())


def test_nnunets_switch_reaches_a_compiled_network(nnunet_folders, stock_plans, dataset_json):
    trainer = nnUNetTrainerTinyMetaFormer(stock_plans, "3d_fullres", "all", dataset_json, CPU)
    initialize_without_data(trainer)
    plain = trainer.network
    trainer.network = torch.compile(plain, backend="eager", fullgraph=True)
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    for enabled in (True, False, True):
        trainer.set_deep_supervision_enabled(enabled)
        assert plain.decoder.deep_supervision == enabled
        with torch.no_grad():
            assert isinstance(trainer.network(image), list) == enabled


def initialize_without_data(trainer):
    """The part of nnUNetTrainer.initialize that needs no preprocessed data."""
    trainer.network = trainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, trainer.enable_deep_supervision
    )
    trainer.was_initialized = True
