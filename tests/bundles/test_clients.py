"""What clients of MONAI set: MONAI Label's training, and lists of cases instead of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import BRAIN, ROOT, SHAPE, run_here, save, small_options, write_dataset
from monai.bundle import ConfigWorkflow
from PIL import Image
from tiny_datasets import convert_tiny

from medmixers.bundle_runtime import stack
from medmixers.bundle_runtime.cases import split
from medmixers.bundles.catalog import BUNDLES
from medmixers.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
CLASSIFIER = "chest_xray_pneumonia_classification_grouped_conv"


@pytest.fixture(autouse=True)
def as_a_client(as_monais_command: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the client's: errors are raised and end no process."""
    monkeypatch.setattr(stack, "is_monais_command", lambda: False)


def label_trains(bundle: str, out: Path, cases: list[Any], *, pretrained: Path | None = None, epochs: int = 1) -> None:
    """Train as MONAI Label does: its overrides, and its own loader where train#handlers holds none of MONAI's."""
    configs = ROOT / "bundles" / bundle / "configs"
    handlers = json.loads((configs / "train.json").read_text())["train"]["handlers"]
    if pretrained is not None and not any(each["_target_"] == "CheckpointLoader" for each in handlers):
        loader = {"_target_": "CheckpointLoader", "load_path": str(pretrained), "load_dict": {"model": "@network"}}
        handlers.insert(0, loader)
    overrides = {
        "bundle_root": str(ROOT / "bundles" / bundle),
        "train#trainer#max_epochs": epochs,
        "train#dataset#data": cases[:-1],
        "train#handlers": handlers,
        "validate#dataset#data": cases[-1:],
        "device": torch.device("cpu"),
    }
    ours = {"ckpt_dir": str(out), "output_dir": str(out), "dataset_dir": str(out / "nothing"), "batch_size": 2}
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "train.json")}
    monai.bundle.run(**files, **overrides, **ours, **small_options(BUNDLES[bundle]))


def cases_of(bundle: str, folder: Path) -> list[Any]:
    """Cases with labels, as a client lists them."""
    task = BUNDLES[bundle].task_spec.name
    data = convert_tiny(task, folder) if bundle == CLASSIFIER else write_dataset(folder / "Dataset001_Tiny")
    parts = (split(data, part=part, validation_every=4) for part in ("training", "validation"))
    return [case for part in parts for case in part]


@pytest.mark.parametrize("bundle", [BRAIN, CLASSIFIER])
def test_label_trains_one_epoch_with_and_without_weights(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = cases_of(bundle, tmp_path / "data")
    label_trains(bundle, tmp_path / "new", cases)
    assert f"best weights: {tmp_path / 'new' / 'model.pt'}" in capsys.readouterr().out
    first = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    start = {name: torch.full_like(tensor, 7) if "bias" in name else tensor for name, tensor in first.items()}
    torch.save(start, tmp_path / "start.pt")
    label_trains(bundle, tmp_path / "again", cases, pretrained=tmp_path / "start.pt")
    second = torch.load(tmp_path / "again" / "model.pt", weights_only=True)
    for name, tensor in second.items():
        assert not torch.equal(tensor, first[name]) or "num_batches" in name, f"{name}: start weights were not loaded"
        assert "bias" not in name or abs(float(tensor.mean()) - 7) < 0.5
    assert any(not torch.equal(tensor, start[name]) for name, tensor in second.items())


def test_the_schedule_and_the_last_validation_follow_the_length_that_label_sets() -> None:
    configs = ROOT / "bundles" / CLASSIFIER / "configs"
    flow = ConfigWorkflow(
        str(configs / "train.json"),
        workflow_type="train",
        bundle_root=str(configs.parent),
        **{"train#trainer#max_epochs": 50, "train#dataset#data": [{"image": "a.png", "label": 0}] * 64},
        **{"batch_size": 32, "val_interval": 7, "cache_rate": 0, **small_options(BUNDLES[CLASSIFIER])},
    )
    flow.initialize()
    schedule = flow.parser.get_parsed_content("lr_scheduler")
    assert schedule.t_total == 50 * 2
    handlers = flow.parser["train::handlers"]
    validations = [i for i, each in enumerate(handlers) if each["_target_"] == "ValidationHandler"]
    assert [flow.parser.get_parsed_content(f"train::handlers::{i}::interval") for i in validations] == [7, 50]
    assert not flow.parser.get_parsed_content(f"train::handlers::{validations[-1]}::_disabled_")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"image": "gone.nii.gz", "label": "gone.nii.gz"}, "there is no image 'gone.nii.gz'"),
        ({"image": "a.nii.gz"}, "each training case is a dict with image and label, got "),
        (
            {"image": "a.nii.gz", "label": "seven.nii.gz"},
            "seven.nii.gz holds label 7, which is no label of the data set; valid: 0, 1, 2",
        ),
        ({"image": "a.nii.gz", "label": "small.nii.gz"}, "small.nii.gz has shape"),
    ],
)
def test_wrong_cases_of_a_client_are_named(case: Any, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("a.nii.gz"), np.ones(SHAPE, np.float32))
    save(Path("seven.nii.gz"), np.full(SHAPE, 7, np.uint8))
    save(Path("small.nii.gz"), np.ones((4, 4, 4), np.uint8))
    with pytest.raises(RuntimeError) as error:
        label_trains(BRAIN, tmp_path / "out", [case, case])
    assert isinstance(error.value.__cause__, InputError)
    assert message in str(error.value.__cause__)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_scores_the_cases_that_are_set(tmp_path: Path) -> None:
    bundle = CLASSIFIER
    cases = cases_of(bundle, tmp_path / "data")
    label_trains(bundle, tmp_path / "models", cases)
    places = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    run_here("train", "evaluate", bundle=bundle, **places, **{"validate#dataset#data": cases[:3]})
    assert (tmp_path / "eval" / "probabilities.csv").read_text().count(".png") == 3
    images = str(Path(cases[0]["image"]).parent)
    with pytest.raises(RuntimeError) as error:
        run_here("train", "evaluate", bundle=bundle, **{**places, "output_dir": images, "dataset_dir": images})
    assert isinstance(error.value.__cause__, InputError)
    options = {**places, "output_dir": images, "validate#dataset#data": cases[:3]}
    with pytest.raises(RuntimeError) as error:
        run_here("train", "evaluate", bundle=bundle, **options)
    assert f"output folder {images!r} holds the input" in str(error.value.__cause__)


def test_dataset_data_is_what_is_predicted(tmp_path: Path) -> None:
    """Both ways of MONAI: the property of a workflow, and an override of the key."""
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    bundle = ROOT / "bundles" / "skin_lesion_classification_pooling"
    options = {"bundle_root": str(bundle), "output_dir": str(tmp_path), **small_options(BUNDLES[bundle.name])}
    flow = ConfigWorkflow(str(bundle / "configs" / "inference.json"), workflow_type="infer", **options)
    flow.parser["allow_untrained"] = True
    flow.initialize()
    flow.dataset_data = [{"image": str(tmp_path / "images" / "b.png")}]
    flow.run()
    assert (tmp_path / "predictions.csv").read_text().count(".png") == 1
    with pytest.raises(RuntimeError) as error:
        run_here(
            "inference", bundle=bundle.name, output_dir=str(tmp_path), **{"dataset#data": []}, allow_untrained=True
        )
    assert "the list of predicted cases is empty" in str(error.value.__cause__)


def test_a_volume_is_predicted_from_dataset_data(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", np.random.default_rng(0).uniform(1, 9, SHAPE).astype(np.float32))
    data = [{"image": str(tmp_path / "a.nii.gz")}]
    run_here(
        "inference", bundle=BRAIN, output_dir=str(tmp_path / "out"), allow_untrained=True, **{"dataset#data": data}
    )
    assert nib.load(tmp_path / "out" / "a.nii.gz").shape == SHAPE
