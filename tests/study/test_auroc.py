"""The bootstrap of AUROC against scikit-learn on the cases that each draw holds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medmixers.errors import InputError
from medmixers.study.auroc import macro_auroc
from medmixers.study.pooled import bootstrap, draw_counts


def by_scikit_learn(probabilities, labels):
    classes = [c for c in range(probabilities.shape[1]) if 0 < (labels == c).sum() < len(labels)]
    return np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in classes])


@pytest.mark.parametrize("digits", [6, 1], ids=["no ties", "ties"])
def test_every_draw_is_what_scikit_learn_gives_on_the_drawn_cases(digits):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    probabilities = np.round(rng.dirichlet(np.ones(4), 60) + 0.3 * np.eye(4)[labels], digits)
    (counts,) = draw_counts(np.arange(60), 30, rng)
    ours = macro_auroc(probabilities, labels, counts)
    for row, value in zip(counts.astype(int), ours, strict=True):
        cases = np.repeat(np.arange(60), row)
        assert value == pytest.approx(by_scikit_learn(probabilities[cases], labels[cases]), abs=1e-12)
    assert macro_auroc(probabilities, labels)[0] == pytest.approx(by_scikit_learn(probabilities, labels), abs=1e-12)


def test_a_class_that_a_draw_misses_is_left_out_of_its_mean():
    labels = np.array([0, 0, 1, 1, 2])
    probabilities = np.random.default_rng(1).random((5, 3))
    counts = np.array([[2, 1, 1, 1, 0], [1, 1, 1, 1, 1], [5, 0, 0, 0, 0]], float)
    cases = [0, 0, 1, 2, 3]
    first, second, none = macro_auroc(probabilities, labels, counts)
    assert first == pytest.approx(by_scikit_learn(probabilities[cases], labels[cases]))
    assert second == pytest.approx(by_scikit_learn(probabilities, labels))
    assert np.isnan(none)


def test_groups_are_drawn_together():
    groups = np.array([0, 0, 1, 2, 2, 2])
    for counts in draw_counts(groups, 300, np.random.default_rng(2)):
        np.testing.assert_array_equal(counts[:, 0], counts[:, 1])
        np.testing.assert_array_equal(counts[:, 3], counts[:, 5])
        np.testing.assert_array_equal(counts[:, [0, 2, 3]].sum(axis=1), 3)


def test_the_interval_has_the_spread_of_the_delong_variance():
    """Two classes, normal scores: the variance of AUROC (Hanley and McNeil 1982, equation 2) within 10 %."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 150)
    scores = rng.normal(size=300) + labels
    probabilities = np.stack([1 - scores, scores], axis=1)
    drawn = bootstrap("auroc", [probabilities], labels, groups=np.arange(300), draws=2000, seed=0)
    assert drawn.shape == (2000, 1)
    auc = macro_auroc(probabilities, labels)[0]
    above = scores[labels == 1][:, None] > scores[labels == 0]
    variance = above.mean(axis=1).var(ddof=1) / 150 + above.mean(axis=0).var(ddof=1) / 150
    assert drawn.std() == pytest.approx(np.sqrt(variance), rel=0.1)
    assert drawn.mean() == pytest.approx(auc, abs=0.005)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="3 cases with 2 probabilities need as many labels from 0 to 1"):
        macro_auroc(np.ones((3, 2)), np.array([0, 1, 2]))
