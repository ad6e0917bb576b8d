"""``medmixers nnunet doctor`` as a person runs it: all right, and each thing wrong with its advice."""

import os
import subprocess
import sys
import sysconfig

import pytest

from medmixers.nnunet.doctor import examine
from medmixers.nnunet.environment import trainer_folder
from medmixers.nnunet.trainer_classes import TRAINERS

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def sound(tmp_path):
    """An environment in which nothing is wrong."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MEDMIXERS_")}
    return {
        **kept,
        **{name: str(tmp_path / name) for name in FOLDERS},
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "nnUNet_extTrainer": str(trainer_folder()),
    }


def doctor(environment):
    command = [sys.executable, "-m", "medmixers", "nnunet", "doctor"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_all_is_well(sound):
    done = doctor(sound)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong" not in done.stdout
    assert f"trainers: {len(TRAINERS)} found" in done.stdout


def test_every_fault_has_a_line_of_advice(sound, tmp_path):
    broken = tmp_path / "other_trainers"
    broken.mkdir()
    (broken / "mine.py").write_text("import no_such_module\n")
    sound.update(nnUNet_results=str(tmp_path / "gone"), MEDMIXERS_EPOCHS="ten")
    sound["MEDMIXERS_PRETRAINED"] = str(broken / "mine.py")
    sound["nnUNet_extTrainer"] = f"{broken}{os.pathsep}/no/folder"
    del sound["nnUNet_raw"]
    done = doctor(sound)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    advice = {lines[i - 1].split()[1].rstrip(":"): line.strip() for i, line in enumerate(lines) if "->" in line}
    assert set(advice) == {"nnUNet_raw", "nnUNet_results", "nnUNet_extTrainer", "trainers", "run", "start"}
    assert advice["nnUNet_raw"] == "-> export nnUNet_raw=/a/folder"
    assert "mkdir -p" in advice["nnUNet_results"]
    assert "take it out of nnUNet_extTrainer" in advice["nnUNet_extTrainer"]
    assert "no_such_module" in done.stdout
    assert "MEDMIXERS_EPOCHS must be a whole number of at least 1, got 'ten'" in done.stdout
    assert "mine.py' cannot be read as weights: torch.save did not write it" in done.stdout


def test_a_command_that_is_not_on_the_path_is_named(sound, monkeypatch):
    monkeypatch.setenv("PATH", "/no/folder")
    found = {finding.what: finding for finding in examine(sound)}
    assert "activate this environment" in found["nnUNetv2_train"].advice
