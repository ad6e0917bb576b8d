"""Scores of label maps and probabilities against nnU-Net, SciPy and scikit-learn, and every fault of the files."""

from __future__ import annotations

import csv
import shutil

import made_study
import nibabel as nib
import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt
from sklearn import metrics

from medmixers.datasets.label_values import as_text
from medmixers.errors import InputError, MissingFileError
from medmixers.study.classification import score_classification
from medmixers.study.scores import join, score_run
from medmixers.study.segmentation import score_segmentation

SPACING = (1.0, 1.5, 2.0)


def blobs(seed, shift=0):
    return np.roll(made_study.sphere(np.random.default_rng(seed)), shift, axis=0)


@pytest.fixture
def case(tmp_path):
    """A case with a truth, a prediction that is off by two voxels, and its folder."""
    (tmp_path / "predictions").mkdir()
    made_study.save(tmp_path / "truth.nii.gz", blobs(3))
    made_study.save(tmp_path / "predictions" / "a.nii.gz", blobs(3, shift=2))
    return tmp_path


def scores(folder, classes=made_study.CLASSES, truth="truth.nii.gz", tolerance=2.0, **options):
    cases = {"a": {"truth": folder / truth if isinstance(truth, str) else truth}}
    rows = score_segmentation(folder / "predictions", cases=cases, classes=classes, tolerance=tolerance, **options)
    return {(name, metric): value for _, name, metric, value in rows}


@pytest.mark.parametrize("ignore_label", [None, 3])
def test_dice_of_labels_and_regions_is_nnunets(case, ignore_label):
    if ignore_label:
        truth = blobs(3)
        truth[:, :8] = 3
        made_study.save(case / "truth.nii.gz", truth)
    files = str(case / "truth.nii.gz"), str(case / "predictions" / "a.nii.gz")
    theirs = compute_metrics(*files, NibabelIO(), [2, (1, 2)], ignore_label)["metrics"]
    ours = scores(case, ignore_label=ignore_label)
    assert ours["core", "dice"] == pytest.approx(theirs[2]["Dice"], abs=1e-6)
    assert ours["whole", "dice"] == pytest.approx(theirs[1, 2]["Dice"], abs=1e-6)
    assert 0 < ours["core", "dice"] < 1


@pytest.mark.parametrize("tolerance", [1.0, 2.0])
def test_surface_scores_are_those_of_distance_transforms(case, tolerance):
    masks = [np.asarray(nib.load(case / f).dataobj) == 2 for f in ("truth.nii.gz", "predictions/a.nii.gz")]
    edges = [mask & ~binary_erosion(mask) for mask in masks]
    there = distance_transform_edt(~edges[1], sampling=SPACING)[edges[0]]
    back = distance_transform_edt(~edges[0], sampling=SPACING)[edges[1]]
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    ours = scores(case, tolerance=tolerance)
    assert ours["core", "nsd"] == pytest.approx(near / (len(there) + len(back)), abs=1e-6)
    assert ours["core", "hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-4)


def test_empty_structures_follow_nnunets_rule(case):
    made_study.save(case / "truth.nii.gz", np.where(blobs(3) == 2, 0, blobs(3)))
    ours = scores(case, {"absent": 2, "nowhere": 9, "rim": 1})
    diagonal = np.linalg.norm((np.array((20, 18, 10)) - 1) * SPACING)
    assert (ours["absent", "dice"], ours["absent", "nsd"]) == (0, 0)
    assert ours["absent", "hd95"] == pytest.approx(diagonal, rel=1e-6)
    assert all(np.isnan(ours["nowhere", metric]) for metric in ("dice", "nsd", "hd95"))
    assert ours["rim", "dice"] > 0


def test_pictures_and_overlapping_labels_are_scored(tmp_path):
    (tmp_path / "predictions").mkdir()
    first, second = np.zeros((12, 16), np.uint8), np.zeros((12, 16), np.uint8)
    first[2:8, 3:9] = 255
    second[2:8, 5:11] = 255
    Image.fromarray(first).save(tmp_path / "truth.png")
    Image.fromarray(second).save(tmp_path / "predictions" / "a_lung.png")
    truth = {"lung": tmp_path / "truth.png"}
    assert scores(tmp_path, {"lung": 1}, truth)["lung", "dice"] == pytest.approx(2 * 24 / 72)
    assert scores(tmp_path, {"lung": 1}, truth, tolerance=2.0)["lung", "nsd"] == 1  # the tolerance counts pixels
    assert scores(tmp_path, {"lung": 1}, truth, tolerance=0.5)["lung", "nsd"] < 1


def test_a_slice_of_a_volume_is_measured_by_its_outline(case):
    for file, shift in (("truth.nii.gz", 0), ("predictions/a.nii.gz", 2)):
        made_study.save(case / file, blobs(3, shift)[:, :, 4:5])
    assert scores(case)["whole", "hd95"] == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda f: (f / "predictions" / "a.nii.gz").unlink(), "lacks a prediction of 1 of 1 cases: a"),
        (lambda f: shutil.copy(f / "truth.nii.gz", f / "predictions" / "b.nii.gz"), "cases that are not scored.*: b"),
        (lambda f: (f / "truth.nii.gz").unlink(), "there is no label map .*truth.nii.gz"),
        (lambda f: made_study.save(f / "truth.nii.gz", blobs(3)[:-1]), r"has shape \(20, 18, 10\).*has \(19, 18, 10\)"),
        (lambda f: nib.save(nib.Nifti1Image(blobs(3), np.eye(4)), f / "truth.nii.gz"), "lies elsewhere than truth"),
        (lambda f: nib.save(nib.Nifti1Image(blobs(3), np.eye(4)), f / "predictions" / "a.nii"), "two predictions of a"),
    ],
)
def test_a_fault_of_the_files_is_one_clear_line(case, fault, message):
    fault(case)
    with pytest.raises(InputError, match=message):
        scores(case)


@pytest.mark.parametrize("file", ["truth.nii.gz", "predictions/a.nii.gz"])
@pytest.mark.parametrize("map_values", [lambda d: d * 127, lambda d: (d * 0.9999999).astype(np.float32)])
def test_values_that_are_no_label_are_refused_as_dataset_check_refuses_them(case, file, map_values):
    """Such a label had Dice 0 everywhere. 0.9999999 is no label for the auditor and the bundles either."""
    made_study.save(case / file, map_values(blobs(3)))
    with pytest.raises(InputError, match=rf"{file} holds label .* no label of the data set; valid: 0 background, 1 wh"):
        scores(case)
    made_study.save(case / file, blobs(3).astype(np.float32))
    assert scores(case)["whole", "dice"] > 0


def test_a_mask_of_other_values_is_refused(tmp_path):
    (tmp_path / "predictions").mkdir()
    for file, value in (("truth.png", 128), ("predictions/a_lung.png", 255)):
        Image.fromarray(np.diag([value] * 9).astype(np.uint8)).save(tmp_path / file)
    with pytest.raises(InputError, match=r"truth.png holds 0, 128; a mask has 0 and 1, or 0 and 255"):
        scores(tmp_path, {"lung": 1}, {"lung": tmp_path / "truth.png"})


def write(file, rows, head=("case", "truth", *made_study.GRADES)):
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([head, *rows])
    return file


@pytest.fixture
def probabilities():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80)
    values = np.round(rng.dirichlet(np.ones(3), 80) * 0.6 + 0.4 * np.eye(3)[rng.permutation(labels)], 2)
    values[:, 2] = 1 - values[:, 0] - values[:, 1]
    return labels, np.clip(values, 0, 1)


def test_classification_is_scikit_learns(tmp_path, probabilities):
    labels, values = probabilities
    names = [f"c{i}" for i in range(80)]
    grades = made_study.GRADES
    file = write(tmp_path / "p.csv", [[n, grades[y], *p] for n, y, p in zip(names, labels, values, strict=True)])
    cases = {name: {"truth": grades[label]} for name, label in zip(names, labels, strict=True)}
    rows = list(score_classification(file, cases=cases, classes=grades))
    ours = {(case, name, metric): value for case, name, metric, value in rows}
    called = values.argmax(axis=1)
    expected = {
        "auroc": metrics.roc_auc_score(labels, values, multi_class="ovr"),
        "average_precision": metrics.average_precision_score(np.eye(3)[labels], values),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
        "f1": metrics.f1_score(labels, called, average="macro"),
        "ece": calibration_error(values, labels),
    }
    for metric, value in expected.items():
        assert ours["*", "", metric] == pytest.approx(value), metric
    assert ours["*", "border", "auroc"] == pytest.approx(metrics.roc_auc_score(labels == 1, values[:, 1]))
    means = {m: np.mean([ours[n, "", m] for n in names]) for m in ("accuracy", "brier", "log_loss")}
    assert means["accuracy"] == pytest.approx(metrics.accuracy_score(labels, called))
    assert means["log_loss"] == pytest.approx(metrics.log_loss(labels, np.maximum(values, 1e-12)))
    one_vs_rest = [metrics.brier_score_loss(labels == c, values[:, c]) for c in range(3)]
    assert means["brier"] == pytest.approx(sum(one_vs_rest))


def calibration_error(values, labels, bins=15):
    """By a loop over bins, as Guo et al. 2017 write it."""
    confidence, correct = values.max(axis=1), values.argmax(axis=1) == labels
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low + 1e-12) & (confidence <= low + 1 / bins + 1e-12)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "benign", 0.5, 0.5, 0.5]], "line 2: probabilities must lie between 0 and 1 and sum to 1"),
        ([["a", "benign", "x", 0.5, 0.5]], "line 2: probabilities must be numbers"),
        ([["a", "bad", 1, 0, 0]], "line 2: truth must be one of benign, border, malignant, got 'bad'"),
        ([["a", "benign", 1, 0, 0]] * 2, "holds case a twice"),
        ([["a", "border", 1, 0, 0]], "case a is 'border', but 'benign' in the plan"),
        ([["b", "benign", 1, 0, 0]], "lacks probabilities of 1 of 1 cases: a"),
        ([], "holds no case"),
    ],
)
def test_bad_probabilities_are_refused(tmp_path, rows, message):
    file = write(tmp_path / "p.csv", rows)
    with pytest.raises(InputError, match=message):
        list(score_classification(file, cases={"a": {"truth": "benign"}}, classes=made_study.GRADES))


def test_runs_of_both_kinds_join_into_one_table(tmp_path):
    plan = made_study.make_study(tmp_path, entries=("identity", "conv k3"), seeds=1, cases=2)
    rows = list(csv.DictReader(join(tmp_path).open()))
    assert {row["dataset"] for row in rows} == {"brain", "colon"}
    assert {row["metric"] for row in rows if row["dataset"] == "brain"} == {"dice", "nsd", "hd95"}
    assert {row["group"] for row in rows if row["case"] == "case01" and row["dataset"] == "brain"} == {"p1"}
    again = join(tmp_path).read_bytes()
    assert join(tmp_path).read_bytes() == again
    first = plan["runs"][0]
    (tmp_path / "runs" / first["id"] / "predictions" / "case00.nii.gz").unlink()
    before = (tmp_path / "runs" / first["id"] / "scores.csv").read_bytes()
    with pytest.raises(MissingFileError, match="lacks a prediction of 1 of 2 cases: case00"):
        score_run(tmp_path, first, plan)
    assert (tmp_path / "runs" / first["id"] / "scores.csv").read_bytes() == before
    score_run(tmp_path, first | {"cases": ["case01"]}, plan)  # a fold's part
    (tmp_path / "runs").rename(tmp_path / "away")
    with pytest.raises(MissingFileError, match=r"no run of .* has scores yet"):
        join(tmp_path)


def test_a_value_is_shown_in_the_digits_that_tell_it_from_a_whole_number():
    values = (7, 1.5, float(np.float32(1.9999)), float(np.float32(3.0000004)), 0.9999999, 1 - 1e-12, float("nan"))
    shown = [as_text(value) for value in values]
    assert shown == ["7", "1.5", "1.9999", "3.0000005", "0.9999999", "0.999999999999", "nan"]
