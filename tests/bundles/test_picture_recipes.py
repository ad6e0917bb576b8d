"""The recipes of Yu et al. 2022 and 2023 for pictures, against timm, torchvision and MONAI."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.optimizers import WarmupCosineSchedule
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.optim import Lamb
from timm.utils import ModelEmaV2
from tiny_datasets import convert_tiny

from medmixers.bundle_runtime.handlers import WeightAverage
from medmixers.bundle_runtime.parameter_groups import WarmupCosine
from medmixers.bundle_runtime.picture_augmentation import MixedBatch, RandPictured, seeded
from medmixers.bundles.new import new_bundle
from medmixers.bundles.share.pack import vendor
from medmixers.bundles.share.vendoring import foreign_imports
from medmixers.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
TASK = "skin_lesion_classification"
OPTIONS: dict[str, Any] = {
    "size": (24, 32), "smallest_crop": 0.08, "rand_augment": "rand-m9-mstd0.5-inc1", "erasing_probability": 0.9,
}  # fmt: skip


def picture(channels: int) -> np.ndarray:
    """(H, W, channels), 8 bits."""
    return np.random.default_rng(0).integers(0, 256, (40, 50, channels), dtype=np.uint8)


def augmented(pixels: np.ndarray, seed: int, **options: Any) -> MetaTensor:
    transform = RandPictured("image", **{**OPTIONS, **options}).set_random_state(seed)
    image = MetaTensor(torch.from_numpy(pixels).permute(2, 1, 0) / 255)
    result = transform({"image": image, "label": 1})
    assert result["label"] == 1
    return result["image"]


def test_it_is_timms_training_transform() -> None:
    pixels = picture(3)
    theirs = create_transform(
        (3, 32, 24), is_training=True, color_jitter=0.0, auto_augment=OPTIONS["rand_augment"], interpolation="random",
        re_prob=0.9, re_mode="pixel",
    )  # fmt: skip
    for seed in range(5):
        with seeded(int(np.random.RandomState(seed).randint(2**31 - 1))):
            expected = theirs(Image.fromarray(pixels))
        found = augmented(pixels, seed)
        assert found.shape == (3, 24, 32)
        mean, std = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
        torch.testing.assert_close(
            ((found.as_tensor().permute(2, 1, 0) - mean) / std).permute(2, 0, 1), expected, rtol=1e-4, atol=1e-4
        )


def test_without_augmentation_a_picture_stays_as_it_is_on_both_axes() -> None:
    """Whether W and H, which MONAI's readers give in this order, are kept apart."""
    pixels = picture(3)
    size = {"size": (50, 40), "smallest_crop": 1.0, "rand_augment": "", "erasing_probability": 0.0}
    plain = torch.from_numpy(pixels).permute(2, 1, 0) / 255
    found = [augmented(pixels, seed, **size).as_tensor() for seed in range(8)]
    assert any(torch.allclose(each, plain, atol=1e-5) for each in found)
    assert any(torch.allclose(each, plain.flip(1), atol=1e-5) for each in found), "left and right are the first axis"


def test_a_grey_picture_stays_grey_and_no_generator_outside_is_touched() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = [augmented(picture(1), seed) for seed in (3, 3, 4)]
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert found[0].shape == (1, 24, 32)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_labels_of_mixed_pictures_are_shares_of_what_is_seen() -> None:
    images = torch.zeros(4, 1, 16, 16)
    images[2:] = 1
    batch = {"image": images, "label": torch.tensor([0, 0, 2, 2])}
    torch.manual_seed(0)
    kinds = set()
    mix = MixedBatch(classes=3, mixup_alpha=0.8, cutmix_alpha=1.0)
    for _ in range(20):
        mixed, shares = mix(batch, "cpu", False)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares[:, 2], rtol=0, atol=1e-6)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(4))
        kinds.add("cut" if len(mixed.unique()) <= 2 else "mixed")
    assert kinds == {"cut", "mixed"}


def trainer_of(network: torch.nn.Module, validator: Engine, decay: float, steps: int) -> tuple[Any, WeightAverage]:
    average = WeightAverage(network=network, validator=validator, decay=decay)
    data = [{"image": torch.randn(5, 3), "label": torch.randn(5, 2)} for _ in range(steps)]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=data, network=network, optimizer=optimizer,
        loss_function=torch.nn.MSELoss(), accumulation_steps=2, train_handlers=[average],
    )  # fmt: skip
    return trainer, average


def test_the_average_of_the_weights_is_timms(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    theirs = ModelEmaV2(network, decay=0.9)
    seen = []
    validator = Engine(lambda *_: seen.append({k: v.clone() for k, v in network.state_dict().items()}))
    trainer, average = trainer_of(network, validator, 0.9, steps=6)
    trainer.optimizer.register_step_post_hook(lambda *_: theirs.update(network))
    trainer.run()
    own = {key: value.clone() for key, value in network.state_dict().items()}
    validator.run([0])
    for key, value in theirs.module.state_dict().items():
        torch.testing.assert_close(seen[0][key], value)
        torch.testing.assert_close(network.state_dict()[key], own[key])  # back after the validation
    assert not torch.allclose(own["0.weight"], seen[0]["0.weight"])
    for handler, state, words in (
        (average, {}, "began without an average of the weights (--ema_decay 0); got --ema_decay 0.9"),
        (WeightAverage(network=network, validator=validator, decay=0), average.state_dict(), "; got --ema_decay 0\n"),
    ):
        with pytest.raises(SystemExit):
            handler.load_state_dict(state)
        assert words in capsys.readouterr().err
    with pytest.raises(InputError, match="ema_decay must be at least 0 and below 1, got 1"):
        WeightAverage(network=network, validator=validator, decay=1)


@pytest.mark.parametrize("end", [1e-5, 0.1])
def test_the_schedule_is_monais_and_keeps_the_ratio_of_the_layers(end: float) -> None:
    def rates(schedule: Any, groups: list[float]) -> np.ndarray:
        optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in groups])
        scheduler = schedule(optimizer, warmup_steps=3, t_total=12, end_lr=end, warmup_multiplier=0.01)
        found = []
        for _ in range(13):
            found.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        return np.array(found)

    np.testing.assert_allclose(rates(WarmupCosine, [0.1]), rates(WarmupCosineSchedule, [0.1]))
    decayed = rates(WarmupCosine, [0.1, 1e-6])
    np.testing.assert_allclose(decayed[:, 1], 1e-5 * decayed[:, 0])
    assert not rates(WarmupCosine, [0.0]).any()
    assert rates(WarmupCosineSchedule, [0.1, 1e-6])[-1, 1] == end, "MONAI's own raises it"


def configs(bundle: Path, name: str = "train") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "configs" / f"{name}.json").read_text())
    return content


def test_a_bundle_of_a_recipe_has_its_rows(tmp_path: Path) -> None:
    bundle = new_bundle(TASK, network="caformer_s36", recipe="yu2023_caformer", out=tmp_path)
    train = configs(bundle)
    assert train["optimizer"]["_target_"] == f"timm.optim.{Lamb.__name__}"
    assert train["network_def"]["drop_path_rate"] == 0.3
    assert configs(bundle, "metadata")["required_packages_version"]["timm"]
    assert "Resized" not in [row["_target_"] for row in train["train"]["deterministic_transforms"]]
    text = " ".join((bundle / "docs" / "README.md").read_text().split())
    assert "RandAugment (`rand-m9-mstd0.5-inc1`)" in text
    assert "MixUp (0.8) or CutMix (1) of each batch" in text
    assert "--ema_decay 0.9999" in text
    fine = configs(new_bundle(TASK, network="convformer_s18", recipe="yu2023_convformer_fine_tuning", out=tmp_path))
    assert (fine["ema_decay"], fine["network_def"]["drop_path_rate"]) == (0.9999, 0.3)
    assert (fine["lr_scheduler"]["end_lr"], fine["learning_rate"], fine["warmup_epochs"]) == (5e-5, 5e-5, 0)
    assert "prepare_batch" not in fine["train"]["trainer"]


@pytest.mark.parametrize(
    ("task", "network", "words"),
    [
        ("lung_nodule_classification", "metaformer_s12", r"task 'lung_nodule_classification' has 3D, 1 channel\(s\)"),
        ("chest_xray_findings_classification", "poolformerv2_s12", "of single classes, which it mixes; task"),
        ("chest_xray_segmentation", "metaformer_segformer_s12", "recipe 'yu2023' is not for segmentation"),
    ],
)
def test_what_is_no_picture_of_one_class_is_refused(task: str, network: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        new_bundle(task, network=network, recipe="yu2023", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_its_zip_states_what_it_imports(tmp_path: Path) -> None:
    bundle = new_bundle(TASK, network="poolformerv2_s12", recipe="yu2023", out=tmp_path)
    required = configs(bundle, "metadata")["required_packages_version"]
    assert foreign_imports(vendor(bundle).files.values()) <= {"PIL", *required}


def test_a_bundle_trains_resumes_and_saves_the_average(tmp_path: Path) -> None:
    data = convert_tiny(TASK, tmp_path / "data")
    bundle = new_bundle(TASK, network="caformer_s18", recipe="yu2023_caformer", out=tmp_path)
    small = {"network_def#depths": [1, 1, 1, 1], "network_def#dims": [32, 32, 32, 32]}  # heads have 32 channels

    def train(models: str, **options: Any) -> dict[str, Any]:
        paths = {"dataset_dir": str(data), "ckpt_dir": str(tmp_path / models), "output_dir": str(tmp_path / "eval")}
        monai.bundle.run(
            config_file=str(bundle / "configs" / "train.json"), bundle_root=str(bundle), image_size=[32, 32], epochs=3,
            batch_size=4, accumulate_batches=1, ema_decay=0.5, **small, **paths, **options,
        )  # fmt: skip
        state: dict[str, Any] = torch.load(tmp_path / models / "resume_checkpoint_epoch=3.pt", weights_only=True)
        return state

    whole = train("whole")
    resumed = train("resumed", resume_ckpt=str(tmp_path / "whole" / "resume_checkpoint_epoch=2.pt"))
    for key, value in whole["average"].items():
        torch.testing.assert_close(resumed["average"][key], value, rtol=0, atol=0)
    saved = torch.load(tmp_path / "whole" / "model.pt", weights_only=True)
    assert list(saved) == list(whole["model"])
    assert any(not torch.equal(saved[key], whole["model"][key]) for key in saved), "the average, not the weights"
