"""Dice and HD95 against nnU-Net's own evaluation and MONAI's distance, and the rule for empty structures."""

from __future__ import annotations

import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.metrics import compute_hausdorff_distance
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from medmixers.bundle_runtime.overlap import DiceMetric, HD95Metric, hausdorff95_mm, mean_dice

SPACING = (1.0, 2.0, 3.0)
# (truth, prediction) of a case: which of the classes 1, 2, 3 are there
CASES = [({1, 2, 3}, {1, 2, 3}), ({1}, {1, 2}), ({1, 3}, {1}), ({1}, {1}), (set(), {3}), (set(), set())]


def label_map(values, seed):
    """A label map with a box of each value, at a place of its own."""
    label = np.zeros((12, 10, 8), np.uint8)
    for value in values:
        start = 4 * (value - 1) + seed % 2
        label[start : start + 3, 2:7, 1 + seed % 2 : 6] = value
    return label


def label_maps():
    return [(label_map(truth, 0), label_map(predicted, 1)) for truth, predicted in CASES]


def one_hot(label):
    channels = torch.from_numpy(np.stack([label == value for value in range(4)])).float()
    return MetaTensor(channels, affine=torch.diag(torch.tensor([*SPACING, 1.0])))


def scored(metric):
    for truth, predicted in label_maps():
        metric([one_hot(predicted)], [one_hot(truth)])
    return metric.get_buffer().numpy(), float(metric.aggregate())


def test_dice_is_nnunets(tmp_path):
    ours, mean = scored(DiceMetric(include_background=False))
    rows = []
    for number, maps in enumerate(label_maps()):
        files = [tmp_path / f"{name}{number}.nii.gz" for name in "tp"]
        for file, label in zip(files, maps, strict=True):
            nib.save(nib.Nifti1Image(label, np.diag([*SPACING, 1.0])), file)
        metrics = compute_metrics(*map(str, files), SimpleITKIO(), [1, 2, 3])["metrics"]
        rows.append([metrics[value]["Dice"] for value in (1, 2, 3)])
    np.testing.assert_allclose(ours, rows, rtol=1e-6)
    assert mean == pytest.approx(np.mean(np.nanmean(rows, axis=0)))


def test_a_false_alarm_counts_as_0_and_an_absent_structure_is_left_out():
    """One perfect case and one false alarm on an empty truth: nnU-Net says 0.5, MONAI's ignore_empty 1."""
    metric = DiceMetric(include_background=False)
    there, empty = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    there[1, :2] = 1
    metric([there], [there])
    metric([there], [empty])
    assert float(metric.aggregate()) == 0.5
    metric([empty], [empty])
    assert float(metric.aggregate()) == 0.5
    assert (metric.left_out, metric.absent, metric.missed) == (1, 1, 0)
    metric.reset()
    assert metric.absent == 0


def test_hd95_is_monais_in_mm_and_the_diagonal_where_one_side_is_empty():
    ours, _ = scored(HD95Metric(include_background=False))
    diagonal = np.linalg.norm(np.multiply((11, 9, 7), SPACING))
    for row, (truth, predicted), maps in zip(ours, CASES, label_maps(), strict=True):
        by_monai = compute_hausdorff_distance(
            one_hot(maps[1])[None], one_hot(maps[0])[None], percentile=95, spacing=SPACING
        )[0]
        for value, distance, expected in zip((1, 2, 3), row, by_monai, strict=True):
            if value in truth & predicted:
                assert distance == pytest.approx(float(expected))
            elif value in truth ^ predicted:
                assert distance == pytest.approx(diagonal)
            else:
                assert np.isnan(distance)


@pytest.mark.parametrize("make", [mean_dice, hausdorff95_mm])
def test_an_engine_gets_the_mean_the_cases_and_the_counts(make, capsys):
    maps = label_maps()
    engine = Engine(lambda _, pair: ([one_hot(pair[1])], [one_hot(pair[0])]))
    make(include_background=False, output_transform=lambda output: output, say_counts=True).attach(engine, "val")
    state = engine.run(maps)
    values = state.metric_details["val"].numpy()
    assert values.shape == (6, 3)
    assert state.metrics["val"] == pytest.approx(np.nanmean(np.nanmean(values, axis=0)))
    said = "val: 9 absent structures were not predicted and are left out, 2 were predicted, 1 present ones were not"
    assert said in capsys.readouterr().out


def test_hd95_without_scipy_ends_before_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ModuleNotFoundError, match="scipy"):
        hausdorff95_mm(include_background=False, output_transform=lambda output: output)
