"""The report of made studies: its numbers, its words, what is missing, hostile names, and the page in a browser."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import made_study
import numpy as np
import pytest

from medmixers.cli.main import main
from medmixers.errors import MissingFileError
from medmixers.study.report import page
from medmixers.study.report.costs import epoch_of_reduction
from medmixers.study.report.page import write_report

ENTRIES = ("identity", "pooling k3", "pooling k5")
HOSTILE = '<script>alert("x")</script> $x_1$ & {{ 7*7 }}'
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tables as rows of text by caption, images, headings and all tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.images, self.tags, self.words = {}, [], [], ""
        self.open, self.rows, self.scopes = None, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        if tag == "img":
            self.images.append(values)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag == "th":
            self.scopes.append(values.get("scope"))
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag in ("th", "td", "caption", "style"):
            self.open = tag

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        if self.open == "caption":
            self.caption += data
        elif self.open in ("th", "td"):
            self.rows[-1][-1] += data
        elif self.open != "style":
            self.words += data


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Both kinds; one training failed, one did not start."""
    folder = tmp_path_factory.mktemp("study")
    plan = made_study.make_study(folder, entries=ENTRIES, cases=4)
    failed, absent = (folder / "runs" / plan["runs"][k]["id"] for k in (8, 9))
    shutil.rmtree(failed)
    failed.mkdir()
    (failed / "log.txt").write_text("epoch 3\nRuntimeError: CUDA out of <memory>\n\n")
    shutil.rmtree(absent)
    (folder / "profile").mkdir()
    sizes = [
        "name,size,milliseconds,peak_mib,error",
        "net,64x64,1.5,20,",
        "net,128x128,6,80,",
        "net,256x256,,,too large",
    ]
    (folder / "profile" / "pooling.csv").write_text("\n".join(sizes))
    main(["study", "report", str(folder)])
    return folder


@pytest.fixture(scope="module")
def shown(study):
    return Page((study / "report" / "report.html").read_text())


def rows_of(study, name):
    return list(csv.DictReader((study / "report" / name).open()))


def cells(shown, start, dataset_first):
    """First cell -> cells of a table, by the start of its caption and a word of the data set."""
    found = [rows for caption, rows in shown.tables.items() if caption.startswith(start) and dataset_first in caption]
    (rows,) = found
    return rows[0], {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


@pytest.mark.parametrize(("dataset", "metric"), [("brain", "dice"), ("colon", "auroc")])
def test_every_number_of_the_tables_is_that_of_the_csv_files(study, shown, dataset, metric):
    _, table = cells(shown, f"Ranking by mean {metric}", metric)
    ranking = [row for row in rows_of(study, "ranking.csv") if row["dataset"] == dataset]
    assert set(table) == {row["entry"] for row in ranking}
    for row in ranking:
        cell = table[row["entry"]]
        assert cell[f"mean {metric}"] == f"{float(row['mean']):.4f}"
        assert cell["sd of seeds"] == f"{float(row['seed_sd']):.4f}"
        assert cell["rank, 95 %"] == f"{float(row['rank_low']):g} to {float(row['rank_high']):g}"
        assert (cell["points"], cell["seeds"]) == (row["points"], row["seeds"])
        assert cell["rank score"] == f"{float(row['rank_score']):.2f}"
        assert cell["parameters"] == f"{float(row['parameters']) / 1e6:.2f} M"
        assert cell["epoch of 90 %"] == f"{float(row['epoch_90']):.0f}"
    _, again = cells(shown, "When trained again", metric)
    _, models = cells(shown, "These trained models", metric)
    tests = [row for row in rows_of(study, "tests.csv") if row["dataset"] == dataset]
    assert len(tests) == len(again) == len(models) == 3
    for row in tests:
        name = f"{row['first']} vs {row['second']}"
        assert again[name]["verdict"] == row["verdict"]
        known = row["difference"] != ""
        assert again[name]["difference"] == (f"{float(row['difference']):+.4f}" if known else "-")
        assert again[name]["p (Holm)"] == (f"{float(row['p_holm']):.2g}" if known else "-")
        assert again[name]["detectable"] == (f"{float(row['detectable']):.4f}" if known else "-")
        ends = [f"{float(row[end]):+.4f}" for end in ("shift_low", "shift_high") if row[end]]
        assert models[name]["95 % interval"] == (" to ".join(ends) or "-")
        assert models[name][f"p ({row['shift_correction']})"] == f"{float(row['shift_p_corrected']):.2g}"
    _, metrics = cells(shown, "All metrics", f"n = {tests[0]['cases']} cases")
    for row in (row for row in rows_of(study, "metrics.csv") if row["dataset"] == dataset):
        head = next(name for name in metrics[row["entry"]] if name.split(" ")[0] == row["metric"])
        assert metrics[row["entry"]][head].startswith(f"{float(row['mean']):.4f}")


def test_the_answer_comes_first_with_n_seeds_interval_and_detectable_difference(study, shown):
    tests = {row["dataset"]: row for row in rows_of(study, "tests.csv")}
    answers = shown.words[shown.words.index("Answer") : shown.words.index("Ranking")]
    for dataset, row in tests.items():
        (claim,) = re.findall(rf"{dataset}(.*?\))\.\n", answers)
        assert f"n = {row['cases']} cases, S = 2 to 3 seeds per entry" in claim
        assert re.search(
            r"(95 % interval [+-][\d.]+ to [+-][\d.]+|no 95 % interval of so few cases), p = [\d.e-]+, "
            r"(Holm|max-T) over 3 pairs",
            claim,
        )
        assert "detectable difference" in claim or "fewer than 3 seeds" in claim
    assert "Underpowered." in answers


def test_what_is_missing_is_said(study, shown):
    head, table = cells(shown, "2 of 18 trainings; 1 of them began", "")
    assert head == ["training", "state", "last line of its log"]
    assert table["brain__e2__seed2"]["last line of its log"] == "RuntimeError: CUDA out of <memory>"
    assert table["colon__e0__seed0"]["state"] == "not started"
    assert "2 of 18 trainings have no scores" in shown.words


def test_the_page_is_accessible_small_and_asks_for_nothing(study, shown):
    text = (study / "report" / "report.html").read_text()
    assert len(text) < 3_000_000
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not {"script", "iframe", "object", "link rel=stylesheet"} & set(shown.tags)
    assert len(shown.images) > 25
    assert all(len(image["alt"]) > 20 for image in shown.images)
    assert all(image["src"].startswith("data:image/") for image in shown.images)
    assert all(shown.tables)
    assert set(shown.scopes) == {"col", "row"}
    names = {path.name for path in (study / "report" / "figures").iterdir()}
    assert {"1_brain_kernels.pdf", "2_colon_reliability.pdf", "1_brain_worst1.jpg", "resolution_peak_mib.pdf"} <= names
    assert "1_brain_gradients.pdf" in names
    assert "Updates with a gradient that is not finite: pooling k3 3." in shown.words
    assert "\\toprule" in (study / "report" / "tables" / "1_brain_ranking.tex").read_text()


def test_hostile_names_are_text(tmp_path):
    entries = ("identity", HOSTILE)
    plan = made_study.make_study(
        tmp_path, kinds=["classification"], entries=entries, cases=3, name=HOSTILE, control="identity"
    )
    plan["refusals"] = [HOSTILE]
    made_study.write_plan(tmp_path, plan)
    write_report(tmp_path)
    text = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in text
    assert "{{ 7*7 }}" in Page(text).words
    assert "all against identity" in text
    latex = (tmp_path / "report" / "tables" / "1_colon_ranking.tex").read_text()
    assert r"\$x\_1\$ \& \{\{ 7*7 \}\}" in latex


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: the page is not opened in a browser")
def test_the_page_opens_in_a_browser_without_a_request(study, tmp_path):
    """The browser's own log of its network; a page with a picture from elsewhere shows that the log would have it."""
    assert requests_of(study / "report" / "report.html", tmp_path / "ours") == []
    assert (tmp_path / "ours.png").stat().st_size > 20_000
    other = tmp_path / "other.html"
    other.write_text("<img src='http://127.0.0.1:8997/x.png'>")
    assert requests_of(other, tmp_path / "other") == ["http://127.0.0.1:8997/x.png"]


def requests_of(file, stem):
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={stem}", f"--log-net-log={stem}.json", "--net-log-capture-mode=Everything",
        f"--screenshot={stem}.png", "--window-size=500,2000", file.as_uri(),
    ]  # fmt: skip
    environment = os.environ | {"HOME": str(stem.parent)}
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
    events = stem.with_suffix(".json").read_text()
    return sorted(set(re.findall(r'"initiator":"(?:file://|null)"[^\n]*?"url":"(https?:[^"]+)"', events)))


def test_a_folder_that_is_no_study_and_one_without_scores_are_one_line(tmp_path):
    with pytest.raises(MissingFileError, match="is not the folder of a study"):
        write_report(tmp_path)
    plan = {"study": "s", "question": {"metric": "dice", "margin": 0.1}, "datasets": [], "entries": [], "runs": []}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(MissingFileError, match="has scores yet"):
        write_report(tmp_path)


def test_a_data_set_that_cannot_be_compared_says_why(tmp_path):
    plan = made_study.make_study(
        tmp_path, kinds=["classification"], entries=("identity", "pooling k3"), seeds=1, cases=2
    )
    plan["datasets"][0]["metric"] = "dice"
    made_study.write_plan(tmp_path, plan)
    assert "colon: No comparison: dice is no metric of classification; valid: auroc" in str(write_report(tmp_path))


def test_pictures_are_left_out_of_a_page_that_would_be_too_large(monkeypatch):
    monkeypatch.setattr(page, "LARGEST", 1)
    monkeypatch.setattr(page, "render", lambda sections: str([(len(each.worst), each.notes) for each in sections]))
    section = SimpleNamespace(worst=["a", "b"], notes=[])
    assert page.fitting({"sections": [section]}) == (
        "[(0, ['2 pictures of the worst cases lie in figures/: the page would be too large.'])]"
    )


def test_the_epoch_of_90_percent():
    curve = [[0, 1.0], [1, 0.5], [2, 0.12], [3, 0.09], [4, 0.0]]
    assert epoch_of_reduction(np.array(curve)) == 3
    assert epoch_of_reduction(np.array([[0, 1.0], [1, 1.2]])) is None
