"""One mean per entry and metric in the whole report, by hand from the rows: groups, folds, absent rows, ties."""

from __future__ import annotations

import csv
import html
import json
import re

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from medmixers.study.comparison import compare
from medmixers.study.report import drawing, tables
from medmixers.study.report.costs import Cost
from medmixers.study.report.folder import read_folder, share_of_tests
from medmixers.study.report.page import write_report
from medmixers.study.report.ranking_figures import rank_blobs
from medmixers.study.report.words import answer
from medmixers.study.sharing.pack import pack_study
from medmixers.study.table import read_scores

CASES, SEEDS, FOLDS = 20, 3, 5
GROUP_OF = [f"g{min(case, 16)}" for case in range(CASES)]  # g16 has four cases
ENTRIES = ("cold", "other", "warm")
CLASSES = ("core", "whole")
COLUMNS = ["dataset", "entry", "seed", "fold", "case", "group", "class", "metric", "value"]


def parts():
    """Five folds of which the study runs the first three; a group lies in one of them."""
    tests = [[f"c{case:02d}" for case in range(CASES) if min(case, 16) % FOLDS == fold] for fold in range(FOLDS)]
    every = sorted(case for own in tests for case in own)
    rest = [[case for case in every if case not in own] for own in tests]
    return {
        str(fold): {"training": rest[fold][2:], "validation": rest[fold][:2], "test": tests[fold]} for fold in range(3)
    }


def plan_of(kind, folds):
    cases = {f"c{n:02d}": {"image": ["none.nii"], "truth": "", "group": GROUP_OF[n]} for n in range(CASES)}
    classes = {"core": 1, "whole": 2} if kind == "segmentation" else {"no": 0, "yes": 1}
    data = {"name": "d", "kind": kind, "classes": classes, "cases": cases, "test": list(cases), "fingerprint": "f",
            "parts": parts() if folds else {"test": {"training": [], "validation": [], "test": list(cases)}},
            "metric": "dice" if kind == "segmentation" else "auroc"}  # fmt: skip
    runs = [
        {"id": f"{entry}{seed}{fold}", "dataset": "d", "entry": entry, "seed": seed, "fold": fold,
         "cases": list(cases) if fold is None else data["parts"][str(fold)]["test"]}
        for entry in ENTRIES for seed in range(SEEDS) for fold in (range(3) if folds else [None])
    ]  # fmt: skip
    entries = [{"name": name, "network": "n", "pretrained": name == "warm"} for name in ENTRIES]
    entries[1]["network"] = "m"
    question = {"metric": data["metric"], "margin": 0.02, "alpha": 0.05, "control": None}
    return {"study": "s", "question": question, "datasets": [data], "entries": entries, "runs": runs}


def write(folder, plan, values):
    """values: (run, case) -> rows of class, metric and value, or the probability of "yes"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    for run in plan["runs"]:
        home = folder / "runs" / run["id"]
        home.mkdir(parents=True)
        fold = "" if run["fold"] is None else run["fold"]
        table, chances = [COLUMNS], [["case", "truth", "no", "yes"]]
        for case in run["cases"]:
            found = values(run, case)
            if isinstance(found, float):
                chances.append([case, ("no", "yes")[truth(case)], 1 - found, found])
                found = [["", "accuracy", float((found > 0.5) == truth(case))]]
            group = GROUP_OF[int(case[1:])]
            table += [["d", run["entry"], run["seed"], fold, case, group, *each] for each in found]
        for name, rows in (("scores.csv", table), ("probabilities.csv", chances)):
            if len(rows) > 1:
                with (home / name).open("w", newline="") as out:
                    csv.writer(out).writerows(rows)
    write_report(folder)
    return {name: list(csv.DictReader((folder / "report" / name).open())) for name in
            ("ranking.csv", "metrics.csv", "tests.csv")}  # fmt: skip


def truth(case):
    return int(case[1:]) % 2


def dices():
    """(entry, seed, case, class) of Dice; the large group is easy, and c03 has no core."""
    rng = np.random.default_rng(5)
    values = rng.normal(0.7, 0.05, (3, SEEDS, CASES, 2)) + 0.02 * np.arange(3)[:, None, None, None]
    values[:, :, 16:] += 0.2
    values[:, :, 3, 0] = np.nan
    return values


def segmentation(folder, *, folds=False, lacking=()):
    values = dices()

    def rows(run, case):
        if (run["id"], case) in lacking:
            return []
        own = values[ENTRIES.index(run["entry"]), run["seed"], int(case[1:])]
        shown = ["" if np.isnan(value) else value for value in own]
        return [[name, metric, value] for metric in ("dice", "nsd") for name, value in zip(CLASSES, shown, strict=True)]

    return values, write(folder, plan_of("segmentation", folds), rows)


def by_group(values, left_out=()):
    """(..., cases) -> (..., groups), without those left out."""
    kept = [name for name in dict.fromkeys(GROUP_OF) if name not in left_out]
    own = [[n for n in range(CASES) if GROUP_OF[n] == name] for name in kept]
    return np.stack([np.nanmean(values[..., cases], axis=-1) for cases in own], axis=-1)


def means_in(rows, metric):
    return {row["entry"]: float(row["mean"]) for row in rows if row["metric"] == metric}


def words_of(folder):
    return html.unescape((folder / "report" / "report.html").read_text())


def test_groups_and_left_out_cases_count_alike_in_every_table_and_figure(tmp_path):
    """c05 lacks its rows in one training, so it is left out of all."""
    values, tables = segmentation(tmp_path, lacking={("other1None", "c05")})
    seeds = by_group(np.nanmean(values, axis=3), {"g5"}).mean(axis=2)
    expected = dict(zip(ENTRIES, seeds.mean(axis=1), strict=True))
    assert means_in(tables["ranking.csv"], "dice") == pytest.approx(expected)
    assert means_in(tables["metrics.csv"], "dice") == pytest.approx(expected)
    assert means_in(tables["metrics.csv"], "nsd") == pytest.approx(expected)
    assert {row["cases"] for row in tables["metrics.csv"]} == {"16"}
    text = words_of(tmp_path)
    gain = expected["warm"] - expected["cold"]
    assert f"warm minus cold: {gain:+.4f}" in text
    for row in seeds:
        assert f"{row.min():.4f} to {row.max():.4f}" in text
    study = read_folder(tmp_path)
    for place, name in enumerate(CLASSES):
        absent = {"g5"} | ({"g3"} if name == "core" else set())
        own = by_group(np.nan_to_num(values[..., place], nan=0), absent).mean(axis=(1, 2))
        for entry, value in zip(ENTRIES, own, strict=True):
            assert study.class_means["d", "dice", entry, name] == pytest.approx(value)
            assert f"<td>{value:.4f}</td>" in text
    assert "core (n = 15)" in text


def test_three_of_five_folds_have_their_own_dots_and_the_ratio_of_the_plan(tmp_path):
    """c06 lacks its rows in one training."""
    values, tables = segmentation(tmp_path / "study", folds=True, lacking={("other11", "c06")})
    fold_of = np.array([int(name[1:]) % FOLDS for name in dict.fromkeys(GROUP_OF) if name != "g6"])
    groups = by_group(np.nanmean(values, axis=3), {"g6"})[:, :, fold_of < 3]
    fold_of = fold_of[fold_of < 3]
    dots = np.stack([groups[..., fold_of == fold].mean(axis=-1) for fold in range(3)], axis=-1)
    text = words_of(tmp_path / "study")
    assert f"cold {dots[0].min():.4f} to {dots[0].max():.4f}" in text
    differences = (dots[0] - dots[1]).mean(axis=0)
    share = np.mean([len(part["test"]) / (CASES - len(part["test"])) for part in parts().values()])
    pvalue = 2 * t.sf(abs(differences.mean()) / np.sqrt(differences.var(ddof=1) * (1 / 3 + share)), 2)
    assert float(tables["tests.csv"][0]["p_folds"]) == pytest.approx(pvalue)
    assert f"ratio of test to training cases of {share:.3g}" in text
    pack_study(tmp_path / "study", tmp_path / "site.zip")
    packed = json.loads(read_zip(tmp_path / "site.zip", "plan.json"))
    assert share_of_tests(packed["datasets"][0]) == pytest.approx(share)
    assert share_of_tests(plan_of("segmentation", folds=False)["datasets"][0]) is None


def read_zip(file, name):
    from zipfile import ZipFile

    with ZipFile(file) as archive:
        return archive.read(next(each for each in archive.namelist() if each.endswith(name)))


def test_auroc_over_folds_is_one_of_all_cases_everywhere(tmp_path):
    """The folds are shifted against each other, so the mean of their AUROC is another number."""
    rng = np.random.default_rng(2)
    found = {}

    def chance(run, case):
        logit = rng.normal(truth(case), 1) + run["fold"]
        found.setdefault((run["entry"], run["seed"]), []).append(
            (truth(case), value := float(1 / (1 + np.exp(-logit))))
        )
        return value

    tables = write(tmp_path, plan_of("classification", folds=True), chance)
    seeds = {
        entry: np.array([roc_auc_score(*zip(*found[entry, seed], strict=True)) for seed in range(SEEDS)])
        for entry in ENTRIES
    }
    expected = {entry: own.mean() for entry, own in seeds.items()}
    assert means_in(tables["ranking.csv"], "auroc") == pytest.approx(expected)
    assert means_in(tables["metrics.csv"], "auroc") == pytest.approx(expected)
    text = words_of(tmp_path)
    for entry, own in seeds.items():
        assert f"{entry} {own.min():.4f} to {own.max():.4f}" in text
        classes = re.search(rf'<th scope="row">{entry}</th>\s*<td>{expected[entry]:.4f}</td>\s*<td>(\S+)</td>', text)
        assert classes is not None
        assert classes[1] == f"{expected[entry]:.4f}"  # of two classes, both have the same AUROC
    assert f"warm minus cold: {expected['warm'] - expected['cold']:+.4f}" in text


def test_entries_that_tie_are_no_winner(tmp_path):
    values = np.random.default_rng(3).normal(0.7, 0.05, (CASES, 1)) + np.random.default_rng(4).normal(0, 0.001, SEEDS)
    rows = [
        f"{entry},{seed},{case},{value - 0.2 * (entry == 'other')}"
        for entry in ENTRIES
        for (case, seed), value in np.ndenumerate(values)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["entry,seed,case,value", *rows]))
    (scores,) = read_scores(tmp_path / "t.csv")
    comparison = compare(scores, margin=0.02)
    says = answer(comparison)
    assert says.startswith("No entry is first: cold and warm tie by mean")
    assert "cold is equivalent to warm within the margin of 0.02; difference +0.0000" in says
    with drawing.styled():
        assert "2 entries tie; their ranks lie between 1 and 2" in rank_blobs(comparison, tmp_path, "d").alt
    costs = dict.fromkeys(ENTRIES, Cost(1e6, None, None, None, None, ""))
    assert [row[:2] for row in tables.ranking(comparison, costs, "d").rows] == [
        ("cold", "1.5"),
        ("warm", "1.5"),
        ("other", "3"),
    ]
    against = answer(compare(scores, margin=0.02, control="warm"))
    assert "it is the control" not in against
    assert answer(compare(scores, margin=0.02, control="other")).count("cold is better than other") == 1
