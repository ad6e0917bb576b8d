"""``medmixers nnunet doctor`` as a person runs it: all right, and each fault with its advice."""

import os
import subprocess
import sys
import sysconfig

import pytest
import torch

import preloaded
from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.nnunet import doctor as room
from medmixers.nnunet.doctor import examine
from medmixers.nnunet.environment import trainer_folder
from medmixers.nnunet.trainer_classes import TRAINERS

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def sound(tmp_path):
    """An environment in which nothing is wrong."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    other = ("MEDMIXERS_", "nnUNet_", "MALLOC_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(other)}
    return {
        **kept,
        **{name: str(tmp_path / name) for name in FOLDERS},
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "nnUNet_extTrainer": str(trainer_folder()),
    }


def doctor(environment, python):
    command = [python, "-m", "medmixers", "nnunet", "doctor"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_all_is_well(sound):
    done = doctor(sound, preloaded.python())
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
    done = doctor(sound, preloaded.python())
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    wrong = [i for i, line in enumerate(lines) if line.startswith("wrong ")]
    advice = {lines[i].split()[1].rstrip(":"): lines[i + 1].strip() for i in wrong}
    assert set(advice) == {"nnUNet_raw", "nnUNet_results", "nnUNet_extTrainer", "trainers", "run", "start"}
    assert advice["nnUNet_raw"] == "-> export nnUNet_raw=/a/folder"
    assert "mkdir -p" in advice["nnUNet_results"]
    assert "remove it from nnUNet_extTrainer" in advice["nnUNet_extTrainer"]
    assert "no_such_module" in done.stdout
    assert "correct the file that raises this" in advice["trainers"]
    assert "MEDMIXERS_EPOCHS must be a whole number of at least 1, got 'ten'" in done.stdout
    assert "mine.py' cannot be read as weights: torch.save did not write it" in done.stdout


def test_a_command_that_is_not_on_the_path_is_named(sound, monkeypatch):
    monkeypatch.setenv("PATH", "/no/folder")
    found = {finding.what: finding for finding in examine(sound)}
    assert "activate this environment" in found["nnUNetv2_train"].advice


def found(environment):
    return {finding.what: finding for finding in examine(environment)}


def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_the_device_of_a_training_is_named(sound, monkeypatch):
    without_gpu(monkeypatch)
    device = found(sound)["device"]
    assert (device.found, device.is_wrong) == ("no GPU", False)
    assert "-device cpu" in device.advice
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "-device mps" in found(sound)["device"].advice
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    device = found(sound)["device"]
    assert device.found.startswith("cuda (Some GPU)")
    assert not device.advice


def test_the_allocator_matters_on_a_cpu_with_glibc(sound, monkeypatch):
    without_gpu(monkeypatch)
    monkeypatch.setattr(room.platform, "libc_ver", lambda: ("glibc", "2.36"))
    advised = found(sound)["allocator"]
    assert advised.found == "MALLOC_MMAP_MAX_, MALLOC_TRIM_THRESHOLD_ not set"
    assert "medmixers nnunet env --cpu" in advised.advice
    assert not advised.is_wrong
    assert not found({**sound, **ALLOCATOR_VARIABLES})["allocator"].advice
    monkeypatch.setattr(room.platform, "libc_ver", lambda: ("", ""))
    assert "allocator" not in found(sound)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    assert "allocator" not in found(sound)


def test_no_worker_for_planning_is_a_warning(sound):
    assert "nnUNet_n_proc_DA" not in found(sound)
    note = found({**sound, "nnUNet_n_proc_DA": "0"})["nnUNet_n_proc_DA"]
    assert "nnUNet_n_proc_DA=1 nnUNetv2_plan_and_preprocess" in note.advice
    assert (note.is_wrong, str(note)[:4]) == (False, "note")
    done = doctor({**sound, "nnUNet_n_proc_DA": "all"}, sys.executable)
    assert done.returncode == 1
    assert "wrong  nnUNet_n_proc_DA: 'all' is not a whole number of at least 0" in done.stdout
    assert "nnU-Net: cannot be imported" in done.stdout
    assert "Traceback" not in done.stderr
    assert "nnUNet_n_proc_DA" not in found({**sound, "nnUNet_n_proc_DA": "2"})


def test_minutes_and_runtime_are_checked(sound, monkeypatch):
    assert not {"minutes", "runtime"} & set(found(sound))
    monkeypatch.setenv("MEDMIXERS_MINUTES", "5")
    monkeypatch.setenv("MEDMIXERS_RUNTIME", "openvino")
    sane = found(sound)
    assert sane["minutes"].found.startswith("5, of the trainers _10minutes")
    assert not sane["minutes"].is_wrong
    assert not sane["runtime"].is_wrong
    monkeypatch.setenv("MEDMIXERS_EPOCHS", "2")
    assert "MEDMIXERS_EPOCHS is set, but a trainer _10minutes counts minutes" in found(sound)["minutes"].found
    monkeypatch.delenv("MEDMIXERS_EPOCHS")
    monkeypatch.setenv("MEDMIXERS_MINUTES", "five")
    monkeypatch.setenv("MEDMIXERS_RUNTIME", "tensorrt")
    wrong = found(sound)
    assert "must be a whole number of at least 1, got 'five'" in wrong["minutes"].found
    assert wrong["runtime"].found == "MEDMIXERS_RUNTIME must be torch or openvino, got 'tensorrt'"
    assert wrong["minutes"].is_wrong
    assert wrong["runtime"].is_wrong


def test_a_variable_that_stops_the_import_of_nnunet_is_named(sound):
    lines = doctor({**sound, "nnUNet_def_n_proc": "many"}, sys.executable).stdout.splitlines()
    at = lines.index("wrong  nnUNet_def_n_proc: 'many' is not a whole number of at least 1")
    assert lines[at + 1].strip() == "-> correct or unset nnUNet_def_n_proc"
    at = next(number for number, line in enumerate(lines) if line.startswith("wrong  trainers: "))
    assert lines[at + 1].strip() == "-> first do what the other lines say"
    assert found({**sound, "nnUNet_def_n_proc": "0"})["nnUNet_def_n_proc"].is_wrong
    assert "nnUNet_def_n_proc" not in found({**sound, "nnUNet_def_n_proc": "1"})
