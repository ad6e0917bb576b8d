"""One bundle of each kind trains, evaluates and predicts on a tiny data set in the data set's own format."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT, run_here, small_options
from monai.bundle import ConfigParser
from monai.transforms import LoadImage
from scipy import ndimage
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
from tiny_datasets import convert_tiny

from medmixers.bundle_runtime.cases import split
from medmixers.bundles.catalog import BUNDLES, STUDY_MIXERS
from medmixers.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run

CLASSIFICATION = ["chest_xray_pneumonia_classification_grouped_conv", "lung_nodule_classification_grouped_conv"]
SEGMENTATION = [
    "wrist_bone_segmentation_grouped_conv",  # 2D, overlapping masks
    "breast_tissue_segmentation_grouped_conv",  # 2D, an ignored value
    "brain_tumor_segmentation_token_unet",  # 3D, regions, four channels
    "cardiac_mri_segmentation_med_unext",  # 2D network on 3D volumes
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundle -> folder with its data, trained for two epochs, evaluated, and its predictions."""
    done: dict[str, Path] = {}

    def run(bundle: str) -> Path:
        if bundle not in done:
            done[bundle] = train_evaluate_predict(bundle, tmp_path_factory.mktemp("run"))
        return done[bundle]

    return run


def train_evaluate_predict(bundle: str, folder: Path) -> Path:
    data = str(convert_tiny(BUNDLES[bundle].task_spec.name, folder / "data"))
    paths = {"dataset_dir": data, "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    short = {"epochs": 2, "val_interval": 1, "batch_size": 2, "accumulate_batches": 2}
    run_here("train", bundle=bundle, **paths, **short)
    run_here("train", "evaluate", bundle=bundle, **paths)
    ckpt = str(folder / "models" / "model.pt")
    if BUNDLES[bundle].evaluated_part == "validation":  # no test part: predict what was scored
        paths["datalist"] = [case["image"] for case in scored_cases(folder, bundle)]
    run_here("inference", bundle=bundle, **{**paths, "output_dir": str(folder / "predictions")}, ckpt_path=ckpt)
    return folder


def scored_cases(folder: Path, bundle: str) -> list[dict[str, Any]]:
    row = BUNDLES[bundle]
    return split(
        folder / "data" / "converted", part=row.evaluated_part, validation_every=row.task_spec.validation_every
    )


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("bundle", CLASSIFICATION)
def test_metrics_of_a_classification_are_those_of_scikit_learn(bundle: str, trained: Any) -> None:
    folder = trained(bundle)
    names = list(BUNDLES[bundle].task_spec.label_names.values())
    rows = table(folder / "eval" / "probabilities.csv")
    cases = scored_cases(folder, bundle)
    assert [(row["file"], row["truth"]) for row in rows] == [(c["image"], names[c["label"]]) for c in cases]
    truth = np.array([names.index(row["truth"]) for row in rows])
    probabilities = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    predicted = probabilities.argmax(axis=1)
    assert [row["prediction"] for row in rows] == [names[k] for k in predicted]
    shared = {"average": "macro", "zero_division": 0.0}
    expected = {
        "val_accuracy": accuracy_score(truth, predicted),
        "val_f1": f1_score(truth, predicted, **shared),
        "val_precision": precision_score(truth, predicted, **shared),
        "val_recall": recall_score(truth, predicted, **shared),
        "val_auc": roc_auc_score(truth, probabilities[:, 1]),  # two classes: both one-vs-rest areas are this one
    }
    with open(folder / "eval" / "metrics.csv", newline="") as file:
        measured = {name: float(value) for name, value in csv.reader(file)}
    assert measured == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("bundle", CLASSIFICATION)
def test_prediction_gives_the_probabilities_of_the_evaluation(bundle: str, trained: Any) -> None:
    folder, names = trained(bundle), BUNDLES[bundle].task_spec.label_names.values()
    evaluated = table(folder / "eval" / "probabilities.csv")
    predicted = table(folder / "predictions" / "predictions.csv")
    for one, other in zip(predicted, evaluated, strict=True):
        assert [*one] == ["file", *names, "prediction"]
        assert (one["file"], one["prediction"]) == (other["file"], other["prediction"])
        assert [float(one[n]) for n in names] == pytest.approx([float(other[n]) for n in names], abs=1e-5)  # batches


@pytest.mark.parametrize("bundle", SEGMENTATION)
def test_predictions_score_what_the_evaluation_says(bundle: str, trained: Any) -> None:
    """The files that are predicted, compared by hand with the label files, have the Dice of the CSV file."""
    folder, task = trained(bundle), BUNDLES[bundle].task_spec
    rows = table(folder / "eval" / "val_mean_dice_raw.csv")
    cases = scored_cases(folder, bundle)
    assert len(rows) == len(cases) > 0
    for row, case in zip(rows, cases, strict=True):
        truth, counted = read_truth(case, task)
        pred = read_prediction(folder / "predictions", case, task)
        assert pred.shape == truth.shape
        dice = [dice_of(p & counted, t & counted) for p, t in zip(pred, truth, strict=True)]
        measured = [float(row[f"class{k}"]) for k in range(len(dice))]
        np.testing.assert_allclose(measured, dice, atol=1e-4)


def test_hausdorff_is_in_millimetres(trained: Any) -> None:
    """HD95 of volumes of 1.9 x 1.9 x 3 mm, from distances that scipy measures."""
    bundle = "cardiac_mri_segmentation_med_unext"
    folder, task = trained(bundle), BUNDLES[bundle].task_spec
    rows = table(folder / "eval" / "val_hd95_mm_raw.csv")
    compared = 0
    for row, case in zip(rows, scored_cases(folder, bundle), strict=True):
        spacing = nib.load(case["label"]).header.get_zooms()
        pred, (truth, _) = read_prediction(folder / "predictions", case, task), read_truth(case, task)
        for k, (p, t) in enumerate(zip(pred, truth, strict=True)):
            if p.any() and t.any():
                compared += 1
                assert float(row[f"class{k}"]) == pytest.approx(hausdorff95(p, t, spacing), abs=1e-3)
    assert compared


def hausdorff95(a: np.ndarray, b: np.ndarray, spacing: Any) -> float:
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    distances = [ndimage.distance_transform_edt(~one, sampling=spacing)[other] for one, other in (edges, edges[::-1])]
    return max(float(np.percentile(each, 95)) for each in distances)


def dice_of(a: np.ndarray, b: np.ndarray) -> float:
    return float("nan") if not b.any() else 2 * (a & b).sum() / (a.sum() + b.sum())  # as MONAI: no truth, no score


def read(file: str | Path) -> np.ndarray:
    return np.asarray(LoadImage(image_only=True)(str(file)))


def read_truth(case: dict[str, Any], task: Any) -> tuple[np.ndarray, np.ndarray]:
    """Masks (K, *spatial) of what is scored, and where."""
    if isinstance(case["label"], list):
        masks = np.stack([read(file) > 0 for file in case["label"]])
        return masks, np.ones_like(masks[0])
    values = read(case["label"])
    return masks_of(values, task), values != task.ignore_label


def read_prediction(folder: Path, case: dict[str, Any], task: Any) -> np.ndarray:
    image = Path(case["image"][0] if isinstance(case["image"], list) else case["image"])
    ending = ".nii.gz" if task.spatial_dims == 3 else ".png"
    stem = image.name.removesuffix(ending)
    if isinstance(case["label"], list):
        return np.stack([read(folder / f"{stem}_{name}{ending}") > 0 for name in task.label_names.values()])
    return masks_of(read(folder / f"{stem.removesuffix('_0000')}{ending}"), task)


def masks_of(values: np.ndarray, task: Any) -> np.ndarray:
    if task.regions is not None:
        return np.stack([np.isin(values, ids) for ids in task.regions.values()])
    return np.stack([values == key for key in range(1, task.out_channels)])


@pytest.mark.parametrize("bundle", [*CLASSIFICATION, *SEGMENTATION])
def test_weights_are_flat(bundle: str, trained: Any) -> None:
    weights = torch.load(trained(bundle) / "models" / "model.pt", weights_only=True)
    assert weights
    assert all(isinstance(value, torch.Tensor) for value in weights.values())


def predict(folder: Path, bundle: str, out: str, **options: Any) -> Path:
    """Predictions of the scored cases, with probabilities."""
    images = [case["image"] for case in scored_cases(folder, bundle)]
    saved = {} if bundle in CLASSIFICATION else {"save_probabilities": True}
    run_here("inference", bundle=bundle, datalist=images, output_dir=str(folder / out), **saved, **options)
    return folder / out


def probabilities(out: Path) -> np.ndarray:
    """Of all cases, in the order of their names: (cases, ...)."""
    if (out / "predictions.csv").is_file():
        return np.array([[float(value) for value in [*row.values()][1:-1]] for row in table(out / "predictions.csv")])
    return np.stack([np.load(path)["probabilities"] for path in sorted(out.glob("*.npz"))])


@pytest.mark.parametrize("bundle", [CLASSIFICATION[0], "wrist_bone_segmentation_grouped_conv", SEGMENTATION[3]])
def test_an_ensemble_predicts_the_mean_probability_of_its_models(bundle: str, trained: Any) -> None:
    """Softmax of images and of slices, and sigmoid of masks."""
    folder = trained(bundle)
    states = [str(folder / "models" / f"resume_checkpoint_epoch={epoch}.pt") for epoch in (1, 2)]
    each = [
        probabilities(predict(folder, bundle, f"of_{index}", ckpt_path=state)) for index, state in enumerate(states)
    ]
    assert np.abs(each[0] - each[1]).max() > 1e-3
    found = probabilities(predict(folder, bundle, "of_both", ensemble=",".join(states), ckpt_path="none.pt"))
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, atol=2e-6)


def test_an_evaluation_averages_as_a_prediction(trained: Any) -> None:
    bundle = CLASSIFICATION[0]
    folder = trained(bundle)
    states = [str(folder / "models" / f"resume_checkpoint_epoch={epoch}.pt") for epoch in (1, 2)]
    options = {"ensemble": states, "use_mirroring": True, "mirror_axes": [0]}
    paths = {"dataset_dir": str(folder / "data" / "converted"), "output_dir": str(folder / "eval_of_both")}
    run_here("train", "evaluate", bundle=bundle, ckpt_dir=str(folder / "no_models"), **paths, **options)
    rows = table(folder / "eval_of_both" / "probabilities.csv")
    evaluated = np.array([[float(value) for value in [*row.values()][1:-2]] for row in rows])
    predicted = probabilities(predict(folder, bundle, "mirrored_both", **options))
    np.testing.assert_allclose(evaluated, predicted, atol=1e-5)  # of batches
    assert np.abs(predicted - probabilities(predict(folder, bundle, "both", ensemble=states))).max() > 1e-4


@pytest.mark.parametrize("bundle", CLASSIFICATION)
def test_mirroring_is_the_mean_over_explicit_flips(bundle: str, trained: Any) -> None:
    """2D and 3D, by default along all axes."""
    folder, config = trained(bundle), str(ROOT / "bundles" / bundle / "configs" / "inference.json")
    ckpt_path = str(folder / "models" / "model.pt")
    found = probabilities(predict(folder, bundle, "mirrored", ckpt_path=ckpt_path, use_mirroring=True))
    parser = ConfigParser()
    parser.read_config(config)
    parser.update({key.replace("#", "::"): value for key, value in small_options(BUNDLES[bundle]).items()})
    network, prepared = parser.get_parsed_content("network").eval(), parser.get_parsed_content("preprocessing")
    network.load_state_dict(torch.load(ckpt_path))
    for row, case in zip(found, scored_cases(folder, bundle), strict=True):
        image = torch.as_tensor(prepared({"image": case["image"]})["image"])[None]
        axes = range(2, image.ndim)
        flips = [
            [axis for axis, used in zip(axes, chosen, strict=True) if used]
            for chosen in product([0, 1], repeat=len(axes))
        ]
        with torch.no_grad():
            logits = torch.stack([network(image.flip(flip) if flip else image) for flip in flips])
        np.testing.assert_allclose(row, torch.softmax(logits.mean(0), 1)[0], atol=2e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "MODEL,nowhere.pt"}, "--ensemble: there is no file 'nowhere.pt'"),
        ({"ensemble": "MODEL,MODEL"}, "--ensemble names "),
        ({"ensemble": "MODEL,OTHER"}, "OTHER' holds the weights of another network, or of other options: "),
        ({"ensemble": 3}, '--ensemble must be files of weights, as "models/a.pt,models/b.pt", got 3'),
        ({"use_mirroring": True, "mirror_axes": [2]}, "--mirror_axes must list different axes from 0 to 1, "),
        ({"mirror_axes": 0}, "--mirror_axes must be a list of axes from 0, for example [0], got 0"),
    ],
)
def test_a_mean_that_cannot_be_is_one_line(
    options: dict[str, Any], message: str, trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(CLASSIFICATION[0])
    torch.save({"w": torch.ones(1)}, folder / "OTHER")
    names = {"MODEL": str(folder / "models" / "model.pt"), "OTHER": str(folder / "OTHER")}
    if isinstance(options.get("ensemble"), str):
        files = [names.get(file, file) for file in options["ensemble"].split(",")]
        options = {"ensemble": ",".join(files)}
    with pytest.raises((SystemExit, RuntimeError, InputError)) as error:
        predict(folder, CLASSIFICATION[0], "none", ckpt_path=names["MODEL"], **options)
    cause: BaseException | None = error.value
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    assert message in str(cause)
    assert not (folder / "none").exists()


@pytest.mark.parametrize("mixer", STUDY_MIXERS)
def test_every_mixer_trains_and_predicts(mixer: str, tmp_path: Path) -> None:
    bundle = f"chest_xray_pneumonia_classification_{mixer}"
    data = str(convert_tiny("chest_xray_pneumonia_classification", tmp_path / "data"))
    paths = {"dataset_dir": data, "ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "out")}
    run_here("train", bundle=bundle, epochs=1, batch_size=9, **paths)
    run_here("inference", bundle=bundle, ckpt_path=str(tmp_path / "models" / "model.pt"), **paths)
    assert len(table(tmp_path / "out" / "predictions.csv")) == len(
        json.loads((Path(data) / "datalist.json").read_text())["test"]
    )
