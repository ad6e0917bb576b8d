import json
import os
import shutil
import subprocess
import sys

import pytest
import record_demo

from house import ROOT
from medmixers import results


def test_readme_shows_the_demos_picture():
    picture = record_demo.PICTURE.relative_to(ROOT).as_posix()
    assert f"]({picture})" in (ROOT / "README.md").read_text()
    assert record_demo.PICTURE.is_file()


def test_record_keeps_other_sections_and_says_where(tmp_path):
    path = tmp_path / "measured.json"
    results.record("one", [1], run={"commit": "abc"}, path=path)
    results.record("two", {"x": 2}, run={"commit": "def", "device": "cpu"}, path=path)
    results.record("one", [3], run={"commit": "ghi"}, path=path)
    sections = json.loads(path.read_text())
    assert sections["one"] == {"commit": "ghi", "figures": [3]}
    assert sections["two"] == {"commit": "def", "device": "cpu", "figures": {"x": 2}}
    assert [p.name for p in tmp_path.iterdir()] == ["measured.json"]


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


def test_a_run_says_what_was_measured(checkout, tmp_path):
    results.write_run(tmp_path / "a", device="cpu", checkout=checkout)
    results.write_run(tmp_path / "b", device="cpu", checkout=checkout)
    run = results.read_clean_run([tmp_path / "a", tmp_path / "b"])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True)
    assert run["commit"] == head.stdout.strip()
    assert run["device"] == "cpu"
    assert run["cores"] == results.usable_cores() <= os.cpu_count()
    assert set(run) == set(results.measured()["demo"]) - {"figures"}
    (checkout / "notes.txt").write_text("no code")
    results.write_run(tmp_path / "b", device="cpu", checkout=checkout)
    assert results.read_clean_run([tmp_path / "b"]) == run


def test_a_run_that_tells_too_little_is_refused(checkout, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*run\.json"):
        results.read_clean_run([tmp_path / "a"])
    results.write_run(tmp_path / "a", device="cpu", checkout=checkout)
    results.write_run(tmp_path / "b", device="cuda", checkout=checkout)
    with pytest.raises(ValueError, match="differ in device"):
        results.read_clean_run([tmp_path / "a", tmp_path / "b"])
    (checkout / "plugin" / "new.py").write_text("two = 2\n")
    results.write_run(tmp_path / "a", device="cpu", checkout=checkout)
    with pytest.raises(ValueError, match="not clean or not under git"):
        results.read_clean_run([tmp_path / "a"])
    results.write_run(tmp_path / "a", device="cpu", checkout=tmp_path)
    with pytest.raises(ValueError, match="not clean or not under git"):
        results.read_clean_run([tmp_path / "a"])


def test_record_demo_ends_in_one_line_and_writes_nothing(tmp_path):
    before = results.MEASURED.read_bytes()
    script = ROOT / "scripts" / "benchmarks" / "record_demo.py"
    out = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert out.stderr.startswith("record_demo: error: there is no ")
    assert len(out.stderr.splitlines()) == 1
    assert results.MEASURED.read_bytes() == before
