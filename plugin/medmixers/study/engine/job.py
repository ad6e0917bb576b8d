"""One job of a study, as a world sees it: its data set, entry and seed, its folder, and how it runs commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.errors import InputError
from medmixers.processes import end_with_parent
from medmixers.study.engine.records import LOG, now_text, run_folder
from medmixers.study.rows import NSD_TOLERANCE

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # signals that tell a job to end

# stage -> digests of the parts that it and those before it read
PARTS: dict[str, tuple[str, ...]] = {
    "train": ("training", "validation"),
    "predict": ("training", "validation", "test"),
    "score": ("training", "validation", "test", "truth"),
}


class Ended(BaseException):
    """The job was told to end; it goes on when it is started again."""


class JobFailed(InputError):
    """A command of the job ended with an error."""


@dataclass
class Job:
    """What a world needs for one job.

    Args:
        study: the study's folder.
        plan: content of plan.json.
        name: of the job.
        dataset: its row of the plan.
        run: the training's row of the plan; None for a preparation.
        entry: the training's entry; None for a preparation.
        device: "cuda:0", "cpu", "mps", or "auto" for what torch finds.
        lock: descriptor of the lock, which the job's commands inherit.
    """

    study: Path
    plan: Mapping[str, Any]
    name: str
    dataset: dict[str, Any]
    run: dict[str, Any] | None
    entry: dict[str, Any] | None
    device: str
    lock: int = -1

    @property
    def folder(self) -> Path:
        """Folder of the job."""
        return run_folder(self.study, self.name)

    @property
    def parts(self) -> dict[str, list[str]]:
        """Training, validation and test cases of the run."""
        return dict(self.dataset["parts"][self.part])

    @property
    def part(self) -> str:
        """Name of the run's parts in the plan: "test", or the number of its fold."""
        assert self.run is not None
        return "test" if self.run["fold"] is None else str(self.run["fold"])

    @property
    def device_type(self) -> str:
        """ "cuda", "cpu" or "mps"."""
        if self.device != "auto":
            return self.device.partition(":")[0]
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def inputs(self, stage: str) -> dict[str, Any]:
        """What a stage is made from; what the stages before it are made from is in it."""
        keys = ("name", "world", "training", "configuration", "definition")
        dataset = {key: self.dataset.get(key) for key in keys}
        shared = {"stage": stage, "dataset": dataset, "versions": self.plan["versions"], "commit": self.plan["commit"]}
        contents = self.dataset.get("contents", {})
        if self.run is None or self.entry is None:
            names = self.dataset.get("entries", ())
            entries = {each["name"]: each["what"] for each in self.plan["entries"] if each["name"] in names}
            held = ("training",) if "test" in contents else ("training", "test")
            folds = {key: {each: part[each] for each in held} for key, part in contents.items()}
            return {**shared, "entries": entries, "cases": folds}
        entry = {key: self.entry[key] for key in ("name", "what")}
        part = contents.get(self.part, {})
        cases = {key: part.get(key) for key in PARTS[stage]}
        inputs = {**shared, "entry": entry, "seed": self.run["seed"], "fold": self.run["fold"], "cases": cases}
        if stage == "score" and self.dataset.get("kind") == "segmentation":
            inputs["nsd_tolerance"] = float(self.plan["question"].get("nsd_tolerance") or NSD_TOLERANCE)
        return inputs

    def command(self, *words: str | Path, **variables: str) -> None:
        """Run a command with its output in log.txt. It ends when the job ends, however that happens.

        Raises:
            JobFailed: it ended with an error; the message is the log's last line of an error.
            Ended: it was told to end, as Slurm tells all processes of a job.
        """
        environment = {**os.environ, **device_variables(self.device), **variables}
        if self.plan.get("threads"):
            environment["OMP_NUM_THREADS"] = str(self.plan["threads"])
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(f"\n{now_text()} {' '.join(map(str, words))}\n")
            log.flush()
            place = log.tell()
            process = subprocess.Popen(
                [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, pass_fds=[self.lock] if self.lock >= 0 else [], preexec_fn=end_with_parent(),
                start_new_session=True,
            )  # fmt: skip
        try:
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        if -status in ENDING:
            raise Ended(signal.Signals(-status).name)
        if status:
            raise JobFailed(f"{last_error(self.folder / LOG, place) or f'exit status {status}'}")


def device_variables(device: str) -> dict[str, str]:
    """Environment that shows a process its one device."""
    kind, _, number = device.partition(":")
    if device == "auto" or kind == "mps":
        return {}
    return {"CUDA_VISIBLE_DEVICES": number if kind == "cuda" else ""}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and its workers: politely, then by force."""
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def last_error(log: Path, start: int = 0) -> str:
    """The last line of a log, from a byte on, that says an error; else its last line."""
    try:
        with open(log, "rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if "error" in line.lower() and not line.startswith("File ")]
    return (errors or lines or [""])[-1][-500:]
