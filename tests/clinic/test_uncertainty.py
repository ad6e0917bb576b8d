"""``medmixers clinic uncertainty`` and ``calibrate``: labels as the bundle's, maps on the image's voxels, the flag."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import write_dataset
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy import stats
from small_bundle import write_small_bundle, write_small_bundle_with_weights

from medmixers.bundles.share.archive import open_archive, write_archive
from medmixers.bundles.share.pack import pack_bundle
from medmixers.bundles.verify.synthetic import oblique_affine
from medmixers.cli.main import main
from medmixers.clinic.uncertainty.calibrate import write_calibration
from medmixers.clinic.uncertainty.calibration import read_calibration
from medmixers.clinic.uncertainty.command import write_uncertainty
from medmixers.clinic.uncertainty.ensemble import opened_ensemble
from medmixers.clinic.uncertainty.measures import entropy, tempered
from medmixers.errors import InputError
from medmixers.progress import silent
from medmixers.tasks import TASKS
from medmixers.tasks.palette import coloured

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
VOXEL_ML = abs(np.linalg.det(oblique_affine()[:3, :3])) / 1000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "Dataset001_Small", training=6)


def train(bundle: Path, data: Path, seed: int) -> Path:
    """A few steps of the bundle's own network on its own training cases: it then knows more than the frequencies."""
    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(data), "device": "$torch.device('cpu')"})
    network = parser.get_parsed_content("network").train()
    transform = parser.get_parsed_content("train::preprocessing")
    items = [transform(case)[0] for case in parser.get_parsed_content("train_datalist")]
    images, labels = (torch.stack([item[key].as_tensor() for item in items]) for key in ("image", "label"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels[:, 0].long()).backward()
        optimizer.step()
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    made = write_small_bundle(tmp_path_factory.mktemp("seed_0"))
    config = json.loads((made / "configs" / "inference.json").read_text())
    (made / "configs" / "inference.json").write_text(json.dumps({**config, "mirror_axes": [0, 2]}))
    return train(made, data, 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A model of another seed and another mixer."""
    options = {**BUNDLES_OPTIONS, "mixer": "pooling"}
    return train(write_small_bundle(tmp_path_factory.mktemp("seed_1"), network_options=options), data, 1)


BUNDLES_OPTIONS = {"mixer": "grouped_conv", "kernel_size": 3, "stem_stride": 2, "depths": [1, 1, 1, 1], "dims": [8] * 4}


@pytest.fixture(scope="module")
def calibrated(bundle: Path, data: Path) -> Path:
    write_calibration([bundle], data, device="cpu")
    return bundle


def run_bundle(bundle: Path, data: Path, out: Path, **options: Any) -> dict[str, NDArray[Any]]:
    """Labels and probabilities that the bundle's own inference writes."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(data), "output_dir": str(out), **options})
    parser.update({"device": "$torch.device('cpu')", "num_workers": 0, "save_probabilities": True})
    parser.get_parsed_content("evaluator").run()
    names = ("case_6.nii.gz", "probabilities/case_6.nii.gz")
    return {name: np.asarray(nib.load(out / name).dataobj) for name in names}


def facts_of(out: Path, case: str = "case_6") -> dict[str, Any]:
    return json.loads((out / "uncertainty" / f"{case}.json").read_text())


@pytest.mark.parametrize("mirror", [False, True])
def test_labels_and_probabilities_are_those_of_the_bundle(
    mirror: bool, bundle: Path, data: Path, tmp_path: Path
) -> None:
    expected = run_bundle(bundle, data, tmp_path / "bundle", use_mirroring=mirror)
    write_uncertainty([bundle], data, tmp_path / "ours", use_mirroring=mirror, device="cpu")
    label = nib.load(tmp_path / "ours" / "case_6.nii.gz")
    np.testing.assert_array_equal(np.asarray(label.dataobj), expected["case_6.nii.gz"])
    np.testing.assert_allclose(label.affine, oblique_affine(), atol=1e-4)
    maps = nib.load(tmp_path / "ours" / "uncertainty" / "case_6_entropy.nii.gz")
    np.testing.assert_allclose(maps.affine, oblique_affine(), atol=1e-4)
    p = np.moveaxis(expected["probabilities/case_6.nii.gz"], -1, 0)
    np.testing.assert_allclose(np.asarray(maps.dataobj), stats.entropy(p), atol=1e-4)
    other = tmp_path / "ours" / "uncertainty" / "case_6_mutual_information.nii.gz"
    assert other.is_file() == mirror
    assert facts_of(tmp_path / "ours")["members"] == (4 if mirror else 1)


def test_an_ensemble_is_the_mean_and_knows_what_its_members_disagree_about(
    bundle: Path, other: Path, data: Path, tmp_path: Path
) -> None:
    each = [run_bundle(model, data, tmp_path / model.parent.name) for model in (bundle, other)]
    p = np.stack([np.moveaxis(one["probabilities/case_6.nii.gz"], -1, 0) for one in each])
    write_uncertainty([bundle, other], data, tmp_path / "both", device="cpu")
    label = np.asarray(nib.load(tmp_path / "both" / "case_6.nii.gz").dataobj)
    assert (label == p.mean(axis=0).argmax(axis=0)).mean() > 0.9999
    disagreement = tmp_path / "both" / "uncertainty" / "case_6_mutual_information.nii.gz"
    found = np.asarray(nib.load(disagreement).dataobj)
    expected = stats.entropy(p.mean(axis=0)) - stats.entropy(p, axis=1).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    facts = facts_of(tmp_path / "both")
    assert facts["members"] == len(facts["models"]) == 2
    assert 0 < facts["mean_mutual_information"] < facts["mean_entropy"]
    write_uncertainty([bundle], data, tmp_path / "both", device="cpu")
    assert not disagreement.exists(), "it would belong to the prediction before"


def test_a_calibration_is_of_the_models_in_any_order(bundle: Path, other: Path, data: Path, tmp_path: Path) -> None:
    """Features of the training images are those of the first model: the other one's would be unlike them."""
    file = tmp_path / "both.json"
    write_calibration([bundle, other], data, out=file, device="cpu")
    seen = []
    for number, models in enumerate(([bundle, other], [other, bundle])):
        out = tmp_path / str(number)
        said = write_uncertainty(models, data, out, calibration=file, device="cpu")
        seen.append((said, {**facts_of(out), "date": None}))
    assert seen[0] == seen[1]


def test_a_run_that_ends_between_its_files_leaves_no_numbers_of_the_run_before(
    bundle: Path, other: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_uncertainty([bundle], data, tmp_path / "out", device="cpu")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medmixers.clinic.uncertainty.predictor.Predictor.decide", killed)
    with pytest.raises(KeyboardInterrupt):
        write_uncertainty([other], data, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "uncertainty" / "case_6.json").exists()
    assert (tmp_path / "out" / "uncertainty" / "case_7.json").exists()  # whole, of the run before


def test_weights_of_one_network_are_an_ensemble_as_in_the_bundle(bundle: Path, data: Path, tmp_path: Path) -> None:
    weights = torch.load(bundle / "models" / "model.pt")
    shifted = {name: value + 0.05 * torch.randn_like(value) for name, value in weights.items()}
    torch.save(shifted, tmp_path / "b.pt")
    files = [str(bundle / "models" / "model.pt"), str(tmp_path / "b.pt")]
    expected = run_bundle(bundle, data, tmp_path / "bundle", ensemble=files)
    write_uncertainty([bundle], data, tmp_path / "ours", ensemble=files, device="cpu")
    label = np.asarray(nib.load(tmp_path / "ours" / "case_6.nii.gz").dataobj)
    assert (label == expected["case_6.nii.gz"]).mean() > 0.9999


def test_mirrored_copies_are_members(bundle: Path, data: Path) -> None:
    """The mutual information of copies and models, from each member's own probabilities, on the network's grid."""
    with opened_ensemble([bundle], [], mirror=True, device="cpu", announce=silent) as opened:
        predictor = opened.first
        entry = predictor.cases(data)[0]
        _, image = predictor.load(entry)
        members = [predictor._activated(predictor._logits(image, flip)) for flip in predictor.mirrored]
        assert len(members) == 4
        expected = stats.entropy(np.mean(members, axis=0)) - stats.entropy(np.array(members), axis=1).mean(axis=0)
        kept: list[NDArray[Any]] = []
        predictor._on_file = lambda *given: kept.append(given[3])  # type: ignore[assignment, method-assign, return-value, func-returns-value]
        predictor.predict(entry)
    np.testing.assert_allclose(kept[0], expected, atol=1e-5)
    assert expected.max() > 0.001


def test_calibration_is_fitted_kept_and_used(calibrated: Path, data: Path, tmp_path: Path) -> None:
    found = read_calibration(calibrated / "models" / "calibration.json")
    assert found.cases == 2
    assert found.likelihood[1] <= found.likelihood[0]
    assert "<svg" in (calibrated / "models" / "calibration.svg").read_text()
    with opened_ensemble([calibrated], [], mirror=False, device="cpu", announce=silent) as opened:
        (entry, *_) = opened.first.cases(data)
        raw = opened.predict(entry).probabilities
    said = write_uncertainty([calibrated], data, tmp_path, device="cpu")
    assert "not calibrated" not in said
    p = tempered(raw, found.temperature, exclusive=True)
    written = np.asarray(nib.load(tmp_path / "uncertainty" / "case_6_entropy.nii.gz").dataobj)
    np.testing.assert_allclose(written, entropy(p, exclusive=True), atol=1e-5)
    row = facts_of(tmp_path)["structures"][0]
    label = np.asarray(nib.load(tmp_path / "case_6.nii.gz").dataobj)
    assert row["name"] == "grey_matter"
    assert row["size"] == pytest.approx((label == 1).sum() * VOXEL_ML, rel=1e-5)
    assert row["high"] == pytest.approx((p[1] >= 0.05).sum() * VOXEL_ML, rel=1e-3)
    assert row["predicted_dice"] == pytest.approx(2 * p[1][label == 1].sum() / (p[1].sum() + (label == 1).sum()))
    assert f"case_6: grey_matter {row['size']:.1f} ml, 90% interval" in said


def test_the_scores_of_the_validation_cases_are_right(calibrated: Path, data: Path, tmp_path: Path) -> None:
    """Dice of the drawn voxels is the Dice of the label files: all voxels of small images are drawn."""
    folder = tmp_path / "images"
    folder.mkdir()
    for case in ("case_0", "case_5"):  # every fifth case validates
        (folder / f"{case}.nii.gz").symlink_to(data / "imagesTr" / f"{case}_0000.nii.gz")
    write_uncertainty([calibrated], folder, tmp_path / "out", device="cpu")
    scores, predicted = [], []
    for case in ("case_0", "case_5"):
        label, truth = (
            np.asarray(nib.load(root / f"{case}.nii.gz").dataobj) == 2 for root in (tmp_path / "out", data / "labelsTr")
        )
        scores.append(2 * (label & truth).sum() / (label.sum() + truth.sum()))
        predicted.append(facts_of(tmp_path / "out", case)["structures"][1]["predicted_dice"])
    white = read_calibration(calibrated / "models" / "calibration.json").structures[1]
    assert (white.name, white.cases) == ("white_matter", 2)
    assert white.dice == pytest.approx(np.mean(scores))
    assert white.predicted_dice == pytest.approx(np.mean(predicted))


@pytest.fixture
def faulty(data: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(change: Callable[[NDArray[Any]], NDArray[Any]], scale: float = 1.0) -> Path:
        folder = tmp_path / "faulty"
        folder.mkdir()
        image = np.asarray(nib.load(data / "imagesTs" / "case_6_0000.nii.gz").dataobj)
        affine = oblique_affine() @ np.diag([scale, scale, scale, 1])
        nib.save(nib.Nifti1Image(change(image).astype(np.float32), affine), folder / "case_6.nii.gz")
        return folder

    return make


def test_an_image_like_the_training_data_has_no_flag(calibrated: Path, data: Path, tmp_path: Path) -> None:
    assert "unlike" not in write_uncertainty([calibrated], data, tmp_path / "out", device="cpu")
    assert facts_of(tmp_path / "out")["unlike_training_data"] == []


def test_an_image_unlike_the_training_data_is_said_to_be(
    calibrated: Path, faulty: Callable[..., Path], tmp_path: Path
) -> None:
    said = write_uncertainty([calibrated], faulty(lambda image: image**6, 1.6), tmp_path / "out", device="cpu")
    (line,) = [line for line in said.splitlines() if "unlike" in line]
    assert re.match(r"case_6: this image is unlike the training data: spacing .* in training .*; intensities", line)
    assert len(facts_of(tmp_path / "out")["unlike_training_data"]) >= 2


def test_what_has_no_calibration_is_called_so(
    calibrated: Path, other: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = write_uncertainty([other], data, tmp_path / "a", device="cpu")
    assert all(line.endswith("(not calibrated)") for line in said.splitlines())
    assert "not calibrated, there is no calibration" in capsys.readouterr().err
    facts = facts_of(tmp_path / "a")
    assert (facts["calibrated"], facts["unlike_training_data"]) == (False, None)
    write_uncertainty([calibrated], data, tmp_path / "b", use_mirroring=True, device="cpu")
    assert "the model's calibration does not fit: it was made without mirroring" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"calibration.json does not fit these predictions: it is of other weights"):
        write_uncertainty([other], data, tmp_path / "c", calibration=calibrated / "models" / "calibration.json")
    assert not (tmp_path / "c").exists()


def test_an_untrained_network_is_not_calibrated(data: Path, tmp_path: Path) -> None:
    untrained = write_small_bundle_with_weights(tmp_path)
    with pytest.raises(InputError, match="the network is not trained, or trained on other data"):
        write_calibration([untrained], data, device="cpu")
    assert [path.name for path in (untrained / "models").iterdir()] == ["model.pt"]


@pytest.mark.slow
def test_a_packed_bundle_brings_its_calibration(
    calibrated: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command as it is typed. The zip's own code runs; its file of weights differs, its tensors do not."""
    packed = pack_bundle(calibrated, out=tmp_path).path
    main(["clinic", "uncertainty", str(packed), str(data), str(tmp_path / "zip"), "--device", "cpu"])
    from_zip = capsys.readouterr()
    main(["clinic", "uncertainty", str(calibrated), str(data), str(tmp_path / "folder"), "--device", "cpu"])
    assert from_zip.out == capsys.readouterr().out
    assert "not calibrated" not in from_zip.out + from_zip.err
    assert "case_6: grey_matter" in from_zip.out
    opened = open_archive(packed, tmp_path / "opened")
    assert "models/calibration.json: for" in (opened / "docs" / "model_card.md").read_text()


def test_zips(calibrated: Path, data: Path, tmp_path: Path) -> None:
    packed = tmp_path / "small.zip"
    files = {path.relative_to(calibrated).as_posix(): path for path in calibrated.rglob("*.*") if path.suffix != ".svg"}
    write_archive(packed, calibrated.name, files)
    assert "not calibrated" not in write_uncertainty([packed], data, tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match=r"a zip is not changed: give the file to write, --out FILE.json"):
        write_calibration([packed], data)
    with pytest.raises(InputError, match="two of the models have the same weights"):
        write_uncertainty([packed, calibrated], data, tmp_path / "twice", device="cpu")


def test_structures_that_overlap(data: Path, tmp_path: Path) -> None:
    task = replace(
        TASKS["brain_tissue_segmentation"], name="mine", labels=coloured("whole", "core"), multi_label=True,
        regions={"whole": (1, 2), "core": (2,)}, codes=None,
    )  # fmt: skip
    regions = write_small_bundle_with_weights(tmp_path, out_channels=2, task_spec=task, recipe="tshimanga2026")
    write_uncertainty([regions], data, tmp_path / "out", device="cpu")
    with opened_ensemble([regions], [], mirror=False, device="cpu", announce=silent) as opened:
        p = opened.predict(opened.first.cases(data)[0]).probabilities
    rows = facts_of(tmp_path / "out")["structures"]
    assert [row["name"] for row in rows] == ["whole", "core"]
    np.testing.assert_allclose([row["size"] for row in rows], (p >= 0.5).sum(axis=(1, 2, 3)) * VOXEL_ML, rtol=1e-5)
    written = np.asarray(nib.load(tmp_path / "out" / "uncertainty" / "case_6_entropy.nii.gz").dataobj)
    assert written.max() <= 2 * np.log(2) + 1e-5
    np.testing.assert_allclose(written, stats.bernoulli(p).entropy().sum(axis=0), atol=1e-4)


def test_models_of_other_classes_are_no_ensemble(bundle: Path, data: Path, tmp_path: Path) -> None:
    task = replace(TASKS["brain_tissue_segmentation"], name="mine", labels=coloured("background", "a", "b"), codes=None)
    others = write_small_bundle_with_weights(tmp_path, task_spec=task)
    with pytest.raises(InputError, match=r"gives background, a, b, and .* background, grey_matter, white_matter"):
        write_uncertainty([bundle, others], data, tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image * np.nan, "NaN"),
        (lambda image: image * 0, "is 0 in all of its"),
    ],
)
def test_images_that_the_bundle_refuses(
    change: Callable[[Any], Any], message: str, bundle: Path, faulty: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        write_uncertainty([bundle], faulty(change), tmp_path / "out", device="cpu")


def changed(bundle: Path, copy: Path, config: dict[str, Any]) -> Path:
    """The bundle with another configs/inference.json."""
    shutil.copytree(bundle, copy)
    (copy / "configs" / "inference.json").write_text(json.dumps(config))
    return copy


def test_what_is_no_model_or_calibration(bundle: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is neither a bundle"):
        write_uncertainty([tmp_path], data, tmp_path / "out")
    with pytest.raises(InputError, match=r"there is no model '.*gone\.zip'"):
        write_uncertainty([tmp_path / "gone.zip"], data, tmp_path / "out")
    bare = write_small_bundle(tmp_path / "bare")
    with pytest.raises(InputError, match="an untrained network is not sure of anything"):
        write_uncertainty([bare], data, tmp_path / "out")
    (tmp_path / "c.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="is no calibration that this version reads"):
        write_uncertainty([bundle], data, tmp_path / "out", calibration=tmp_path / "c.json", device="cpu")
    with pytest.raises(InputError, match="there is no calibration"):
        write_uncertainty([bundle], data, tmp_path / "out", calibration=tmp_path / "d.json", device="cpu")
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    fixed = changed(bundle, tmp_path / "fixed", {**config, "mirror_axes": []})
    with pytest.raises(InputError, match="has no mirror_axes: its images may not be mirrored"):
        write_uncertainty([fixed], data, tmp_path / "out", use_mirroring=True, device="cpu")
    with pytest.raises(InputError, match="fold must be from 0 to 4, got 9"):
        write_calibration([bundle], data, fold=9, out=tmp_path / "e.json", device="cpu")
