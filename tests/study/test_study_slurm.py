"""A study on a real Slurm, with fake trainings. Without Slurm's programs or root, its tests say so and are skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
from fake_study import STEPS, command, fake_plan, traced, write_study
from real_slurm import NotStarted, end_all_jobs, real_slurm, why_not

from medmixers.bundle_runtime.epoch_table import PROGRESS_COLUMNS, EpochTable
from medmixers.errors import InputError
from medmixers.results import write_json
from medmixers.study.engine.command import run_study
from medmixers.study.engine.records import is_locked, locked, needs, read_json, read_plan
from medmixers.study.engine.slurm import Task, refuse_changes, refuse_live, submit_study
from medmixers.study.engine.slurm_options import Slurm
from medmixers.study.engine.slurm_queue import slurm_jobs
from medmixers.study.engine.status import study_status

pytest.importorskip("submitit", reason="submitit is not installed")
ONE_GPU = asdict(Slurm(time=60, partition="gpu", cpus=1))
needs_slurm = pytest.mark.skipif(bool(why_not()), reason=f"no real Slurm: {why_not()}")


@pytest.fixture(scope="module")
def daemons(tmp_path_factory) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            variables = stack.enter_context(real_slurm(tmp_path_factory.mktemp("slurm")))
        except NotStarted as error:
            pytest.skip(f"no real Slurm: its daemons do not start here: {error}")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def slurm(daemons) -> Iterator[None]:
    yield
    end_all_jobs()


def a_study(folder: Path, *, trainings: int = 4, **options) -> tuple[Path, list[str]]:
    """A study for Slurm, and the names of its jobs."""
    study = write_study(folder / "study", seeds=(0,), **options)
    plan = {**read_plan(study), "slurm": ONE_GPU}
    plan["runs"] = plan["runs"][:trainings]
    write_json(study / "plan.json", plan)
    return study, list(needs(plan))


def submit(study: Path) -> tuple[dict[str, str], dict[str, str]]:
    return submit_study(study, read_plan(study), command=command)


def wait_for(study: Path, condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(file.read_text()[-2000:] for file in study.glob("**/*_log.err"))
            pytest.fail(f"waited in vain:\n{study_status(study)}\n{logs}")
        time.sleep(0.1)


def counts(study: Path) -> str:
    return study_status(study).splitlines()[-1]


def line(study: Path, name: str) -> str:
    return next(each for each in study_status(study).splitlines() if each.startswith(f"{name}: "))


@needs_slurm
def test_a_grid_with_a_cancelled_and_a_requeued_training(slurm, tmp_path):
    study, names = a_study(tmp_path)
    (study / "hold.txt").touch()  # the trainings wait half-way
    numbers, there = submit(study)
    assert (list(numbers), there) == (names, {})
    wait_for(study, lambda: len([words for words in traced(study, "step") if words[2] == str(STEPS // 2)]) == 2)

    again, there = submit(study)
    assert (again, list(there)) == ({}, names)  # queued or running: not submitted twice
    running = [words[1] for words in traced(study, "start")]
    waiting = [name for name in names if name not in running]
    assert line(study, running[0]).endswith(f", Slurm job {numbers[running[0]]}")
    queued = f"{waiting[0]}: waiting, train, Slurm job {numbers[waiting[0]]} PENDING"
    assert line(study, waiting[0]).startswith(queued)
    wait_for(study, lambda: line(study, waiting[0]).startswith(f"{queued} ("))  # the scheduler says why after a look
    assert counts(study) == "4 jobs: 0 done, 2 running, 2 waiting, 0 stopped, 0 failed"
    plan = read_plan(study)
    with pytest.raises(InputError, match=r"Slurm has 4 jobs of .*: --on slurm, or scancel"):
        refuse_live(study, plan)
    refuse_changes(study, fake_plan(seeds=(0,)))  # the same; in JSON, its tuples are lists
    plan["datasets"][0]["training"]["epochs"] = 3
    with pytest.raises(InputError, match=r"is Slurm job \d+ \w+.* with other inputs: epochs 1 -> 3; scancel"):
        refuse_changes(study, plan)

    requeued, cancelled = running
    subprocess.run(["scancel", numbers[cancelled]], check=True)
    subprocess.run(["scancel", "--signal=USR2", numbers[requeued]], check=True)  # as before the end of the time limit
    wait_for(study, lambda: not is_locked(study / "runs" / cancelled) and not is_locked(study / "runs" / requeued))
    wait_for(study, lambda: "PENDING (BeginTime)" in line(study, requeued))
    do_not_wait_for_requeued(numbers[requeued])
    preempted = waiting[0]
    wait_for(study, lambda: ["step", preempted, str(STEPS // 2)] in traced(study, "step"))
    subprocess.run(["scancel", "--signal=TERM", numbers[preempted]], check=True)  # as in a preemption's grace time
    wait_for(study, lambda: "PENDING (BeginTime)" in line(study, preempted))
    do_not_wait_for_requeued(numbers[preempted])
    (study / "hold.txt").unlink()
    wait_for(study, lambda: counts(study) == "4 jobs: 3 done, 0 running, 0 waiting, 1 stopped, 0 failed")
    assert f"Slurm job {numbers[cancelled]} CANCELLED" in line(study, cancelled)
    assert [read_json(study / "runs" / name / "slurm.json")["job"] for name in names] == list(numbers.values())

    numbers, there = submit(study)
    assert (list(numbers), there) == ([cancelled], {})
    wait_for(study, lambda: counts(study).startswith("4 jobs: 4 done"))
    assert submit(study) == ({}, {})
    write_json(study / "runs" / waiting[1] / "slurm.json", {"job": numbers[cancelled]})  # another job's number
    assert str(slurm_jobs(study, read_plan(study))[waiting[1]]) == f"Slurm job {numbers[cancelled]} has ended"
    steps = Counter((words[1], int(words[2])) for words in traced(study, "step"))
    assert steps == Counter({(name, step): 1 for name in names for step in range(1, STEPS + 1)})  # none twice
    assert one_at_a_time(study) == {"cuda:0", "cuda:1"}


def do_not_wait_for_requeued(number: str) -> None:
    """Start it soon: Slurm waits for 120 seconds. In the second of the requeue a node refuses it, as already killed."""
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now+2"], check=True)


def one_at_a_time(study: Path) -> set[str]:
    """The devices that were used, after a check that none had two trainings at once."""
    busy: dict[str, str] = {}
    used = set()
    for each in (study / "trace.txt").read_text().splitlines():
        what, *words = each.split()
        if what == "start":
            assert words[1] not in busy, each
            busy[words[1]] = words[0]
            used.add(words[1])
        elif what == "stop":
            del busy[words[1]]
    return used


@needs_slurm
def test_what_needs_a_failed_preparation_is_cancelled(slurm, tmp_path, monkeypatch):
    study, names = a_study(tmp_path, trainings=2, world="nnunet")
    monkeypatch.setenv("FAIL", "prepare__data")
    numbers, _ = submit(study)
    assert list(numbers) == names == ["prepare__data", *names[1:]]
    wait_for(study, lambda: counts(study) == "3 jobs: 0 done, 0 running, 0 waiting, 2 stopped, 1 failed")
    assert line(study, "prepare__data") == "prepare__data: failed, prepare: Error: no disk"
    for name in names[1:]:
        assert f"Slurm job {numbers[name]} CANCELLED" in line(study, name)
    assert traced(study, "start") == []
    monkeypatch.delenv("FAIL")
    again, _ = submit(study)
    assert list(again) == names
    wait_for(study, lambda: counts(study).startswith("3 jobs: 3 done"))
    assert (study / "trace.txt").read_text().splitlines()[0] == "prepared prepare__data"


@needs_slurm
def test_what_runs_elsewhere_is_not_submitted(slurm, tmp_path):
    study, names = a_study(tmp_path, world="nnunet")
    with locked(study / "prepare" / "data", "prepare__data"):
        submitted, there = submit(study)
    assert submitted == {}
    assert there["prepare__data"].startswith("running on ")
    assert there[names[1]] == f"it needs prepare__data, which is {there['prepare__data']}"


@needs_slurm
def test_a_refused_submission_is_one_line(slurm, tmp_path):
    study, names = a_study(tmp_path)
    plan = {**read_plan(study), "slurm": {**ONE_GPU, "partition": "nowhere"}}
    with pytest.raises(InputError, match=rf"^sbatch refused {names[0]}: .*[Ii]nvalid partition.*$"):
        submit_study(study, plan, command=command)
    assert not (study / "runs" / names[0] / "slurm.json").exists()


def test_a_training_that_ends_no_epoch_within_the_limit_is_not_requeued(tmp_path):
    study, names = a_study(tmp_path)
    folder = study / "runs" / names[0]
    folder.mkdir(parents=True)
    task = Task([], study, names[0], 60, has_gpu=False)
    task.start = time.monotonic() - 59 * 60
    table = EpochTable(folder / "progress.csv", PROGRESS_COLUMNS)
    table.begin(3)
    table.add(3, [dict.fromkeys(PROGRESS_COLUMNS[1:], "") | {"epochs": 10, "seconds": 1.0}])
    task.before = (0, 2)
    assert task.checkpoint().function is task  # epoch 3 was finished
    task.before = (0, 3)
    with pytest.raises(RuntimeError, match="no epoch or stage was finished within Slurm's limit of 60 min"):
        task.checkpoint()
    assert line(study, names[0]).startswith(f"{names[0]}: failed, slurm: no epoch or stage was finished")
    task.start = time.monotonic()  # preempted: requeued as often as needed
    assert task.checkpoint().function is task


def test_a_job_that_got_no_gpu_fails(tmp_path, monkeypatch):
    task = Task([sys.executable, "-c", "import sys; sys.exit(len(sys.argv[1]))"], tmp_path, "a", 60, has_gpu=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(RuntimeError, match="asked for a GPU, but Slurm set no CUDA_VISIBLE_DEVICES"):
        task()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(RuntimeError, match=r"^a: exit status 6$"):  # "cuda:3"
        task()


def test_slurm_is_refused_where_it_is_not(tmp_path, monkeypatch):
    study, _ = a_study(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--on slurm needs sbatch, which is not on the PATH"):
        submit(study)
    with pytest.raises(InputError, match=r"--on slurm needs what each job asks for, as run: {slurm:"):
        submit_study(study, fake_plan(), command=command)
    with pytest.raises(InputError, match="--on must be local or slurm, got 'cluster'"):
        run_study("absent.yaml", on="cluster")


def test_a_training_that_slurm_ends_with_its_job_is_stopped_and_not_failed(tmp_path):
    """Slurm's signal reaches the training before its job."""
    study, names = a_study(tmp_path)
    (study / "hold.txt").touch()
    job = subprocess.Popen(command(study, names[0], "cpu"))
    wait_for(study, lambda: ["step", names[0], str(STEPS // 2)] in traced(study, "step"))
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    assert job.wait(30) == 75
    assert line(study, names[0]).startswith(f"{names[0]}: stopped")
