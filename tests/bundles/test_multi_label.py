"""Images with any number of labels: trained, scored and predicted; scikit-learn is the oracle."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from bundle_helpers import SMALL_NETWORKS
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from tiny_datasets import convert_tiny, write_chestmnist

from medmixers.bundle_runtime.multi_label import mean_auroc, multi_hot, positive_weights
from medmixers.bundle_runtime.preflight_files import check_label_counts, check_label_ids
from medmixers.bundles.new import new_bundle
from medmixers.datasets.audit_datalist import audit_datalist
from medmixers.datasets.converters import convert
from medmixers.datasets.datalist_format import read_datalist
from medmixers.errors import InputError
from medmixers.study.engine.datasets import task_of
from medmixers.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
TASK = "chest_xray_findings_classification"
LABELS = list(TASKS[TASK].label_names.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a bundle, and its training, evaluation and predictions."""
    place = tmp_path_factory.mktemp("multi_label")
    data = convert_tiny(TASK, place / "data")
    bundle = new_bundle(TASK, network="metaformer_s12", mixer="pooling", out=place)
    paths = {"dataset_dir": str(data), "ckpt_dir": str(place / "models"), "output_dir": str(place / "eval")}
    run(bundle, "train", **paths, epochs=2, batch_size=4)
    run(bundle, "train", "evaluate", **paths)
    weights = {"ckpt_path": str(place / "models" / "model.pt")}
    run(bundle, "inference", **{**paths, "output_dir": str(place / "predictions")}, **weights)
    return place


def run(bundle: Path, *configs: str, **options: Any) -> None:
    small = {f"network_def#{key}": value for key, value in SMALL_NETWORKS["metaformer_s12"].items()}
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    monai.bundle.run(config_file=files, bundle_root=str(bundle), image_size=[32, 32], **small, **options)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows: list[dict[str, str]], columns: list[str]) -> np.ndarray:
    return np.array([[float(row[name]) for name in columns] for row in rows])


def test_the_converter_writes_the_ids_of_each_image(folder: Path) -> None:
    arrays = np.load(folder / "data" / "source" / "chestmnist.npz")
    items = read_datalist(folder / "data" / "converted")
    for theirs, ours in (("train", "training"), ("val", "validation"), ("test", "test")):
        assert [multi_hot(item["label"], 14).tolist() for item in items[ours]] == arrays[f"{theirs}_labels"].tolist()
    assert [] in [item["label"] for item in items["training"]]


def test_the_evaluation_has_scikit_learns_auroc(folder: Path) -> None:
    rows = table(folder / "eval" / "probabilities.csv")
    assert list(rows[0]) == ["file", *LABELS, *(f"truth_{name}" for name in LABELS)]
    probabilities, truth = numbers(rows, LABELS), numbers(rows, [f"truth_{name}" for name in LABELS])
    arrays = np.load(folder / "data" / "source" / "chestmnist.npz")
    np.testing.assert_array_equal(truth, arrays["test_labels"])
    with (folder / "eval" / "metrics.csv").open(newline="") as file:
        measured = {name: float(value) for name, value in csv.reader(file)}
    defined = [k for k in range(14) if 0 < truth[:, k].sum() < len(truth)]
    assert 0 < len(defined) < 14
    expected = {LABELS[k]: roc_auc_score(truth[:, k], probabilities[:, k]) for k in defined}
    for name in LABELS:
        assert measured[f"val_auc_{name}"] == pytest.approx(expected.get(name, float("nan")), nan_ok=True, abs=1e-6)
    assert measured["val_auc"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    right = accuracy_score(truth.ravel(), probabilities.ravel() >= 0.5)
    assert measured["val_accuracy"] == pytest.approx(right, abs=1e-6)


def test_the_evaluation_names_the_labels_without_a_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {"dataset_dir": str(folder / "data" / "converted"), "output_dir": str(folder / "again")}
    run(folder / f"{TASK}_pooling", "train", "evaluate", ckpt_dir=str(folder / "models"), **paths)
    assert "note: all or none of the test cases have 13 hernia: without a value of AUROC" in capsys.readouterr().out


def test_predictions_are_the_probabilities_of_the_evaluation(folder: Path) -> None:
    predicted, evaluated = (table(folder / name) for name in ("predictions/predictions.csv", "eval/probabilities.csv"))
    assert list(predicted[0]) == ["file", *LABELS]
    assert [row["file"] for row in predicted] == [row["file"] for row in evaluated]
    np.testing.assert_allclose(numbers(predicted, LABELS), numbers(evaluated, LABELS), atol=1e-5)
    assert (numbers(predicted, LABELS).sum(axis=1) > 1.5).any(), "sigmoids need not sum to 1"


def test_the_bundle_is_whole(folder: Path) -> None:
    bundle = folder / f"{TASK}_pooling"
    text = (bundle / "docs" / "README.md").read_text()
    for part in ("binary cross-entropy of each label", "a list of the ids of the image's labels", "mean AUROC"):
        assert part in " ".join(text.split())
    outputs = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert list(outputs["channel_def"].values()) == LABELS


def test_auroc_of_each_label_and_their_mean() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (40, 3))
    truth[:, 2] = 1  # no negative case
    probabilities = np.round(rng.random((40, 3)) * 0.6 + 0.3 * truth, 1)  # with ties
    metric = mean_auroc(labels=["a", "b", "c"], output_transform=lambda batch: batch)
    engine: Any = type("Engine", (), {"state": type("State", (), {"metrics": {}})()})()
    for part in (slice(0, 15), slice(15, 40)):
        metric.update((torch.tensor(probabilities[part]), torch.tensor(truth[part])))
    metric.completed(engine, "auc")
    each = [roc_auc_score(truth[:, k], probabilities[:, k]) for k in range(2)]
    expected = {"auc": np.mean(each), "auc_a": each[0], "auc_b": each[1], "auc_c": float("nan")}
    assert engine.state.metrics == pytest.approx(expected, nan_ok=True)


def test_positive_weights_are_the_ratio_of_the_class_weights() -> None:
    """scikit-learn's balanced weights are proportional to 1 / frequency; the rule takes their square root."""
    rng = np.random.default_rng(1)
    hot = rng.random((50, 4)) < [0.5, 0.1, 0.9, 0.02]
    hot[0, 3], hot[:, 3][1:] = True, False
    cases = [{"label": np.flatnonzero(row).tolist()} for row in hot]
    balanced = [compute_class_weight("balanced", classes=np.array([0, 1]), y=column) for column in hot.T]
    expected = [(positive / negative) ** 0.5 for negative, positive in balanced]
    assert positive_weights(cases=cases, classes=4, ceiling=100.0) == pytest.approx(expected)
    assert positive_weights(cases=cases, classes=5, ceiling=2.0)[2:] == pytest.approx([0.5, 2.0, 2.0])


@pytest.mark.parametrize("ids", [3, "mass", [14], [-1], [0, 0, 1], [1, 0], [0.0], [True, False], None, {"a": 1}])
def test_a_label_of_another_form_is_refused(ids: Any) -> None:
    with pytest.raises(InputError, match=re.escape("takes the ids of the image's labels, 0 to 13 in ascending order")):
        check_label_ids("a.png", ids, 14)


@pytest.mark.parametrize("ids", [[], [0], [0, 1, 13], (2, 5)])
def test_ids_in_order_are_taken(ids: Any) -> None:
    check_label_ids("a.png", ids, 14)


def test_a_validation_that_cannot_choose_weights_is_refused() -> None:
    check_label_counts([{"label": [0]}, {"label": []}], "validation")
    for cases in ([{"label": []}], [{"label": [0]}, {"label": [0]}]):
        with pytest.raises(InputError, match="no label is present in some validation cases and absent in others"):
            check_label_counts(cases, "validation")


@pytest.mark.parametrize("label", [[0, 0, 1] + [0] * 11, 3, [99]])
def test_training_refuses_a_data_set_of_another_form(label: Any, folder: Path, tmp_path: Path) -> None:
    data = convert_tiny(TASK, tmp_path / "data")
    content = json.loads((data / "datalist.json").read_text())
    content["training"][2]["label"] = label
    (data / "datalist.json").write_text(json.dumps(content))
    with pytest.raises((SystemExit, RuntimeError, InputError)) as error:
        run(folder / f"{TASK}_pooling", "train", dataset_dir=str(data), ckpt_dir=str(tmp_path / "models"))
    cause: BaseException | None = error.value
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    assert "this bundle takes the ids of the image's labels" in str(cause)
    assert not (tmp_path / "models").exists()


def test_dataset_check_counts_each_label(folder: Path) -> None:
    text = str(audit_datalist(folder / "data" / "converted"))
    assert "classes: any number per case" in text
    hot = np.load(folder / "data" / "source" / "chestmnist.npz")["train_labels"].sum(axis=0)
    counts = ", ".join(f"{k}: {count}" for k, count in enumerate(hot) if count)
    assert f"classes of training: {counts}" in text


def test_dataset_check_refuses_one_number_per_label(tmp_path: Path) -> None:
    data = convert_tiny(TASK, tmp_path / "data")
    content = json.loads((data / "datalist.json").read_text())
    for index, entry in enumerate(content["test"]):
        entry["label"] = [index % 2, 0, 0]
    (data / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"has the label \[0, 0, 0\]; a bundle takes one class id, the ids of several"):
        audit_datalist(data)


def test_the_converter_refuses_other_labels(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_chestmnist(source)
    arrays = dict(np.load(source / "chestmnist.npz"))
    arrays["val_labels"] = arrays["val_labels"][:, :3]
    np.savez(source / "chestmnist.npz", **arrays)
    with pytest.raises(InputError, match="each image must have 0 or 1 for each of 14 labels, got"):
        convert(TASK, source, tmp_path / "out", size=28)
    assert not (tmp_path / "out").exists()


def test_a_study_refuses_several_labels_per_image() -> None:
    with pytest.raises(InputError, match="gives an image several labels: a study compares tasks of one class"):
        task_of(TASK)
