"""The report of a paper's study: its published numbers, and the change by pretraining over blocks of entries."""

from __future__ import annotations

import csv
import json
import shutil

import made_study
import pytest

from medmixers.study.comparison import compare
from medmixers.study.report import drawing, tables
from medmixers.study.report.costs import cost_of
from medmixers.study.report.folder import read_folder
from medmixers.study.report.score_figures import uplift

PRINTED = {"paper": "keuth2025", "where": "Table 3", "values": {"identity": "0.9458", "absent": "0.1"}}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two blocks on the same cases; in the second, the entries have weights."""
    folder = tmp_path_factory.mktemp("study")
    plan = made_study.make_study(folder, kinds=("segmentation",), entries=("identity", "pooling k3"), cases=3)
    (first,) = plan["datasets"]
    first |= {"fingerprint": "f", "training": {"epochs": 1}, "published": PRINTED}
    plan["datasets"].append({**first, "name": "weights", "published": None})
    for row in list(plan["entries"]):
        plan["entries"].append({**row, "name": f"{row['name']} weights", "pretrained": True})
    for run in list(plan["runs"]):
        own = {**run, "id": run["id"].replace("brain", "weights"), "dataset": "weights"}
        own["entry"] += " weights"
        shutil.copytree(folder / "runs" / run["id"], folder / "runs" / own["id"])
        file = folder / "runs" / own["id"] / "scores.csv"
        rows = list(csv.DictReader(file.open()))
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            for row in rows:
                value = float(row["value"]) - 0.05 if row["metric"] == "dice" else row["value"]
                writer.writerow(row | {"dataset": "weights", "entry": own["entry"], "value": value})
        plan["runs"].append(own)
    (folder / "plan.json").write_text(json.dumps(plan))
    return read_folder(folder)


def compared(study, number):
    return compare(study.scores(study.plan["datasets"][number]), margin=0.02)


def test_the_published_number_stands_beside_ours(study):
    comparison = compared(study, 0)
    costs = {row.entry: cost_of(study, "brain", row.entry) for row in comparison.ranking}
    table = tables.ranking(comparison, costs, "1", PRINTED)
    column = table.head.index("published")
    assert {row[0]: row[column] for row in table.rows} == {"identity": "0.9458", "pooling k3": "-"}
    assert "Published: as keuth2025 prints it (Table 3); it takes part in no test." in table.caption
    rows = tables.ranking_with_costs(comparison, costs, PRINTED)
    assert {row["entry"]: row["published"] for row in rows} == {"identity": "0.9458", "pooling k3": ""}
    plain = tables.ranking(comparison, costs, "1")
    assert "published" not in plain.head
    assert "Published" not in plain.caption


def test_pretraining_is_compared_with_the_block_from_scratch(study, tmp_path):
    with drawing.styled():
        picture = uplift(study, compared(study, 1), tmp_path, "weights")
        assert uplift(study, compared(study, 0), tmp_path, "brain") is None
    assert "identity weights minus identity: -0.0500" in picture.alt
    assert "pooling k3 weights minus pooling k3: -0.0500" in picture.alt


def test_pretraining_is_not_compared_with_a_block_of_other_cases(study, tmp_path):
    """A training from scratch lacks a case, so its block compares one less."""
    copy = tmp_path / "study"
    shutil.copytree(study.path, copy)
    file = next((copy / "runs").glob("brain__e0__seed0*")) / "scores.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if ",case00," not in line))
    other = read_folder(copy)
    with drawing.styled():
        assert uplift(other, compared(other, 1), tmp_path, "weights") is None
