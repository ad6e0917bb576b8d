"""Where nnU-Net finds the trainers, and running its commands with them in reach."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medmixers.nnunet import environment
from medmixers.nnunet.environment import (
    export_lines,
    run_stock_command,
    stock_commands,
    trainer_folder,
    trainer_path,
)


def test_the_folder_holds_one_module_and_is_no_package():
    assert [path.name for path in trainer_folder().glob("*.py")] == ["medmixers_trainers.py"]


@pytest.mark.parametrize("before", [None, "", "/a/b", os.pathsep.join(["/a b", "/c"])])
def test_our_folder_joins_those_that_are_named(before):
    value = trainer_path({} if before is None else {"nnUNet_extTrainer": before})
    kept = [folder for folder in (before or "").split(os.pathsep) if folder]
    assert value.split(os.pathsep) == [*kept, str(trainer_folder())]
    assert trainer_path({"nnUNet_extTrainer": value}) == value, "a second time must add nothing"


def test_a_shell_reads_the_export_line():
    line = export_lines({"nnUNet_extTrainer": "/it's a; $folder"})
    done = subprocess.run(
        ["sh", "-c", f'eval {shlex.quote(line)}; printf %s "$nnUNet_extTrainer"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == os.pathsep.join(["/it's a; $folder", str(trainer_folder())])


def test_the_allocators_settings_are_those_that_the_demo_was_measured_with():
    shell = f'eval {shlex.quote(export_lines({}, cpu=True))}; echo "$MALLOC_MMAP_MAX_ $MALLOC_TRIM_THRESHOLD_"'
    assert subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout == "0 17179869184\n"
    assert "MALLOC" not in export_lines({})


def test_importing_it_needs_no_torch():
    code = "import sys, medmixers.nnunet.environment\nsys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def fake_command(tmp_path, monkeypatch):
    """Put a script in the place of nnUNetv2_train; returns a function that takes its shell text."""
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(tmp_path))

    def write(text):
        script = tmp_path / "nnUNetv2_train"
        script.write_text("#!/bin/sh\n" + text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    return write


def test_a_command_gets_arguments_and_variable_and_gives_its_status(fake_command, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/elsewhere")
    fake_command(f'printf "%s|" "$nnUNet_extTrainer" "$@" > {shlex.quote(str(tmp_path / "seen"))}; exit 5')
    assert run_stock_command("nnUNetv2_train", "900", "a b", "--c") == 5
    seen = (tmp_path / "seen").read_text().split("|")[:-1]
    assert seen == [os.pathsep.join(["/elsewhere", str(trainer_folder())]), "900", "a b", "--c"]
    assert os.environ[environment.TRAINER_VARIABLE] == "/elsewhere"


def test_a_command_ended_by_a_signal_gives_the_shells_status(fake_command):
    fake_command("kill -TERM $$")
    assert run_stock_command("nnUNetv2_train") == 128 + 15


@pytest.mark.parametrize("command", ["nnUNetv2_trian", "ls", "/bin/nnUNetv2_train", ""])
def test_another_command_is_refused(command):
    with pytest.raises(
        ValueError, match=f"'{command}' is not an nnU-Net command; valid: nnUNetv2_.*list nnunet_commands"
    ):
        run_stock_command(command)


def test_a_command_without_its_script_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nnUNetv2_train is neither in .* nor on PATH"):
        run_stock_command("nnUNetv2_train")


def test_the_demos_commands_are_stock():
    assert {
        "nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_evaluate_folder",
    } <= set(stock_commands())  # fmt: skip


def test_a_wheel_ships_the_folder_that_is_no_package():
    setuptools = pytest.importorskip("setuptools")
    root = Path(__file__).parents[2]
    # setuptools looks for namespace packages unless pyproject.toml turns that off; without, the folder, which
    # holds no __init__.py, would stay behind.
    assert "namespaces = false" not in (root / "pyproject.toml").read_text()
    assert "medmixers.nnunet.trainers" in setuptools.find_namespace_packages(str(root / "plugin"))
