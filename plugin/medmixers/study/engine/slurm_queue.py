"""What Slurm knows about a study's jobs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.errors import InputError
from medmixers.study.engine.records import needs, read_json, run_folder

SLURM = "slurm"  # a job's folder of submitit's files
ERROR = "medmixers: error: "
SUBMITTED = "slurm.json"  # in a job's folder: the number of its last Slurm job
UNKNOWN = "UNKNOWN"  # on a machine without Slurm
OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT")  # fmt: skip


@dataclass(frozen=True)
class SlurmJob:
    """A Slurm job of a study.

    Args:
        number: of the job.
        state: in Slurm's words; empty where Slurm has forgotten the job, :data:`UNKNOWN` without Slurm.
        reason: why it waits, in Slurm's words; empty for "None".
    """

    number: str
    state: str = ""
    reason: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it is queued or running."""
        return self.state not in ("", UNKNOWN, *OVER)

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"Slurm job {self.number} {self.state or 'has ended'}{reason}"


def slurm_jobs(study: Path, plan: Mapping[str, Any]) -> dict[str, SlurmJob]:
    """Job -> its last Slurm job, of those that were submitted. Slurm is asked only where there are any.

    Raises:
        InputError: Slurm does not answer.
    """
    numbers = {
        name: str(record["job"])
        for name in needs(plan)
        if (record := read_json(run_folder(study, name) / SUBMITTED)) is not None
    }
    if not numbers:
        return {}
    if shutil.which("squeue") is None:
        return {name: SlurmJob(number, UNKNOWN, "no squeue here") for name, number in numbers.items()}
    found = _ask(numbers.values())
    return {name: found.get((number, name), SlurmJob(number)) for name, number in numbers.items()}


def last_words(folder: Path, job: SlurmJob) -> str:
    """What a Slurm job that has ended said last: the command's own error, else the last line; empty if cancelled."""
    file = folder / SLURM / job.number / f"{job.number}_0_log.err"
    if job.state == "CANCELLED" or not file.is_file():
        return ""
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    ours = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    others = [line for line in lines if not line.startswith(("srun:", "slurmstepd"))]
    return (ours or others or [""])[-1][-500:]


def _ask(numbers: Iterable[str]) -> dict[tuple[str, str], SlurmJob]:
    """Number and name -> job. The name tells a job of ours from one of another cluster with the same number."""
    words = ["squeue", "--noheader", "--states=all", "--jobs", ",".join(numbers), "--format=%i|%j|%T|%r"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:  # it says so of a single job that it has forgotten
        raise InputError(f"squeue: {(answer.stderr.strip().splitlines() or ['no answer'])[-1]}")
    jobs = {}
    for line in answer.stdout.splitlines():
        number, name, state, reason = line.strip().split("|", 3)
        jobs[number, name] = SlurmJob(number, state, "" if reason == "None" else reason)
    return jobs
