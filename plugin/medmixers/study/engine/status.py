"""What each job of a study is at, from its files and from Slurm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.study.engine.records import (
    FAILED,
    LOG,
    PREPARE,
    STAGES,
    holder,
    is_locked,
    is_recorded,
    needs,
    prepared_dataset,
    progress_rows,
    read_json,
    read_plan,
    run_folder,
)
from medmixers.study.engine.slurm_queue import UNKNOWN, SlurmJob, last_words, slurm_jobs

AGAIN = "goes on with the next run"


@dataclass(frozen=True)
class JobStatus:
    """State of one job: waiting, running, stopped, failed or done, and what more there is to say."""

    name: str
    state: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.state}{f', {self.detail}' if self.detail else ''}"


def describe_job(study: Path, plan: Mapping[str, Any], name: str, slurm: SlurmJob | None = None) -> JobStatus:
    """Where a job stands; ``slurm`` is its last Slurm job."""
    folder = run_folder(study, name)
    stages = STAGES if prepared_dataset(name) is None else (PREPARE,)
    left = [stage for stage in stages if not is_recorded(folder, stage)]
    if not left:
        return JobStatus(name, "done")
    failure = read_json(folder / FAILED)
    if is_locked(folder):
        return JobStatus(name, "running", f"{_at(folder, left[0])} on {holder(folder)}")
    if slurm is not None and slurm.is_live:
        return JobStatus(name, "running" if slurm.state == "RUNNING" else "waiting", f"{_at(folder, left[0])}, {slurm}")
    if failure is not None:
        return JobStatus(name, "failed", f"{failure['stage']}: {failure['line']}")
    if slurm is not None and slurm.state != UNKNOWN:
        said = last_words(folder, slurm)
        return JobStatus(name, "stopped", f"{_at(folder, left[0])}; {slurm}{f': {said}' if said else ''}; {AGAIN}")
    if (folder / LOG).is_file():
        return JobStatus(name, "stopped", f"{_at(folder, left[0])}; {AGAIN}")
    return JobStatus(name, "waiting", "" if slurm is None else str(slurm))


def _at(folder: Path, stage: str) -> str:
    """ "epoch 312/1000, 2 h 10 min left" of a training; else the stage."""
    rows = progress_rows(folder) if stage == "train" else []
    if not rows:
        return stage
    epoch, epochs = int(rows[-1]["epoch"]), int(rows[-1]["epochs"])
    recent = [float(row["seconds"]) for row in rows[-10:]]
    return f"epoch {epoch}/{epochs}, {duration((epochs - epoch) * sum(recent) / len(recent))} left"


def duration(seconds: float) -> str:
    """ "35 s", "12 min", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def study_status(study: str | Path) -> str:
    """One line per job, and the number of jobs in each state."""
    study = Path(study)
    plan = read_plan(study)
    in_slurm = slurm_jobs(study, plan)
    jobs = [describe_job(study, plan, name, in_slurm.get(name)) for name in needs(plan)]
    counts = Counter(job.state for job in jobs)
    total = ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "waiting", "stopped", "failed"))
    return "\n".join([*map(str, jobs), f"{len(jobs)} jobs: {total}"])
