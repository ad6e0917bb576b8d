"""A checkpoint of the authors' code becomes a bundle with the same logits by one command."""

from __future__ import annotations

import re

import pytest
import torch
import yaml
from bundle_helpers import USER_TASK
from monai.bundle import ConfigParser

from medmixers.bundles.new import new_bundle
from medmixers.cli.main import main
from networks.author_twins import LightningTwin, Pool, PoolFormerTwin, filled

TASK = {
    **USER_TASK,
    "name": "my_task",
    "task": "classification",
    "spatial_dims": 2,
    "channels": ["red", "green", "blue"],
    "labels": ["well", "ill"],
    "image_size": [32, 32],
    "spacing": None,
    "intensity": "unit",
    "window": None,
}


@pytest.fixture
def picture_task(tmp_path):
    (tmp_path / "my_task.yaml").write_text(yaml.safe_dump(TASK))
    return tmp_path / "my_task.yaml"


def checkpoint(tmp_path, *, mixer="conv", training=True, classes=2):
    made = {"conv": lambda _s, _b, dim: torch.nn.Conv2d(dim, dim, 5, padding=2), "pooling": lambda *_: Pool(2, 5)}
    theirs = LightningTwin(filled(PoolFormerTwin(made[mixer], classes=classes))).eval()
    saved = {"state_dict": theirs.state_dict()}
    if training:
        saved["hyper_parameters"] = {"tokenmixer": mixer, "kernel_size": 5, "head_dim": 16}
    torch.save(saved, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt", theirs


def network_of(bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network.eval()


@pytest.mark.parametrize("mixer", ["conv", "pooling"])
def test_one_command(mixer, picture_task, tmp_path, capsys):
    file, theirs = checkpoint(tmp_path, mixer=mixer)
    main(["bundle", "new", str(picture_task), "--weights", str(file), "--out", str(tmp_path / "b")])
    assert "does not hold how images were preprocessed" in capsys.readouterr().out
    network = network_of(next((tmp_path / "b").iterdir()))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"training": False}, {}, "does not tell its token mixer: give pooling or identity"),
        ({"training": False}, {"mixer": "pooling"}, "does not tell the kernel size of pooling"),
        ({}, {"mixer": "identity"}, "is of token mixer 'pooling', not 'identity'"),
        ({}, {"kernel_size": 3}, "is of kernel size 5, not 3"),
        ({}, {"network": "metaformer_s12"}, "leave --network out; for weights of another code"),
        ({"classes": 3}, {}, "has 3 input and 3 output channels, task 'my_task' 3 and 2"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(more, options, message, picture_task, tmp_path):
    file, _ = checkpoint(tmp_path, mixer="pooling", **more)
    with pytest.raises(ValueError, match=re.escape(message)):
        new_bundle(str(picture_task), weights=file, out=tmp_path / "b", **options)
    assert not (tmp_path / "b").exists() or not list((tmp_path / "b").iterdir())


def test_a_bare_state_dict_with_what_it_does_not_tell(picture_task, tmp_path):
    file, theirs = checkpoint(tmp_path, mixer="pooling", training=False)
    bundle = new_bundle(str(picture_task), weights=file, out=tmp_path / "b", mixer="pooling", kernel_size=5)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network_of(bundle)(x), theirs(x), rtol=1e-5, atol=1e-5)
