"""A model of the released Token-UNet's nnU-Net trainers becomes a bundle with the same logits."""

from __future__ import annotations

import json

import pytest
import torch
from monai.bundle import ConfigParser
from trained_models import DATASET, plans

from medmixers.nnunet.bundle import write_nnunet_bundle
from medmixers.nnunet.portable import make_portable
from networks.token_unet_twin import TokenUNetTwin


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    theirs = TokenUNetTwin(tokens=8, kind="attention").eval()
    folder = tmp_path / "nnUNet_8AttnTokenUNetTrainer_100epochs__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans("3d")))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    saved = {
        "network_weights": theirs.state_dict(),
        "trainer_name": "nnUNet_8AttnTokenUNetTrainer_100epochs",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(saved, folder / "fold_0" / "checkpoint_final.pth")
    return folder, theirs


def test_it_becomes_a_bundle(model, tmp_path):
    folder, theirs = model
    write_nnunet_bundle(folder, out=tmp_path / "released")
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "released" / "configs" / "inference.json"))
    parser["bundle_root"] = str(tmp_path / "released")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(tmp_path / "released" / "models" / "model.pt", weights_only=True))
    x = torch.randn(1, 2, 16, 24, 16)
    with torch.no_grad():
        given = network.eval().folds["0"](x)
        torch.testing.assert_close(given, theirs(x), rtol=1e-5, atol=1e-5)


def test_a_portable_copy_would_need_their_trainer(model):
    with pytest.raises(ValueError, match=r"trainer 'nnUNet_8AttnTokenUNetTrainer_100epochs' .* is not found"):
        make_portable(model[0])
