"""From a table of scores to verdicts: simulated entries whose true differences are known."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, t

from medmixers.cli.main import main
from medmixers.errors import InputError, MissingFileError
from medmixers.study.comparison import compare, share_of_folds
from medmixers.study.overall import over_datasets
from medmixers.study.probabilities import read_any_table
from medmixers.study.statistics import corrected_t_pvalue, holm, retrained_difference
from medmixers.study.summary import as_text, write_csv
from medmixers.study.table import read_scores

EFFECTS = {"pooling": 0.0, "same": 0.0, "good": 0.1, "bad": -0.1}


def write_table(file, *, seeds=3, cases=40, effects=EFFECTS, sign=1.0, dataset="brain", spread=0.004, metric="dice"):
    rng = np.random.default_rng(0)
    easy = rng.normal(0.7, 0.08, cases)
    rows = []
    for entry, effect in effects.items():
        for seed in range(seeds):
            noise = rng.normal(0, spread / 4) + rng.normal(0, spread, cases)
            rows += [
                [entry, seed, f"case{c}", f"p{c // 2}", metric, dataset, 0.5 + sign * (value - 0.5)]
                for c, value in enumerate(easy + effect + noise)
            ]
    with file.open("a" if file.exists() else "w", newline="") as out:
        writer = csv.writer(out)
        if out.tell() == 0:
            writer.writerow(["entry", "seed", "case", "group", "metric", "dataset", "value"])
        writer.writerows(rows)
    return file


def verdicts(comparison):
    return {(pair.first, pair.second): pair.verdict for pair in comparison.pairs}


def test_known_differences_get_their_verdicts(tmp_path):
    (scores,) = read_scores(write_table(tmp_path / "t.csv"))
    result = compare(scores, margin=0.01)
    assert result.cases == 20  # groups of two
    assert (result.ranking[0].entry, result.ranking[-1].entry) == ("good", "bad")
    assert verdicts(result) == {
        ("bad", "good"): "worse",
        ("bad", "pooling"): "worse",
        ("bad", "same"): "worse",
        ("good", "pooling"): "better",
        ("good", "same"): "better",
        ("pooling", "same"): "equivalent",
    }
    assert result.stability.kendall_tau > 0.6
    assert result.discriminability > 10
    good = next(row for row in result.ranking if row.entry == "good")
    assert (good.points, good.rank_low, good.rank_high) == (3, 1, 1)


def test_a_pair_is_what_the_statistics_give_on_its_groups(tmp_path):
    (scores,) = read_scores(write_table(tmp_path / "t.csv"))
    pair = next(p for p in compare(scores, margin=0.01).pairs if {p.first, p.second} == {"good", "pooling"})
    good, pooling = (scores.values[scores.entries.index(name)] for name in ("good", "pooling"))
    names = [f"p{n}" for n in range(20)]
    order = [[i for i, case in enumerate(scores.cases) if f"p{int(case[4:]) // 2}" == name] for name in names]
    by_group = [np.stack([each[:, cases].mean(axis=1) for cases in order], axis=1) for each in (good, pooling)]
    expected = retrained_difference(*by_group)
    assert pair.retrained.mean == pytest.approx(expected.mean)
    assert pair.retrained.error == pytest.approx(expected.error)


def test_a_control_is_compared_with_every_other_entry(tmp_path):
    (scores,) = read_scores(write_table(tmp_path / "t.csv"))
    result = compare(scores, margin=0.01, control="pooling")
    assert verdicts(result) == {
        ("bad", "pooling"): "worse",
        ("good", "pooling"): "better",
        ("same", "pooling"): "equivalent",
    }
    with pytest.raises(InputError, match="unknown control 'poling'; valid: pooling, bad"):
        compare(scores, margin=0.01, control="poling")


def test_spaces_and_empty_rows_change_nothing(tmp_path):
    """A space after hd95 would turn the ranking."""
    file = write_table(tmp_path / "t.csv", metric="hd95")
    spaced = file.read_text().replace(",", " , ").replace("\n", " \n , , \n")
    (tmp_path / "u.csv").write_text(spaced, encoding="utf-8-sig")
    (before,), (after,) = read_scores(file), read_scores(tmp_path / "u.csv")
    assert (after.metric, after.lower_is_better, after.entries) == ("hd95", True, before.entries)
    np.testing.assert_array_equal(after.values, before.values)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_of_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "t.csv").write_text("entry,seed,case,value\né,0,c,1\n", encoding=encoding)
    with pytest.raises(InputError, match=r"t\.csv is not UTF-8 text"):
        read_any_table(tmp_path / "t.csv", None)


def test_the_direction_is_said_and_can_be_given(tmp_path):
    file = write_table(tmp_path / "t.csv", sign=-1.0, metric="landmark_error")
    texts = [
        as_text([compare(read_any_table(file, None, smaller_is_better=smaller)[0], margin=0.01)])
        for smaller in (False, True)
    ]
    assert [text.splitlines()[0].rpartition("; ")[2] for text in texts] == ["larger is better", "smaller is better"]
    best, worst = (max(EFFECTS, key=EFFECTS.get), min(EFFECTS, key=EFFECTS.get))
    assert [text.splitlines()[3].split()[4] for text in texts] == [worst, best]


def test_lower_is_better_turns_the_order(tmp_path):
    (scores,) = read_scores(write_table(tmp_path / "t.csv", sign=-1.0, metric="hd95"))
    result = compare(scores, margin=0.01)
    assert scores.lower_is_better
    assert result.ranking[0].entry == "good"
    assert result.ranking[0].mean < result.ranking[-1].mean
    assert verdicts(result)["good", "pooling"] == "better"


def test_one_seed_is_underpowered(tmp_path):
    (scores,) = read_scores(write_table(tmp_path / "t.csv", seeds=1))
    result = compare(scores, margin=0.01)
    assert set(verdicts(result).values()) == {"underpowered"}
    assert all(pair.retrained is None for pair in result.pairs)
    assert "fewer than 3 seeds: they cannot tell whether a mixer matters" in as_text([result])


def test_cases_without_a_score_are_left_out_and_counted(tmp_path):
    file = write_table(tmp_path / "t.csv")
    lines = file.read_text().splitlines()
    lines[1] = lines[1].rpartition(",")[0] + ",nan"
    lines[2] = lines[2].rpartition(",")[0] + ","
    file.write_text("\n".join(lines))
    result = compare(read_scores(file)[0], margin=0.01)
    assert (result.cases, result.left_out) == (19, 1)
    assert "19 groups, 1 left out" in as_text([result])


def test_text_and_csv_say_the_same(tmp_path):
    file = write_table(tmp_path / "t.csv")
    write_table(file, dataset="heart")
    comparisons = [compare(scores, margin=0.01) for scores in read_scores(file)]
    text = as_text(comparisons)
    assert "brain, dice: 20 groups; 3 seed(s) per entry" in text
    assert "over data sets, dice, rank scores as in Keuth et al. 2025" in text
    ranking, tests, overall = write_csv(comparisons, tmp_path / "out")
    rows = list(csv.DictReader(tests.open()))
    assert len(rows) == 2 * 6
    for row in rows:
        assert f"{float(row['difference']):+.4f}" in text
        assert row["verdict"] in text
    assert {row["entry"] for row in csv.DictReader(ranking.open())} == set(EFFECTS)
    assert {row["datasets"] for row in csv.DictReader(overall.open())} == {"2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entry,seed,case\n", "lacks the column value; it has entry, seed, case"),
        ("entry,seed,case,value\n", "holds no row"),
        ("entry,seed,case,value\na,0,c,x\n", "line 2: value must be a number, got 'x'"),
        ("entry,seed,case,value\na,0,c,inf\n", "line 2: value must be finite"),
        ("entry,seed,case,value\na,0,c,1\na,0,c,1\n", "line 3: the score of a, seed 0, case c is in line 2 too"),
        ("entry,seed,case,value,group\na,0,c,1,g\na,1,c,1,h\n", "line 3: case c is in the groups g and h"),
        ("entry,seed,case,value\na,,c,1\n", "line 2: entry, seed and case must not be empty"),
        ("entry,seed,case,value\na,0,c,0,85\n", "line 2 has 5 values for 4 columns; write decimals with a point"),
        ("entry,seed,case,value\na,0,c\n", "line 2 has 3 values for 4 columns"),
        ("entry,seed,case,value,value\na,0,c,1,2\n", "has the column 'value' 2 times"),
        ("entry;seed;case;value\na;0;c;0,85\n", "columns are separated by commas, not ';', and decimals by a point"),
        ('entry,seed,case,value\na,0,c,"0,85"\n', "line 2: value must be a number, got '0,85'"),
    ],
)
def test_a_bad_table_is_refused_by_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / "t.csv")
    with pytest.raises(MissingFileError):
        read_scores(tmp_path / "none.csv")


def test_a_missing_seed_costs_the_pairs_of_its_entry_only(tmp_path):
    file = write_table(tmp_path / "t.csv")
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("bad,2,")))
    result = compare(read_scores(file)[0], margin=0.01)
    assert {pair.verdict for pair in result.pairs if "bad" in (pair.first, pair.second)} == {"underpowered"}
    known = [pair for pair in result.pairs if "bad" not in (pair.first, pair.second)]
    assert {pair.verdict for pair in known} == {"better", "equivalent"}
    pvalues = np.array([pair.retrained.pvalue() for pair in known])
    np.testing.assert_allclose([pair.retrained_pvalue for pair in known], holm(pvalues))
    margins = np.array([pair.retrained.equivalence_pvalue(0.01) for pair in known])
    np.testing.assert_allclose([pair.equivalence_pvalue for pair in known], holm(margins))
    assert known[0].detectable == known[0].retrained.detectable(0.05 / 3)


def test_folds_that_part_the_cases_give_the_p_value_of_nadeau_and_bengio(tmp_path):
    file = write_table(tmp_path / "t.csv")
    rows = list(csv.DictReader(file.open()))
    fold = [{**row, "fold": int(row["group"][1:]) % 5} for row in rows]
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, fold[0])
        writer.writeheader()
        writer.writerows(fold)
    (scores,) = read_scores(file)
    pair = compare(scores, margin=0.01).pairs[0]  # bad, good
    means = {
        name: [np.mean([float(r["value"]) for r in fold if r["entry"] == name and r["fold"] == k]) for k in range(5)]
        for name in ("bad", "good")
    }
    expected = corrected_t_pvalue(np.subtract(means["bad"], means["good"]), test_share=0.25)
    assert pair.fold_pvalue == pytest.approx(expected)
    assert 0 < pair.fold_pvalue < 0.05
    same = write_table(tmp_path / "u.csv")
    assert compare(read_scores(same)[0], margin=0.01).pairs[0].fold_pvalue is None


def test_six_data_sets_have_friedmans_test_and_fewer_do_not(tmp_path):
    file = tmp_path / "t.csv"
    for number in range(6):
        write_table(file, dataset=f"set{number}", cases=16)
    comparisons = [compare(scores, margin=0.01) for scores in read_scores(file)]
    (overall,) = over_datasets(comparisons)
    means = [{row.entry: row.mean for row in each.ranking} for each in comparisons]
    expected = friedmanchisquare(*([own[entry] for own in means] for entry in overall.entries))
    assert overall.friedman.pvalue == pytest.approx(expected.pvalue)
    assert overall.rows[0].entry == "good"
    assert overall.rows[0].low <= overall.rows[0].by_mean <= overall.rows[0].high
    assert "critical difference (Nemenyi)" in as_text(comparisons)
    assert over_datasets(comparisons[:5])[0].friedman is None
    assert over_datasets(comparisons[:1]) == []


def test_a_table_of_two_metrics_asks_which(tmp_path):
    file = write_table(tmp_path / "t.csv")
    write_table(file, metric="hd95")
    with pytest.raises(InputError, match="holds dice, hd95; the margin is in the units of one: choose it by --metric"):
        read_any_table(file, None)
    assert [each.metric for each in read_any_table(file, "hd95")] == ["hd95"]
    with pytest.raises(InputError, match="has no metric 'dic'; valid: dice"):
        read_any_table(file, "dic")


def test_values_of_all_cases_together_are_no_cases(tmp_path):
    file = write_table(tmp_path / "t.csv")
    before = read_scores(file)[0]
    with file.open("a") as out:
        out.write("good,0,*,,auroc,brain,0.9\n")
    after = read_scores(file)
    assert [each.metric for each in after] == ["dice"]
    assert after[0].cases == before.cases
    file.write_text("entry,seed,case,value\na,0,*,1\n")
    with pytest.raises(InputError, match="values of all cases together only"):
        read_scores(file)


def table_of(file, scores, absent=(), empty=()):
    """Entry -> (seeds, cases, classes); rows that are absent or empty as (entry, seed, case, class)."""
    lines = ["entry,seed,case,class,group,value"]
    for entry, values in scores.items():
        for (seed, case, name), value in np.ndenumerate(values):
            if (entry, seed, case, name) not in absent:
                shown = "" if (entry, seed, case, name) in empty else value
                lines.append(f"{entry},{seed},c{case},k{name},g{case // 2},{shown}")
    file.write_text("\n".join(lines))
    return compare(read_scores(file)[0], margin=0.01)


def equal_entries(cases=20):
    """The second class is harder."""
    rng = np.random.default_rng(0)
    return {name: rng.normal([0.9, 0.5], 0.01, (3, cases, 2)) for name in ("a", "b")}


@pytest.mark.parametrize("seeds", [(0, 1, 2), (1,)])
def test_a_case_that_lacks_a_row_is_left_out_of_all_entries_with_its_group(tmp_path, seeds):
    """A hard class that one entry or one training lacks would raise its mean; an empty value is another thing."""
    scores = equal_entries()
    lacking = [("b", seed, case, 1) for seed in seeds for case in range(6)]
    result = table_of(tmp_path / "t.csv", scores, absent=lacking)
    assert (result.cases, result.left_out, result.pairs[0].verdict) == (7, 3, "equivalent")
    means = {row.entry: row.mean for row in result.ranking}
    for entry, values in scores.items():
        assert means[entry] == pytest.approx(values[:, 6:].mean())
    one = table_of(tmp_path / "t.csv", scores, absent=[("b", 0, 5, 0), ("b", 0, 5, 1)])
    assert (one.cases, one.left_out) == (9, 1)


def test_an_empty_value_is_left_out_of_the_mean_of_its_case(tmp_path):
    scores = equal_entries()
    empty = [(entry, seed, 4, 1) for entry in scores for seed in range(3)]
    result = table_of(tmp_path / "t.csv", scores, empty=empty)
    assert (result.cases, result.left_out) == (10, 0)
    for row in result.ranking:
        values = scores[row.entry].copy()
        values[:, 4, 1] = np.nan
        cases = np.nanmean(values, axis=2).reshape(3, 10, 2).mean(axis=2)
        assert row.mean == pytest.approx(cases.mean())


def test_entries_without_a_common_case_are_refused_in_one_line(tmp_path):
    lacking = [("b", seed, case, 1) for seed in range(3) for case in range(20)]
    with pytest.raises(InputError, match=r"got 0 of 10; every training needs the same rows, of c0 some have fewer"):
        table_of(tmp_path / "t.csv", equal_entries(), absent=lacking)


def test_seeds_may_split_the_cases_into_other_folds(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        f"{entry},{seed},c{case},{(case + seed) % 5},{rng.normal(0.8, 0.02)}"
        for entry in "ab"
        for seed in range(3)
        for case in range(20)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["entry,seed,case,fold,value", *lines]))
    result = compare(read_scores(tmp_path / "t.csv")[0], margin=0.01)
    assert (result.cases, result.left_out, result.test_share) == (20, 0, None)


def in_folds(file, folds):
    """Two entries; of five folds with 8 cases each, these. Returns the differences of the folds."""
    rng = np.random.default_rng(7)
    values = rng.normal([[[[0.8]]], [[[0.78]]]], 0.03, (2, 3, 5, 8))  # entry, seed, fold, case
    lines = [
        f"{'ab'[entry]},{seed},c{fold}{case},{fold},{value}"
        for (entry, seed, fold, case), value in np.ndenumerate(values)
        if fold in folds
    ]
    file.write_text("\n".join(["entry,seed,case,fold,value", *lines]))
    return (values[0] - values[1]).mean(axis=(0, 2))[list(folds)]


def by_hand(differences, share):
    count = len(differences)
    error = np.sqrt(differences.var(ddof=1) * (1 / count + share))
    return 2 * t.sf(abs(differences.mean()) / error, count - 1)


def test_the_number_of_folds_is_that_of_the_split_not_of_the_table(tmp_path, capsys):
    file = tmp_path / "t.csv"
    differences = in_folds(file, [0, 1, 2])
    arguments = ["study", "rank", str(file), "--margin", "0.01", "--out", str(tmp_path / "out")]
    for extra, share in (([], 1 / 2), (["--folds", "5"], 1 / 4)):
        main([*arguments, *extra])
        (row,) = csv.DictReader((tmp_path / "out" / "tests.csv").open())
        assert float(row["p_folds"]) == pytest.approx(by_hand(differences, share))
        assert f"test cases / training cases of a fold are {share}" in capsys.readouterr().out
    (scores,) = read_scores(file)
    with pytest.raises(InputError, match="folds must be at least 3, the folds in the table, got 2"):
        share_of_folds(scores, 2)
    with pytest.raises(InputError, match="folds must be left out: brain has no score per case"):
        share_of_folds(read_scores(write_table(tmp_path / "u.csv"))[0], 5)


def test_a_fold_that_one_training_lacks_is_no_smaller_split(tmp_path):
    file = tmp_path / "t.csv"
    differences = in_folds(file, range(5))
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("b,1,c4")))
    result = compare(read_scores(file)[0], margin=0.01)
    assert (result.cases, result.left_out, result.test_share) == (32, 8, 0.25)
    assert result.pairs[0].fold_pvalue == pytest.approx(by_hand(differences[:4], 0.25))


def test_five_cases_have_no_interval_of_95_percent(tmp_path):
    file = write_table(tmp_path / "t.csv", seeds=1, cases=10)
    comparison = compare(read_scores(file)[0], margin=0.01)
    text = as_text([comparison])
    pairs = [line.split() for line in text.splitlines() if line.endswith("  underpowered")]
    assert [words[4] for words in pairs] == ["-"] * 6
    assert "-: 5 groups are too few for a 95 % interval of the signed-rank test." in text
    write_csv([comparison], tmp_path)
    assert {row["shift_low"] for row in csv.DictReader((tmp_path / "tests.csv").open())} == {""}


def test_entries_that_never_differ_have_no_nan_in_the_text(tmp_path):
    file = tmp_path / "t.csv"
    rows = [f"{entry},{seed},c{case},{0.7 + case / 100}" for entry in "ab" for seed in range(3) for case in range(8)]
    file.write_text("\n".join(["entry,seed,case,value", *rows]))
    comparison = compare(read_scores(file)[0], margin=0.01)
    text = as_text([comparison])
    assert "nan" not in text
    assert "inf" not in text
    assert [row.rank for row in comparison.ranking] == [1.5, 1.5]
    assert (comparison.pairs[0].retrained_pvalue, comparison.pairs[0].verdict) == (1, "equivalent")
