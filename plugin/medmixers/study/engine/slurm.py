"""Run a study on Slurm: one sbatch per job, by submitit, around the same job command as on one machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingPackageError
from medmixers.results import write_json
from medmixers.study.engine.jobs import REQUEUE, finished, job_command, make_job, stages_of
from medmixers.study.engine.records import (
    FAILED,
    PREPARE,
    STAGES,
    difference,
    holder,
    is_locked,
    locked,
    needs,
    now_text,
    progress_rows,
    read_plan,
    run_folder,
    stage_file,
)
from medmixers.study.engine.slurm_options import TEXTS, Slurm
from medmixers.study.engine.slurm_queue import SLURM, SUBMITTED, slurm_jobs

Command = Callable[[Path, str, str], Sequence[str]]
MOST_TIMEOUTS = 1000  # a training that ends no epoch within a limit is given up before
POLL = 0.2  # seconds


def submit_study(
    study: Path, plan: Mapping[str, Any], *, command: Command = job_command
) -> tuple[dict[str, str], dict[str, str]]:
    """Submit all jobs of a plan that are not done, queued or running.

    A job waits for what it needs, and Slurm cancels it where that failed.

    Args:
        study: the study's folder, which all nodes see under this path.
        plan: content of plan.json.
        command: makes the command of a job from study, name and device; the device is its last word.

    Returns:
        Submitted job -> number of its Slurm job; job that is not done and was not submitted -> where it
        is queued or runs.

    Raises:
        InputError: no Slurm, a submission that sbatch refuses, or finished stages of other inputs.
    """
    if plan.get("slurm") is None:
        raise InputError('--on slurm needs what each job asks for, as run: {slurm: {partition: gpu, time: "24:00:00"}}')
    if shutil.which("sbatch") is None:
        raise InputError("--on slurm needs sbatch, which is not on the PATH; log in to a submit node of the cluster")
    options, study = Slurm(**plan["slurm"]), study.resolve()
    submitted: dict[str, str] = {}
    there: dict[str, str] = {}
    with locked(study, f"study {study}"):
        left = [name for name in needs(plan) if not finished(study, plan, name)]
        jobs = slurm_jobs(study, plan)
        numbers = {name: job.number for name, job in jobs.items() if job.is_live}
        for name in left:
            folder = run_folder(study, name)
            if name in numbers:
                there[name] = str(jobs[name])
            elif is_locked(folder):
                there[name] = f"running on {holder(folder)}"
            elif lacking := [need for need in needs(plan)[name] if need in there and need not in numbers]:
                there[name] = f"it needs {lacking[0]}, which is {there[lacking[0]]}"
            else:
                before = [numbers[need] for need in needs(plan)[name] if need in numbers]
                task = Task(list(command(study, name, ""))[:-1], study, name, options.time, has_gpu=options.has_gpu)
                numbers[name] = submitted[name] = _submit(task, options, before)
                write_json(folder / SUBMITTED, {"job": numbers[name], "time": now_text()})
    return submitted, there


def refuse_changes(study: Path, plan: Mapping[str, Any]) -> None:
    """Refuse a plan with other inputs for a job that Slurm has queued or runs.

    Raises:
        InputError: one line that names the job.
    """
    old = read_plan(study)
    for name, slurm in slurm_jobs(study, old).items():
        if slurm.is_live and name in needs(plan):
            before, now = make_job(study, old, name), make_job(study, plan, name)
            for stage in stages_of(before):
                if changed := difference(before.inputs(stage), now.inputs(stage)):
                    raise InputError(
                        f"{name} is {slurm} with other inputs: {changed}; scancel {slurm.number}, or give another --out"
                    )


def refuse_live(study: Path, plan: Mapping[str, Any]) -> None:
    """Refuse to run on this machine what Slurm has queued or runs.

    Raises:
        InputError: one line that names the Slurm jobs.
    """
    live = [job.number for job in slurm_jobs(study, plan).values() if job.is_live]
    if live:
        raise InputError(f"Slurm has {len(live)} jobs of {study}: --on slurm, or scancel {' '.join(live)}")


def _submit(task: Task, options: Slurm, before: Sequence[str]) -> str:
    try:
        import submitit
    except ImportError as error:
        raise MissingPackageError(f'--on slurm needs submitit ({error}): pip install "medmixers[slurm]"') from error
    executor = submitit.SlurmExecutor(folder=task.folder / SLURM / "%j", max_num_timeout=MOST_TIMEOUTS)
    asked = {key: getattr(options, key) for key in (*TEXTS, "mem")}
    more: dict[str, Any] = {"requeue": True}  # also where the cluster's default is not to
    if before:
        more |= {"dependency": f"afterok:{':'.join(before)}", "kill-on-invalid-dep": "yes"}
    executor.update_parameters(
        job_name=task.name, time=options.time, cpus_per_task=options.cpus, gpus_per_node=options.gpus or None,
        additional_parameters=more, **asked,
    )  # fmt: skip
    try:
        return str(executor.submit(task).job_id)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise InputError(f"sbatch refused {task.name}: {' '.join(lines[-1:])}") from error


class Task:
    """What Slurm starts on a node: the job command, with submitit's way to be queued again.

    Args:
        words: the job command without its last word, the device.
        study: the study's folder.
        name: of the job.
        limit: minutes of one start.
        has_gpu: whether the job asked for a GPU.
    """

    def __init__(self, words: list[str], study: Path, name: str, limit: int, *, has_gpu: bool) -> None:
        self.words, self.name, self.limit, self.has_gpu = words, name, limit, has_gpu
        self.folder = run_folder(study, name)
        self.process: int | None = None
        self.start, self.before = 0.0, (0, 0)

    def __call__(self) -> None:
        """Run the job command. Told to end, it is queued again, unless Slurm itself ends the job.

        Raises:
            RuntimeError: the job failed, or was cancelled.
        """
        import submitit

        ask_to_end = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        self.start, self.before = time.monotonic(), self._progress()
        process = subprocess.Popen(
            [*self.words, self._device()], stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(ask_to_end, signal.SIG_IGN),  # Slurm sends it to all processes of the job
        )  # fmt: skip
        self.process = process.pid
        while process.poll() is None:
            time.sleep(POLL)
        if process.returncode == REQUEUE and _is_running(os.environ["SLURM_JOB_ID"]):
            signal.raise_signal(ask_to_end)  # submitit calls checkpoint(), requeues and exits
        if process.returncode:
            ended = "was told to end" if process.returncode == REQUEUE else f"exit status {process.returncode}"
            raise RuntimeError(f"{self.name}: {ended}")

    def checkpoint(self) -> Any:
        """End the job command, which leaves what it needs to go on. Submitit calls it before it requeues.

        Raises:
            RuntimeError: nothing was finished within the time limit: the next start would not do better.
        """
        import submitit

        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.process, signal.SIGTERM)
                os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOWAIT)  # Popen's own wait may hold its lock
        if time.monotonic() - self.start > 0.8 * 60 * self.limit and self._progress() <= self.before:
            line = f"no epoch or stage was finished within Slurm's limit of {self.limit} min: give more time"
            write_json(self.folder / FAILED, {"stage": SLURM, "line": line, "time": now_text()})
            raise RuntimeError(line)
        self.process = None
        return submitit.helpers.DelayedSubmission(self)

    def _progress(self) -> tuple[int, int]:
        """Finished stages, and the last finished epoch."""
        stages = sum(stage_file(self.folder, stage).is_file() for stage in (*STAGES, PREPARE))
        rows = progress_rows(self.folder)
        return stages, int(rows[-1]["epoch"]) if rows else 0

    def _device(self) -> str:
        if not self.has_gpu:
            return "cpu"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
        if not visible:
            raise RuntimeError("the job asked for a GPU, but Slurm set no CUDA_VISIBLE_DEVICES")
        return f"cuda:{visible}"


def _is_running(number: str) -> bool:
    """Whether Slurm keeps this job, neither cancels it nor queues it again itself."""
    words = ["squeue", "--noheader", "--jobs", number, "--format=%T"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() == "RUNNING"
