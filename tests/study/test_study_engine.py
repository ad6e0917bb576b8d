"""Jobs, locks, resuming and devices, with fake trainings in real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_study import STEPS, command, fake_plan, traced, write_study

from medmixers.errors import InputError
from medmixers.study.engine.jobs import finished, make_job, run_job
from medmixers.study.engine.local import LocalRunner
from medmixers.study.engine.records import difference, is_locked, locked, needs, read_plan, run_folder
from medmixers.study.engine.status import describe_job, study_status

FAKE = Path(__file__).parent / "fake_study.py"
PLAN = fake_plan()
JOBS = list(needs(PLAN))


def start(study: Path, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, FAKE, "run", study], env={**os.environ, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(study: Path, **variables: str) -> tuple[int, dict[str, str], str]:
    """Exit status, failed jobs, and what stderr says."""
    process = start(study, **variables)
    out, err = process.communicate(timeout=60)
    return process.returncode, json.loads(out) if out.strip() else {}, err


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def results(study: Path) -> dict[str, bytes]:
    return {name: (study / "runs" / name / "scores.csv").read_bytes() for name in JOBS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A study that ran without interruption."""
    study = write_study(tmp_path_factory.mktemp("whole") / "study")
    status, failed, err = run(study)
    assert (status, failed) == (0, {}), err
    return study


def test_every_training_runs_once_and_a_second_run_does_nothing(whole):
    assert Counter(words[1] for words in traced(whole, "trained")) == Counter(JOBS)
    assert run(whole)[:2] == (0, {})
    assert len(traced(whole, "trained")) == len(JOBS)
    assert study_status(whole).splitlines()[-1] == "8 jobs: 8 done, 0 running, 0 waiting, 0 stopped, 0 failed"


def test_never_two_jobs_on_a_device(whole):
    busy: set[str] = set()
    used = set()
    for line in (whole / "trace.txt").read_text().splitlines():
        what, *words = line.split()
        if what == "start":
            assert words[1] not in busy, line
            busy.add(words[1])
            used.add(words[1])
        elif what == "stop":
            busy.remove(words[1])
    assert used == {"cuda:0", "cuda:1"}


def test_a_killed_study_goes_on_and_waits_for_its_orphans(whole, tmp_path):
    """kill -9 of the runner in training 3 of 8: its two jobs live on, and no other one shares their devices."""
    study = write_study(tmp_path / "study")
    runner = start(study)
    wait_for(lambda: len(traced(study, "trained")) == 2)
    (study / "hold.txt").touch()  # the next trainings wait half-way
    wait_for(lambda: len(traced(study, "start")) == 4)
    runner.kill()
    runner.communicate()
    orphans = [name for name in JOBS if is_locked(study / "runs" / name)]
    assert len(orphans) == 2
    second = start(study)
    assert second.stderr is not None
    said = [second.stderr.readline() for _ in orphans]
    assert sorted(line.split()[0] for line in said) == sorted(orphans)
    assert all(f"is running on {os.uname().nodename}, pid " in line for line in said)
    assert len(traced(study, "start")) == 4
    (study / "hold.txt").unlink()
    out, _ = second.communicate(timeout=60)
    assert (second.returncode, json.loads(out)) == (0, {})
    assert results(study) == results(whole)
    assert Counter(words[1] for words in traced(study, "trained")) == Counter(JOBS)


def test_a_training_dies_with_its_job_and_goes_on_from_its_checkpoint(whole, tmp_path):
    study = write_study(tmp_path / "study")
    (study / "hold.txt").touch()
    name = JOBS[0]
    job = subprocess.Popen(command(study, name, "cpu"))
    wait_for(lambda: ["step", name, str(STEPS // 2)] in traced(study, "step"))
    job.kill()
    job.wait()
    wait_for(lambda: not is_locked(study / "runs" / name))  # the lock is the training's too
    plan = json.loads((study / "plan.json").read_text())
    assert describe_job(study, plan, name).state == "stopped"
    (study / "hold.txt").unlink()
    assert subprocess.run(command(study, name, "cpu"), check=False).returncode == 0
    steps = [int(words[2]) for words in traced(study, "step")]
    assert steps == list(range(1, STEPS + 1))  # none twice
    assert (study / "runs" / name / "scores.csv").read_bytes() == results(whole)[name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_ends_its_trainings_and_goes_on(whole, tmp_path, number):
    study = write_study(tmp_path / "study")
    (study / "hold.txt").touch()
    runner = start(study)
    wait_for(lambda: len([words for words in traced(study, "step") if words[2] == str(STEPS // 2)]) == 2)
    runner.send_signal(number)
    runner.communicate(timeout=60)
    assert runner.returncode != 0
    assert not any(is_locked(study / "runs" / name) for name in JOBS)
    states = Counter(line.split()[1].rstrip(",") for line in study_status(study).splitlines()[:-1])
    assert states == Counter(stopped=2, waiting=6)
    (study / "hold.txt").unlink()
    assert run(study)[:2] == (0, {})
    assert results(study) == results(whole)


def test_a_failing_job_leaves_the_others_done_and_exit_status_1(tmp_path):
    study = write_study(tmp_path / "study")
    status, failed, err = run(study, FAIL=JOBS[2])
    assert status == 1
    assert list(failed) == [JOBS[2]]
    assert "RuntimeError: CUDA out of memory" in failed[JOBS[2]]
    assert f"{JOBS[2]}: failed: " in err
    said = study_status(study).splitlines()
    assert said[-1] == "8 jobs: 7 done, 0 running, 0 waiting, 0 stopped, 1 failed"
    assert said[2] == f"{JOBS[2]}: failed, train: RuntimeError: CUDA out of memory"
    assert run(study)[:2] == (0, {})  # the failed one alone is tried again
    assert len(traced(study, "trained")) == len(JOBS)


def test_what_needs_a_failed_preparation_is_not_started(tmp_path):
    study = write_study(tmp_path / "study", world="nnunet")
    status, failed, _ = run(study, FAIL="prepare__data")
    assert status == 1
    assert "no disk" in failed["prepare__data"]
    assert {reason for name, reason in failed.items() if name in JOBS} == {"not started: it needs prepare__data"}
    assert traced(study, "start") == []
    assert run(study)[:2] == (0, {})
    lines = (study / "trace.txt").read_text().splitlines()
    assert lines[0] == "prepared prepare__data"
    assert sum(line.startswith("prepared") for line in lines) == 1


def test_other_inputs_are_refused_with_the_difference(whole, tmp_path):
    plan = json.loads((whole / "plan.json").read_text())
    plan["datasets"][0]["training"]["epochs"] = 3
    with pytest.raises(InputError, match=r"data__identity__seed0: train was made with other inputs: epochs 1 -> 3"):
        LocalRunner(whole, plan, ["cpu"]).run()
    plan = json.loads((whole / "plan.json").read_text())
    plan["versions"] = {"torch": "9"}
    with pytest.raises(InputError, match="torch None -> 9"):
        finished(whole, plan, JOBS[0])


def test_a_table_of_scores_that_is_gone_is_made_again(whole, tmp_path):
    study = Path(shutil.copytree(whole, tmp_path / "study"))
    (study / "runs" / JOBS[0] / "scores.csv").unlink()
    assert not finished(study, PLAN, JOBS[0])
    assert describe_job(study, PLAN, JOBS[0]).state != "done"
    assert run(study)[:2] == (0, {})
    assert results(study) == results(whole)
    assert len(traced(study, "trained")) == len(JOBS)


@pytest.mark.parametrize("name", ["plan.json", f"runs/{JOBS[0]}/score.json"])
def test_a_damaged_record_is_named(whole, tmp_path, name):
    study = Path(shutil.copytree(whole, tmp_path / "study"))
    (study / name).write_text("")
    with pytest.raises(InputError, match=rf"{name} is damaged: .*; restore it, or remove"):
        finished(study, read_plan(study), JOBS[0])


def test_difference_names_nested_values():
    before = {"seed": 0, "dataset": {"fingerprint": "a", "training": {"epochs": 2}}}
    now = {"seed": 0, "dataset": {"fingerprint": "b", "training": {"epochs": 2, "recipe": "r"}}}
    assert difference(before, now) == "fingerprint a -> b, recipe None -> r"


def test_two_runs_of_one_study_and_an_unknown_job_are_refused(tmp_path):
    study = write_study(tmp_path / "study")
    with locked(study, "study"), pytest.raises(InputError, match=rf"is running on .*, pid {os.getpid()}"):
        LocalRunner(study, PLAN, ["cpu"]).run()
    with pytest.raises(InputError, match=r"has no job 'data__poolin__seed0'; valid: data__pooling__seed0"):
        run_job(study, "data__poolin__seed0")
    with pytest.raises(InputError, match=r"has no plan.json"):
        study_status(tmp_path)


def test_a_job_sees_its_one_device(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    study = write_study(tmp_path / "study")
    for device, visible in (("cuda:1", "1"), ("cpu", ""), ("auto", "0,1,2")):
        job = make_job(study, PLAN, JOBS[0], device)
        job.folder.mkdir(parents=True, exist_ok=True)
        job.command(sys.executable, "-c", "import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])")
        assert (run_folder(study, JOBS[0]) / "log.txt").read_text().splitlines()[
            -1
        ].rstrip() == f"sees {visible}".rstrip()
