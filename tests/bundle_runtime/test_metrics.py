"""Scores of a classification; scikit-learn is the oracle, and a study has the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import ROOT
from ignite.engine import Engine
from monai.bundle import ConfigParser
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from medmixers.study.classification import together

BUNDLE = ROOT / "bundles" / "lung_nodule_classification_pooling"


def measured(probabilities: np.ndarray, truth: np.ndarray, *, batch: int = 7) -> dict[str, float]:
    """The metrics of train.json, from batches of an engine."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    parser["bundle_root"], parser["device"] = str(BUNDLE), "cpu"
    engine = Engine(lambda engine, batch: batch)
    for name in ("key_metric", "additional_metrics"):
        for metric, each in parser.get_parsed_content(f"validate::{name}").items():
            each.attach(engine, metric)
    hot = torch.eye(probabilities.shape[1])[truth]
    cases = [{"pred": p, "label": t} for p, t in zip(torch.tensor(probabilities), hot, strict=True)]
    state = engine.run([cases[start : start + batch] for start in range(0, len(cases), batch)])
    return dict(state.metrics)


@pytest.mark.parametrize("present", [(0, 1, 2, 3), (0, 2, 3), (1, 3)])
def test_means_are_over_the_classes_that_have_a_case(present: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(present, 40)
    logits = rng.normal(size=(40, 4)) + np.eye(4)[truth]
    logits[:, 3] -= 9  # never predicted
    probabilities = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 2)  # with ties
    predicted = probabilities.argmax(axis=1)
    assert set(range(4)) - set(present) - {3} <= set(predicted), "a class without a case is predicted"
    options: dict[str, Any] = {"labels": present, "average": "macro", "zero_division": 0.0}
    expected = {
        "val_f1": f1_score(truth, predicted, **options),
        "val_accuracy": (predicted == truth).mean(),
        "val_precision": precision_score(truth, predicted, **options),
        "val_recall": recall_score(truth, predicted, **options),
        "val_auc": np.mean([roc_auc_score(truth == k, probabilities[:, k]) for k in present]),
    }
    found = measured(probabilities, truth)
    assert found == pytest.approx(expected, abs=1e-6)
    study = together(probabilities, truth)
    for name, theirs in (("val_f1", "f1"), ("val_recall", "balanced_accuracy"), ("val_auc", "auroc")):
        assert found[name] == pytest.approx(study[theirs][0], abs=1e-6)


def test_cases_of_one_class_have_no_auc() -> None:
    found = measured(np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]), np.array([0, 0, 0]))
    assert np.isnan(found.pop("val_auc"))
    expected = {"val_f1": 0.8, "val_accuracy": 2 / 3, "val_precision": 1.0, "val_recall": 2 / 3}
    assert found == pytest.approx(expected)
