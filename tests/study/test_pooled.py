"""Metrics of all cases on bootstrap draws, against scikit-learn on the drawn cases; the verdict's error rate."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from medmixers.cli.main import main
from medmixers.errors import InputError
from medmixers.study.comparison import compare
from medmixers.study.evidence import PooledEvidence
from medmixers.study.pooled import POOLED, draw_counts
from medmixers.study.probabilities import PooledScores, read_any_table

CASES, CLASSES = 60, 3


def by_scikit_learn(metric, values, labels):
    present = sorted(set(labels.tolist()))
    called = values.argmax(axis=1)
    if metric == "average_precision":
        return np.mean([metrics.average_precision_score(labels == c, values[:, c]) for c in present])
    if metric == "balanced_accuracy":
        return metrics.recall_score(labels, called, labels=present, average="macro")
    return metrics.f1_score(labels, called, labels=present, average="macro", zero_division=0)


@pytest.mark.parametrize("metric", ["average_precision", "balanced_accuracy", "f1"])
def test_every_draw_is_what_scikit_learn_gives(metric):
    rng = np.random.default_rng(1)
    labels = np.append(rng.integers(0, 2, CASES - 2), [2, 2])  # a draw may miss the third class
    values = np.round(rng.dirichlet(np.ones(CLASSES), CASES), 1)
    (counts,) = draw_counts(np.arange(CASES), 40, rng)
    assert (counts[:, -2:].sum(axis=1) == 0).any()
    for row, value in zip(counts.astype(int), POOLED[metric](values, labels, counts), strict=True):
        drawn = np.repeat(np.arange(CASES), row)
        assert value == pytest.approx(by_scikit_learn(metric, values[drawn], labels[drawn]))


def test_the_calibration_error_of_a_draw_is_that_of_its_cases():
    rng = np.random.default_rng(2)
    labels, values = rng.integers(0, CLASSES, CASES), rng.dirichlet(np.ones(CLASSES), CASES)
    (counts,) = draw_counts(np.arange(CASES), 5, rng)
    for row, value in zip(counts.astype(int), POOLED["ece"](values, labels, counts), strict=True):
        drawn = np.repeat(np.arange(CASES), row)
        assert value == pytest.approx(POOLED["ece"](values[drawn], labels[drawn], np.ones((1, CASES)))[0])


def pooled(effects, *, seeds=3, cases=150, seed=0, spread=0.0, metric="auroc"):
    """Two-class probabilities of entries whose logits separate the classes by 1 + effect + a seed's own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(cases) % 2
    easy = rng.normal(size=cases)
    entries = []
    for effect in effects:
        shifts = 1 + effect + rng.normal(0, spread, seeds)
        logits = easy + shifts[:, None] * labels + rng.normal(0, 0.4, (seeds, cases))
        positive = 1 / (1 + np.exp(-logits))
        entries.append(np.stack([1 - positive, positive], axis=-1))
    names = tuple(f"e{i}" for i in range(len(effects)))
    own = tuple(tuple(map(str, range(seeds))) for _ in effects)
    all_cases = tuple(f"c{i:03d}" for i in range(cases))
    return PooledScores("d", metric, names, own, all_cases, np.arange(cases), labels, ("n", "p"), tuple(entries))


def test_known_differences_of_auroc_get_their_verdicts():
    result = compare(pooled([0, 0, 2], cases=300), margin=0.08)
    found = {(pair.first, pair.second): pair.verdict for pair in result.pairs}
    assert found == {("e0", "e1"): "equivalent", ("e0", "e2"): "worse", ("e1", "e2"): "worse"}
    assert result.correction == "max-T"
    assert result.ranking[0].entry == "e2"
    scores = result.scores
    by_hand = np.mean([metrics.roc_auc_score(scores.labels, model[:, 1]) for model in scores.probabilities[2]])
    assert result.ranking[0].mean == pytest.approx(by_hand)
    assert result.ranking[0].points == 2
    for pair in result.pairs:  # simultaneous bands agree with their p values
        assert (pair.shift.low > 0 or pair.shift.high < 0) == (pair.shift_pvalue < 0.05)


def test_equal_entries_are_seldom_called_different(monkeypatch):
    """200 studies of equal mixers whose trainings differ: near 5 %, where trained models differ more often."""
    monkeypatch.setattr("medmixers.study.evidence.POOLED_DRAWS", 256)
    again, models = 0, 0
    for seed in range(200):
        evidence = PooledEvidence(pooled([0, 0], cases=80, seed=seed, spread=0.35), seed=0)
        again += evidence.retrained(0, 1).pvalue() < 0.05
        models += evidence.shifts([(0, 1)], 0.05)[1][0] < 0.05
    assert again / 200 <= 0.09
    assert models > 1.5 * again


def test_lower_is_better_turns_the_calibration_error():
    result = compare(pooled([0, 3], metric="ece"), margin=0.01)
    assert result.ranking[0].mean < result.ranking[1].mean


def write(file, scores, fold=""):
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["entry", "seed", "fold", "case", "truth", *scores.classes])
        for entry, own in zip(scores.entries, scores.probabilities, strict=True):
            for seed, model in enumerate(own):
                for case, label, row in zip(scores.cases, scores.labels, model, strict=True):
                    writer.writerow([entry, seed, fold, case, scores.classes[label], *row])
    return file


def test_rank_takes_a_table_of_probabilities(tmp_path, capsys):
    scores = pooled([0, 2], cases=40)
    file = write(tmp_path / "p.csv", scores)
    (read,) = read_any_table(file, None)
    np.testing.assert_allclose(read.probabilities, scores.probabilities)
    assert (read.metric, read.classes, read.left_out) == ("auroc", ("n", "p"), 0)
    main(["study", "rank", str(file), "--margin", "0.01", "--metric", "f1", "--out", str(tmp_path / "out")])
    assert "f1: 40 cases; 3 seed(s) per entry" in capsys.readouterr().out
    (row,) = csv.DictReader((tmp_path / "out" / "tests.csv").open())
    assert row["shift_correction"] == "max-T"
    with pytest.raises(InputError, match="unknown metric 'auc' of probabilities; valid: auroc"):
        read_any_table(file, "auc")


def test_a_case_that_a_training_lacks_is_left_out_and_counted(tmp_path):
    file = write(tmp_path / "p.csv", pooled([0, 2], cases=40))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]))
    (read,) = read_any_table(file, None)
    assert (len(read.cases), read.left_out) == (39, 1)
    file.write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(InputError, match="line 242: e1, seed 2 has case c039 before"):
        read_any_table(file, None)


def test_a_group_that_a_training_lacks_in_part_is_left_out_in_whole(tmp_path):
    file = write(tmp_path / "p.csv", pooled([0, 2], cases=40))
    lines = file.read_text().splitlines()
    grouped = [f"{lines[0]},group", *(f"{line},g{int(line.split(',')[3][1:]) // 4}" for line in lines[1:-1])]
    file.write_text("\n".join(grouped))
    (read,) = read_any_table(file, None)
    assert (len(read.cases), read.left_out) == (36, 1)
    assert compare(read, margin=0.1).cases == 9


def test_equal_predictions_are_equal_in_any_order_of_the_seeds():
    scores = pooled([0, 2], cases=40)
    model = scores.probabilities[0]
    result = compare(replace(scores, probabilities=(model, model[::-1])), margin=0.01)
    (pair,) = result.pairs
    assert (pair.shift.estimate, pair.shift_pvalue, pair.shift.direction, pair.retrained.mean) == (0, 1, 0, 0)
    assert (pair.probabilities.better, pair.probabilities.worse) == (0, 0)
    assert [row.rank for row in result.ranking] == [1.5, 1.5]
