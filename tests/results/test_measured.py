import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import record_study
import runtimes
import scale_networks
import torch
from comparisons import COMPARISONS, OURS
from scale_networks import Point

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))
import made_study

from house import ROOT
from medmixers import create_network, results
from medmixers.errors import InputError
from medmixers.results.measured_code import (
    KERNELS,
    MEASURED_CODE,
    PACKAGE,
    TRAINERS,
    kind_of,
    measured_code_digest,
    missing_code,
)  # fmt: skip
from medmixers.results.tables import TABLES, study_table

COMMIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "-qm"]
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
    (folder / "bundle_runtime").mkdir()
    files = ("variants.py", "mixers/pooling.py", "mixers/spectral.py", "bundle_runtime/windows.py")
    for name in files:
        (folder / name).write_text("1\n")
    file = tmp_path / "measured.json"
    for section in ("scale mixers cpu", "scale bundles cpu"):
        results.record(section, [], run={"code": measured_code_digest(tmp_path, section)}, path=file)
    results.record("demo", [], run={}, path=file)
    monkeypatch.setattr(results, "measured", lambda: json.loads(file.read_text()))
    older = {}
    for name in files:
        (folder / name).write_text("2\n")
        older[name] = results.older_than_the_code(tmp_path)
        (folder / name).write_text("1\n")
    assert older == {
        "variants.py": ["demo"],
        "mixers/pooling.py": ["scale mixers cpu", "demo"],
        "mixers/spectral.py": ["demo"],
        "bundle_runtime/windows.py": ["scale bundles cpu", "demo"],
    }


def test_every_section_names_code_that_is_there():
    assert missing_code(ROOT, [*results.measured(), *MEASURED_CODE]) == []
    assert kind_of("benchmark cpu token_unet") == "benchmark"
    assert kind_of("demo model") == "demo model"
    with pytest.raises(KeyError, match=r"'demos' is no section of measured figures; valid: benchmark, "):
        kind_of("demos")


def test_what_is_measured_is_in_the_digest():
    """Classes of modules tell the files. Functions are in layers/, which is in it whole, and in kernels/: below."""
    used = {"benchmark": [], "scale networks": [], "runtimes": []}
    with torch.device("meta"):
        for comparison in COMPARISONS.values():
            used["benchmark"].append(comparison.contenders[OURS]())
        for mixer in scale_networks.KEUTH:
            used["scale networks"].append(scale_networks.build(Point("networks", mixer, (64, 64)))[0])
        for name, options, size in runtimes.NETWORKS.values():
            shape = {"spatial_dims": len(size) - 2, "in_channels": size[1], "out_channels": 2}
            used["runtimes"].append(create_network(name, **shape, **options))
    for kind, networks in used.items():
        names = {type(module).__module__ for network in networks for module in network.modules()}
        files = {"/".join(name.split(".")[1:]) + ".py" for name in names if name.startswith("medmixers.")}
        known = MEASURED_CODE[kind]
        assert {file for file in files if file not in known and file.split("/")[0] not in known} == set(), kind
        assert len(files) > 5


def test_the_files_of_a_training_in_nnunet_are_in_the_digest():
    code = "import sys, medmixers.nnunet.trainer_classes; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    used = {f"nnunet/{name.split('.')[2]}.py" for name in modules if name.startswith("medmixers.nnunet.")}
    assert used == {file for file in TRAINERS if file.startswith("nnunet/") and file.endswith(".py")}


def imported_kernels(file):
    """Files of kernels/ that a file imports."""
    names = re.findall(r"from medmixers\.kernels(?:\.(\w+) import|\s+import (\w+))", file.read_text())
    return {first or second for first, second in names}


def test_the_kernels_of_what_is_measured_are_in_the_digest():
    measured = {file for code in MEASURED_CODE.values() for file in code}
    computing = {file for file in measured if file.startswith(("mixers/", "networks/"))}
    assert set(KERNELS) < {Path(file).stem for file in computing}
    for file in sorted(computing):
        waiting, found = imported_kernels(ROOT / PACKAGE / file), set()
        while waiting:
            found.add(kernel := waiting.pop())
            waiting |= imported_kernels(ROOT / PACKAGE / "kernels" / f"{kernel}.py") - found
        assert found - {"eager"} == set(KERNELS.get(Path(file).stem, ())), file


def test_the_digest_of_a_commit_is_that_of_its_files(checkout):
    folder = checkout / "plugin" / "medmixers" / "kernels"
    folder.mkdir(parents=True)
    (folder / "random_rows.py").write_text("1\n")
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    subprocess.run([*COMMIT, "two"], cwd=checkout, check=True)
    now = measured_code_digest(checkout, "scale mixers")
    (folder / "random_rows.py").write_text("2\n")
    assert measured_code_digest(checkout, "scale mixers", commit="HEAD") == now
    assert measured_code_digest(checkout, "scale mixers") != now


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
    for command in (["git", "init", "-q"], ["git", "add", "."], [*COMMIT, "one"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder


def test_a_run_says_what_was_measured(checkout):
    run = results.describe_run("benchmark", device="cpu", checkout=checkout)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True)
    commit = head.stdout.strip()
    assert (run["commit"], run["device"], run["dirty"]) == (commit, "cpu", False)
    assert run["cores"] == results.usable_cores() <= os.cpu_count()
    assert results.git_commit(checkout) == commit
    (checkout / "notes.txt").write_text("no code")
    assert results.git_commit(checkout) == commit
    (checkout / "plugin" / "new.py").write_text("two = 2\n")
    assert results.describe_run("benchmark", device="cpu", checkout=checkout)["dirty"] is True
    assert results.git_commit(checkout) == f"{commit} with changes"
    assert results.git_commit(checkout / "plugin") is None
    assert results.describe_run("benchmark", device="cpu", checkout=checkout.parent)["dirty"] is None


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
    monkeypatch.setattr(record_study, "measured_code_digest", lambda root, section, commit: f"{section} at {commit}")
    monkeypatch.setattr("sys.argv", ["record_study.py", str(folder)])
    file = tmp_path / "measured.json"
    record_study.main()
    section = json.loads(file.read_text())["demo"]
    assert (section["commit"], section["versions"]) == ("abc", VERSIONS)
    assert section["code"] == "demo at abc"
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
