import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import record_study

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))
import made_study

from medmixers import results
from medmixers.errors import InputError
from medmixers.results.tables import TABLES, study_table

VERSIONS = {"torch": "2", "monai": "1", "nnunetv2": "2"}


def test_record_keeps_other_sections_and_says_where(tmp_path):
    path = tmp_path / "measured.json"
    results.record("one", [1], run={"commit": "abc"}, path=path)
    results.record("two", {"x": 2}, run={"commit": "def", "device": "cpu"}, path=path)
    results.record("one", [3], run={"commit": "ghi"}, path=path)
    sections = json.loads(path.read_text())
    assert sections["one"] == {"commit": "ghi", "figures": [3]}
    assert sections["two"] == {"commit": "def", "device": "cpu", "figures": {"x": 2}}
    assert [p.name for p in tmp_path.iterdir()] == ["measured.json"]


def test_figures_know_the_code_that_they_measured(tmp_path, monkeypatch):
    folder = tmp_path / "plugin" / "medmixers"
    (folder / "mixers").mkdir(parents=True)
    for name in ("variants.py", "mixers/pooling.py", "cli.py"):
        (folder / name).write_text("1\n")
    file = tmp_path / "measured.json"
    results.record("now", [], run={"code": results.code_digest(tmp_path)}, path=file)
    results.record("before", [], run={}, path=file)
    monkeypatch.setattr(results, "measured", lambda: json.loads(file.read_text()))
    assert results.older_than_the_code(tmp_path) == ["before"]
    (folder / "cli.py").write_text("2\n")
    assert results.older_than_the_code(tmp_path) == ["before"]
    (folder / "mixers" / "pooling.py").write_text("2\n")
    assert results.older_than_the_code(tmp_path) == ["now", "before"]


def test_nothing_is_recorded_on_a_busy_machine(monkeypatch):
    for now, share in (((111, 1200), "11%"), ((105, 1200), None)):
        ticks = iter([(100, 1100), now])
        monkeypatch.setattr(results, "_processor_ticks", lambda ticks=ticks: next(ticks))
        if share is None:
            results.check_quiet_machine(seconds=0)
        else:
            with pytest.raises(InputError, match=f"other processes use {share} of the processor"):
                results.check_quiet_machine(seconds=0)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with one commit."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "checkout"
    (folder / "plugin").mkdir(parents=True)
    (folder / "plugin" / "code.py").write_text("one = 1\n")
    commit = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "-qm", "one")
    for command in (("init", "-q"), ("add", "."), commit):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_a_run_says_what_was_measured(checkout):
    run = results.describe_run(device="cpu", checkout=checkout)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True)
    commit = head.stdout.strip()
    assert (run["commit"], run["device"], run["dirty"]) == (commit, "cpu", False)
    assert run["cores"] == results.usable_cores() <= os.cpu_count()
    assert results.git_commit(checkout) == commit
    (checkout / "notes.txt").write_text("no code")
    assert results.git_commit(checkout) == commit
    (checkout / "plugin" / "new.py").write_text("two = 2\n")
    assert results.describe_run(device="cpu", checkout=checkout)["dirty"] is True
    assert results.git_commit(checkout) == f"{commit} with changes"
    assert results.git_commit(checkout / "plugin") is None
    assert results.describe_run(device="cpu", checkout=checkout.parent)["dirty"] is None


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The plan of a finished study with one training per entry."""
    folder = tmp_path_factory.mktemp("study")
    plan = made_study.make_study(
        folder, kinds=["segmentation"], entries=("identity", "pooling k3"), seeds=1, name="demo"
    )
    plan |= {"commit": "abc", "seeds": [0], "devices": ["cpu"], "versions": VERSIONS}
    for data in plan["datasets"]:
        data["training"] = {"recipe": "keuth2025_segmentation"}
    made_study.write_plan(folder, plan)
    return folder, plan


def test_the_figures_of_a_study_are_those_of_its_files(study, tmp_path, monkeypatch):
    folder, _ = study
    monkeypatch.setattr(record_study, "record", lambda *words, **keys: results.record(*words, **keys, path=file))
    monkeypatch.setattr(record_study.documents, "write", lambda root: None)
    monkeypatch.setattr("sys.argv", ["record_study.py", str(folder)])
    file = tmp_path / "measured.json"
    record_study.main()
    section = json.loads(file.read_text())["demo"]
    assert (section["commit"], section["versions"]) == ("abc", VERSIONS)
    with (folder / "scores.csv").open(newline="") as content:
        rows = [row for row in csv.DictReader(content) if row["metric"] == "dice" and row["value"]]
    for found in section["figures"]:
        for name in ("core", "whole"):
            own = [float(row["value"]) for row in rows if (row["entry"], row["class"]) == (found["entry"], name)]
            assert found["dice"][name] == pytest.approx(sum(own) / len(own))
    first = study_table(section).splitlines()[2]
    assert first.startswith("| nnU-Net, keuth2025_segmentation | identity | 4,000,000 | 0.")
    assert first.endswith(" | 0.25 | 3000 s |")
    assert TABLES["demo"]({}, {}) == "Not measured yet."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "mine"}, "study 'mine' has no table in the documents; valid: demo, compare_nnunet"),
        ({"commit": "abc with changes"}, "is of the sources abc with changes; commit, then run it again"),
        ({"commit": None}, "is of the sources None"),
        ({"seeds": [0, 1]}, "of one seed and one training at a time"),
    ],
)
def test_a_study_that_tells_too_little_is_refused(study, change, message):
    folder, plan = study
    shown = record_study.read_folder(folder)
    with pytest.raises(InputError, match=message):
        record_study.check(dataclasses.replace(shown, plan={**plan, **change}))


def test_an_unfinished_study_is_refused(study):
    folder, _ = study
    shown = record_study.read_folder(folder)
    runs = (dataclasses.replace(shown.runs[0], state="unfinished"), *shown.runs[1:])
    with pytest.raises(InputError, match="is not finished: 1 trainings have no scores, such as brain__e0__seed0"):
        record_study.check(dataclasses.replace(shown, runs=runs))
