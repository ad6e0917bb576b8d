"""scripts/demo.sh: which folders it takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def demo_script(folder: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """scripts/demo.sh of a copy whose environment ends at once: it installs and runs nothing."""
    (cwd / "scripts").mkdir()
    script = cwd / "scripts" / "demo.sh"
    script.write_text((Path(__file__).parents[2] / "scripts" / "demo.sh").read_text())
    (cwd / "scripts" / "environment.sh").write_text("make_environment() { echo installing; exit 7; }\n")
    return subprocess.run(["bash", script, folder], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["nnUNet_results/Dataset001/weights.pth", "bundle/mine.txt", ".hidden"])
def test_a_folder_that_is_not_the_demos_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    folder, checkout = tmp_path / "my data", tmp_path / "checkout"
    checkout.mkdir()
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("two years")
    out = demo_script(folder, checkout)
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == f"demo.sh: error: {folder} exists and is no run of this demo; name a new or an empty folder\n"
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / name]


def test_new_empty_and_own_folders_are_taken(tmp_path: Path) -> None:
    new, empty, own = (tmp_path / name for name in ("new/run", "empty", "own"))
    empty.mkdir()
    own.mkdir()
    (own / ".medmixers-demo").touch()
    (own / "logs").mkdir()
    for folder in (new, empty, own):
        checkout = tmp_path / f"checkout of {folder.name}"
        checkout.mkdir()
        out = demo_script(folder, checkout)
        assert (out.returncode, out.stdout) == (7, "installing\n"), out.stderr
        assert (folder / ".medmixers-demo").is_file()
