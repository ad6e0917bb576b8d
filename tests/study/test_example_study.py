"""The committed example study: its tests and verdicts derived again by hand from its scores."""

from __future__ import annotations

import csv
import html
import itertools
import re

import numpy as np
import pytest
import yaml
from scipy import stats

from house import ROOT

FOLDER = ROOT / "plugin" / "medmixers" / "results" / "example_study"
ALPHA = 0.05


def rows(name):
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def margin():
    return yaml.safe_load((FOLDER / "brain_tissue.yaml").read_text())["question"]["margin"]


@pytest.fixture(scope="module")
def scores():
    """Entry -> Dice, (seeds, cases): the mean over both tissues."""
    table = {}
    for row in rows("scores.csv"):
        if row["metric"] == "dice":
            table.setdefault((row["entry"], row["seed"], row["case"]), []).append(float(row["value"]))
    entries, seeds, cases = (sorted({key[place] for key in table}) for place in range(3))
    assert len(table) == len(entries) * len(seeds) * len(cases)
    assert {len(values) for values in table.values()} == {2}
    return {
        entry: np.array([[np.mean(table[entry, seed, case]) for case in cases] for seed in seeds]) for entry in entries
    }


@pytest.fixture(scope="module")
def derived(scores):
    """Pair -> difference, standard error, degrees of freedom: Welch and Satterthwaite over cases and seeds."""
    found = {}
    for first, second in itertools.combinations(sorted(scores), 2):
        a, b = scores[first], scores[second]
        cases = np.var(np.mean(a, 0) - np.mean(b, 0), ddof=1) / a.shape[1]
        seeds = [np.var(np.mean(each, 1), ddof=1) / len(each) for each in (a, b)]
        variance = cases + sum(seeds)
        df = variance**2 / (cases**2 / (a.shape[1] - 1) + sum(s**2 / (len(a) - 1) for s in seeds))
        found[first, second] = a.mean() - b.mean(), np.sqrt(variance), df
    return found


def holm(values):
    """Holm's step-down: the k-th smallest p value times the number of those not smaller, made monotone."""
    result, largest = np.empty(len(values)), 0.0
    for done, place in enumerate(np.argsort(values)):
        largest = max(largest, min(1.0, (len(values) - done) * values[place]))
        result[place] = largest
    return result


def test_it_compares_six_entries_over_three_seeds(scores):
    assert len(scores) == 6
    assert {each.shape for each in scores.values()} == {(3, 5)}


def test_every_test_follows_from_the_scores(derived, margin):
    tests = {tuple(sorted((row["first"], row["second"]))): row for row in rows("tests.csv")}
    assert set(tests) == set(derived)
    pvalues = [2 * stats.t.sf(abs(mean) / error, df) for mean, error, df in derived.values()]
    equal = [stats.t.sf((margin - abs(mean)) / error, df) for mean, error, df in derived.values()]
    corrected = zip(holm(pvalues), holm(equal), strict=True)
    for (pair, (mean, error, df)), pvalue, (adjusted, equivalent) in zip(
        derived.items(), pvalues, corrected, strict=True
    ):
        row = tests[pair]
        sign = 1 if row["first"] == pair[0] else -1
        assert float(row["difference"]) == pytest.approx(sign * mean, abs=1e-9)
        assert float(row["df"]) == pytest.approx(df)
        assert float(row["p"]) == pytest.approx(pvalue)
        assert float(row["p_holm"]) == pytest.approx(adjusted)
        assert float(row["p_equivalence_holm"]) == pytest.approx(equivalent)
        reach = stats.t.ppf(1 - ALPHA / 2, df) * error
        assert float(row["high"]) - float(row["low"]) == pytest.approx(2 * reach)
        if equivalent < ALPHA:
            verdict = "equivalent"
        elif adjusted < ALPHA:
            verdict = "better" if sign * mean > 0 else "worse"
        else:
            verdict = "undecided" if float(row["detectable"]) <= margin else "underpowered"
        assert row["verdict"] == verdict, pair


def test_the_trained_models_have_no_interval_of_five_cases(scores):
    """Five cases have no p value below 0.0625, so no interval of 95 % either."""
    text = (FOLDER / "report.html").read_text(encoding="utf-8")
    for row in rows("tests.csv"):
        difference = scores[row["first"]].mean(0) - scores[row["second"]].mean(0)
        assert float(row["shift_p"]) == pytest.approx(stats.wilcoxon(difference, method="exact").pvalue)
        walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(difference, 2)]
        assert float(row["shift"]) == pytest.approx(np.median(walsh), abs=1e-9)
        assert (row["shift_low"], row["shift_high"]) == ("", "")
        name, shift = f"{row['first']} vs {row['second']}", re.escape(f"{float(row['shift']):+.4f}")
        assert re.search(rf"{name}</th>\s*<td>{shift}</td>\s*<td>-</td>", text)


def test_the_detectable_difference_is_found_in_four_of_five_studies(derived):
    """Simulated: a true difference of this size, its error estimated with these degrees of freedom."""
    rng = np.random.default_rng(0)
    row = rows("tests.csv")[0]
    _, error, df = derived[tuple(sorted((row["first"], row["second"])))]
    level = ALPHA / len(derived)  # of the smallest p value
    estimated = error * np.sqrt(rng.chisquare(df, 200_000) / df)
    seen = float(row["detectable"]) + error * rng.normal(size=200_000)
    share = np.mean(np.abs(seen) > stats.t.ppf(1 - level / 2, df) * estimated)
    assert share == pytest.approx(0.8, abs=0.01)


def test_the_page_gives_the_answer_of_the_tables(scores):
    text = html.unescape(re.sub("<[^>]+>", " ", (FOLDER / "report.html").read_text(encoding="utf-8")))
    best = max(scores, key=lambda name: scores[name].mean())
    said = re.search(r"(\S+) ranks first by mean dice \((\d\.\d{4}) ± (\d\.\d{4}) over seeds\)", text)
    assert said is not None
    assert said[1] == best
    assert float(said[2]) == pytest.approx(scores[best].mean(), abs=6e-5)
    assert float(said[3]) == pytest.approx(scores[best].mean(axis=1).std(ddof=1), abs=6e-5)
    assert "n = 5 cases, S = 3 seeds per entry" in text
    assert "/tmp/" not in text
