"""The faults are as the table says, and a row of it counts and averages its images."""

import json

import nibabel as nib
import numpy as np
import pytest
import record_uncertainty as script

from medmixers.demo.subjects import Case
from medmixers.results.tables import TABLES


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    image = np.pad(rng.uniform(100, 900, size=(20, 22, 18)), 3).astype(np.float32)
    return Case(image, (image > 500).astype(np.uint8))


@pytest.mark.parametrize("fault", script.FAULTS)
def test_faults_keep_the_brain_and_move_labels_with_it(fault, case):
    changed = script.FAULTS[fault][1](case, np.random.default_rng(1))
    assert changed.image.shape == changed.label.shape
    if fault in ("upside_down", "left_right"):
        back = {"upside_down": np.s_[..., ::-1], "left_right": np.s_[::-1]}[fault]
        np.testing.assert_array_equal(changed.image[back], case.image)
        np.testing.assert_array_equal(changed.label[back], case.label)
    elif fault == "coarse":
        np.testing.assert_array_equal(changed.image > 0, case.image[::2, ::2, ::2] > 0)
        np.testing.assert_array_equal(changed.label, case.label[::2, ::2, ::2])
    else:
        np.testing.assert_array_equal(changed.image > 0, case.image > 0)
        np.testing.assert_array_equal(changed.label, case.label)
        assert np.array_equal(changed.image, case.image) == (fault == "sound")


def test_scores_and_their_row(tmp_path):
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[:2], truth[3] = 1, 2
    label = truth.copy()
    label[1] = 0
    nib.save(nib.Nifti1Image(label, np.diag([10.0, 10, 10, 1])), tmp_path / "a.nii.gz")
    (tmp_path / "uncertainty").mkdir()
    structures = [
        {"low": 10, "high": 40, "predicted_dice": 0.8},  # 32 ml are true
        {"low": 20, "high": 40, "predicted_dice": None},  # 16 ml are true
    ]
    facts = {"structures": structures, "unlike_training_data": ["spacing 1", "features of the network (distance 2)"]}
    (tmp_path / "uncertainty" / "a.json").write_text(json.dumps(facts))
    row = script.score(tmp_path, "a", truth)
    assert row == {
        "flagged": True, "spacing": True, "intensities": False, "features": True,
        "dice": pytest.approx((2 * 16 / 48 + 1) / 2), "predicted_dice": 0.4, "inside": 0.5,
    }  # fmt: skip
    both = script.summary("noise", [row, {**row, "flagged": False, "dice": 0.0}])
    assert (both["images"], both["flagged"], both["spacing"]) == (2, 1, 2)
    figures = {
        "bundle": "b", "epochs": 3, "train_seconds": 9.6, "validation_cases": 2, "training_images": 9,
        "temperature": 1.234, "error": [0.0512, 0.0104], "likelihood": [1, 0.5], "rows": [both],
    }  # fmt: skip
    section = {
        "date": "2026-01-31", "commit": "0123456789", "processor": "P", "cores": 2, "device": "cpu",
        "versions": {"torch": "2"}, "figures": figures,
    }  # fmt: skip
    shown = TABLES["uncertainty"]({"uncertainty": section}, {})
    assert "| noise | **1 of 2** | 2 | 0 | 2 | 0.417 | 0.400 | 50% |" in shown
    assert "3 epochs in 10 s on one core of a shared machine. Temperature 1.23 from 2" in " ".join(shown.split())
    assert TABLES["uncertainty"]({}, {}) == "Not measured yet."
