"""Tests of differences against SciPy, statsmodels and baycomp, and their error rates where entries are equal."""

from __future__ import annotations

import subprocess
import sys

import baycomp
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from medmixers.errors import InputError
from medmixers.study import statistics as s

RNG = np.random.default_rng(0)
FIRST = RNG.normal(0.80, 0.05, 24)
SECOND = FIRST - RNG.normal(0.02, 0.03, 24)


def fixed_seeds(row, seeds=3):
    """The same scores for every seed: no variance between seeds."""
    return np.repeat(row[None], seeds, axis=0)


def test_groups_are_averaged_without_missing_cases():
    scores = np.array([[1.0, 3.0, 5.0, np.nan, np.nan]])
    groups = np.array([0, 0, 1, 1, 2])
    np.testing.assert_array_equal(s.average_groups(scores, groups), [[2.0, 5.0, np.nan]])


def test_holm_is_statsmodels():
    pvalues = RNG.random(40) ** 3
    np.testing.assert_allclose(s.holm(pvalues), multipletests(pvalues, method="holm")[1])


def test_without_variance_between_seeds_q2_is_the_paired_t_test():
    difference = s.retrained_difference(fixed_seeds(FIRST), fixed_seeds(SECOND))
    paired = stats.ttest_rel(FIRST, SECOND)
    assert difference.df == pytest.approx(23)
    assert difference.pvalue() == pytest.approx(paired.pvalue)
    np.testing.assert_allclose(difference.interval(), paired.confidence_interval())
    pvalue = ttost_paired(FIRST, SECOND, -0.03, 0.03)[0]
    assert difference.equivalence_pvalue(0.03) == pytest.approx(pvalue)


def test_the_detectable_difference_is_that_of_statsmodels():
    difference = s.retrained_difference(fixed_seeds(FIRST), fixed_seeds(SECOND))
    effect = TTestPower().solve_power(nobs=24, alpha=0.05, power=0.8, alternative="two-sided")
    assert difference.detectable() == pytest.approx(effect * (FIRST - SECOND).std(ddof=1), rel=1e-4)
    assert s.detectable_difference(0, 3) == 0


def test_the_detectable_difference_holds_its_power_for_few_seeds_and_many_pairs():
    """SciPy's noncentral t is NaN there; by simulation the test finds the difference in 80 %."""
    rng = np.random.default_rng(11)
    for df, alpha in ((2.0, 0.05 / 105), (4.0, 0.01)):
        ratio = s.detectable_difference(1.0, df, alpha=alpha)
        statistic = (rng.normal(size=200_000) + ratio) / np.sqrt(rng.chisquare(df, 200_000) / df)
        assert (np.abs(statistic) > stats.t.ppf(1 - alpha / 2, df)).mean() == pytest.approx(0.8, abs=0.005)


def test_seeds_enter_the_error_and_the_degrees_of_freedom():
    first = FIRST + np.array([[-0.02], [0.0], [0.02]])
    difference = s.retrained_difference(first, fixed_seeds(SECOND))
    by_case, by_seed = (FIRST - SECOND).var(ddof=1) / 24, 0.02**2 / 3
    assert difference.error == pytest.approx(np.sqrt(by_case + by_seed))
    assert difference.df == pytest.approx((by_case + by_seed) ** 2 / (by_case**2 / 23 + by_seed**2 / 2))
    assert difference.seeds == (3, 3)


def test_one_training_per_entry_is_refused():
    with pytest.raises(InputError, match=r"2 seed\(s\) per entry cannot tell whether a mixer matters"):
        s.retrained_difference(fixed_seeds(FIRST, 2), fixed_seeds(SECOND))
    with pytest.raises(InputError, match="of the same cases"):
        s.retrained_difference(fixed_seeds(FIRST), fixed_seeds(SECOND[:5]))
    missing = np.full(24, np.nan)
    with pytest.raises(InputError, match="at least 2 cases"):
        s.retrained_difference(fixed_seeds(FIRST), fixed_seeds(missing))


def test_planned_differences_are_those_measured_for_the_design():
    """Normal approximation of study design: sds .03 and .01, power 80 %."""
    sds = {"residual_sd": 0.03, "seed_sd": 0.01}
    assert s.planned_detectable(cases=20, seeds=1, **sds) == pytest.approx(0.048, abs=5e-4)
    assert s.planned_detectable(cases=500, seeds=1, **sds) == pytest.approx(0.040, abs=5e-4)
    few, many = (s.planned_detectable(cases=500, seeds=seeds, **sds) for seeds in (3, 8))
    assert few > many
    assert many < s.planned_detectable(cases=5000, seeds=3, **sds)  # seeds help, cases do not


@pytest.mark.parametrize(
    ("shift", "spread", "expected"),
    [
        (0.05, 0.005, "better"),
        (-0.05, 0.005, "worse"),
        (0.001, 0.005, "equivalent"),
        (0.009, 0.02, "undecided"),
        (0.01, 0.1, "underpowered"),
    ],
)
def test_the_five_verdicts(shift, spread, expected):
    noise = np.random.default_rng(5).normal(0, spread, 60)
    noise -= noise.mean()
    difference = s.retrained_difference(fixed_seeds(0.8 + shift + noise), fixed_seeds(np.full(60, 0.8)))
    pvalue = difference.pvalue() if expected != "undecided" else 0.2  # as adjusted for many comparisons
    found = s.verdict(
        difference,
        margin=0.01,
        pvalue=pvalue,
        equivalence_pvalue=difference.equivalence_pvalue(0.01),
        alpha=0.05,
        detectable=difference.detectable(),
    )
    assert found == expected


def test_bayesian_signed_rank_is_baycomps():
    """baycomp's first number is the probability that its first argument is better."""
    for margin in (0.005, 0.02, 0.05):
        ours = s.bayesian_signed_rank(FIRST, SECOND, margin=margin)
        theirs = baycomp.SignedRankTest.probs(FIRST, SECOND, rope=margin, nsamples=20_000, random_state=1)
        np.testing.assert_allclose([ours.better, ours.same, ours.worse], theirs, atol=0.02)


def test_the_corrected_variance_is_baycomps():
    differences = np.array([0.01, 0.03, 0.02, -0.01, 0.02])
    posterior = baycomp.CorrelatedTTest.probs(differences, np.zeros(5), rope=0, runs=1)
    pvalue = s.corrected_t_pvalue(differences, test_share=0.25)
    assert pvalue / 2 == pytest.approx(min(posterior), abs=1e-6)
    assert s.corrected_t_pvalue(np.zeros(5), test_share=0.25) == 1


def test_the_noise_of_means_is_no_difference():
    """Entries with equal scores in another order of the seeds: their means differ in the last digit alone."""
    first = np.array([[0.1, 0.7], [0.2, 0.7], [0.3, 0.7]])
    second = first[::-1]
    assert (first.mean(axis=0) != second.mean(axis=0)).any()
    difference = s.retrained_difference(first, second)
    assert (difference.mean, difference.pvalue()) == (0, 1)


def test_a_mean_at_the_margin_is_practically_the_same():
    first, second = np.array([0.85, 0.75, 0.65, 0.95]), np.array([0.84, 0.74, 0.64, 0.94])
    found = s.bayesian_signed_rank(first, second, margin=0.01)
    assert (found.better, found.same, found.worse) == (0, 1, 0)


def test_discriminability():
    seeds = np.array([[-0.01], [0.0], [0.01]]).T
    apart = s.discriminability(np.array([[0.7], [0.8], [0.9]]) + seeds)
    assert apart == pytest.approx(0.1 / 0.01)
    assert s.discriminability(np.full((3, 1), 0.8) + seeds) == 0
    assert s.discriminability(np.array([[0.7, 0.7], [0.8, 0.8]])) == np.inf
    assert s.discriminability(np.array([[0.1 + 0.2, 0.3, 0.3], [0.8, 0.8, 0.8]])) == np.inf
    assert np.isnan(s.discriminability(np.array([[0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 0.3]])))


def test_max_t_bands_hold_all_differences_at_once():
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(200):
        data = rng.normal(size=(40, 6))
        estimates = data.mean(axis=0)
        draws = data[rng.integers(40, size=(400, 40))].mean(axis=1)
        low, high, pvalues = s.max_t_bands(estimates, draws)
        inside += bool(((low < 0) & (high > 0)).all())
        sure = np.abs(pvalues - 0.05) > 3 / 401
        np.testing.assert_array_equal(((low > 0) | (high < 0))[sure], (pvalues < 0.05)[sure])
    assert 0.90 <= inside / 200 <= 0.99


def equal_entries(rng, *, seeds, cases=50):
    """Two entries of the same mixer: sd of cases .08, of seeds .01, of the rest .03."""
    easy = rng.normal(0.8, 0.08, cases)
    return [easy + rng.normal(0, 0.01, (seeds, 1)) + rng.normal(0, 0.03, (seeds, cases)) for _ in range(2)]


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_entries_are_seldom_called_different(seeds):
    """The verdict's false positives are near 5 %; a test over cases of seed-averaged scores calls 4 in 10 different."""
    rng = np.random.default_rng(seeds)
    retrained, cases_only = 0, 0
    repeats = 1000
    for _ in range(repeats):
        first, second = equal_entries(rng, seeds=seeds)
        retrained += s.retrained_difference(first, second).pvalue() < 0.05
        cases_only += stats.wilcoxon(first.mean(axis=0), second.mean(axis=0)).pvalue < 0.05
    assert 0.02 <= retrained / repeats <= 0.09
    assert cases_only / repeats > 0.3


def test_statistics_import_neither_torch_nor_monai():
    code = (
        "import sys, medmixers.study.statistics, medmixers.study.ranking, medmixers.study.auroc;"
        "assert not {'torch', 'monai', 'timm', 'nnunetv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
