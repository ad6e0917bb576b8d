"""The report of a paper's study: its published numbers, and the change by pretraining over blocks of entries."""

from __future__ import annotations

import csv
import json
import re
import shutil

import made_study
import pytest

from medmixers.cli.main import main

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
    main(["study", "report", str(folder)])
    return folder


def test_the_published_number_stands_beside_ours(study):
    ranking = {row["entry"]: row for row in csv.DictReader((study / "report" / "ranking.csv").open())}
    assert {name: row["published"] for name, row in ranking.items()} == {
        "identity": "0.9458", "pooling k3": "", "identity weights": "", "pooling k3 weights": "",
    }  # fmt: skip
    page = (study / "report" / "report.html").read_text()
    captions = re.findall(r"<caption>(Ranking by mean[^<]*)", page)
    assert len(captions) == 2
    assert "Published: as keuth2025 prints it (Table 3); it takes part in no test." in captions[0]
    assert "Published" not in captions[1]
    assert page.count(">published</th>") == 1
    assert page.count(">0.9458</td>") == 1


def test_pretraining_is_compared_with_the_block_from_scratch(study):
    page = (study / "report" / "report.html").read_text()
    assert page.count("Change by pretraining") == 1
    assert "identity weights minus identity: -0.0500" in page
    assert "pooling k3 weights minus pooling k3: -0.0500" in page
