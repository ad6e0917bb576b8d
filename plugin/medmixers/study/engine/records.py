"""Records of a study's folder: the plan, finished stages with the hash of their inputs, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medmixers.bundle_runtime.epoch_table import PROGRESS_COLUMNS, read_rows
from medmixers.errors import InputError, MissingFileError
from medmixers.results import write_json

PLAN, SPEC, LOCK, LOG, FAILED = "plan.json", "study.yaml", "lock", "log.txt", "failed.json"
PREPARE, SCORE, SCORES = "prepare", "score", "scores.csv"
STAGES = ("train", "predict", SCORE)
PROGRESS = "progress.csv"  # of a training: one row per finished epoch
GRADIENT_NORMS = "gradient_norms.csv"  # of a training: one row per finished epoch and layer

TRIES = 5  # to lock: is_locked() of another process may hold the lock for an instant


class LockedError(InputError):
    """A job that another process holds."""


def read_plan(study: str | Path) -> dict[str, Any]:
    """The plan of a study's folder. Raises MissingFileError where there is none."""
    file = Path(study) / PLAN
    if not file.is_file():
        raise MissingFileError(f"{study} has no {PLAN}: medmixers study run S.yaml makes it")
    return dict(read_json(file))


def read_json(file: Path) -> Any:
    """Content of a JSON file that may be missing: None then. Raises InputError for a damaged one."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # UnicodeDecodeError is one
        raise InputError(f"{file} is damaged: {error}; restore it, or remove it") from None


def run_folder(study: Path, job: str) -> Path:
    """Folder of a training, or of a data set's preparation for ``prepare__DATASET``."""
    dataset = prepared_dataset(job)
    return study / "runs" / job if dataset is None else study / PREPARE / dataset


def prepared_dataset(job: str) -> str | None:
    """Name of the data set of ``prepare__DATASET``; None for a training."""
    return job.removeprefix(f"{PREPARE}__") if job.startswith(f"{PREPARE}__") else None


def needs(plan: Mapping[str, Any]) -> dict[str, list[str]]:
    """Job -> jobs that must be done before; preparations first, then the trainings in the plan's order."""
    prepared = [f"{PREPARE}__{dataset['name']}" for dataset in plan["datasets"] if dataset["world"] == "nnunet"]
    graph: dict[str, list[str]] = {name: [] for name in prepared}
    for run in plan["runs"]:
        before = f"{PREPARE}__{run['dataset']}"
        graph[run["id"]] = [before] if before in prepared else []
    return graph


def progress_rows(folder: Path) -> list[dict[str, str]]:
    """The finished epochs of a training; none where it has not begun."""
    return read_rows(folder / PROGRESS, PROGRESS_COLUMNS)


def stage_file(folder: Path, stage: str) -> Path:
    """The record of a finished stage: train.json, or PREPARE.json."""
    return folder / ("PREPARE.json" if stage == PREPARE else f"{stage}.json")


def is_recorded(folder: Path, stage: str) -> bool:
    """Whether a stage was finished once, and its scores are still there."""
    return stage_file(folder, stage).is_file() and (stage != SCORE or (folder / SCORES).is_file())


def inputs_hash(inputs: Mapping[str, Any]) -> str:
    """Hash of what a stage is made from."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def is_done(folder: Path, stage: str, inputs: Mapping[str, Any], *, name: str) -> bool:
    """Whether a stage is finished. Scores of other inputs, or without their table, are made again from the predictions.

    Raises:
        InputError: another stage was made from other inputs; the message names the difference.
    """
    record = read_json(stage_file(folder, stage))
    if record is None or not is_recorded(folder, stage):
        return False
    before = record.get("inputs", {})
    if stage == PREPARE:  # of more entries and folds than the study has now
        more = {key: before[key] for key in ("entries", "cases") if key in before}
        before |= {key: {each: held[each] for each in held if each in inputs[key]} for key, held in more.items()}
    if inputs_hash(before) == inputs_hash(inputs):
        return True
    if stage == SCORE:
        return False
    ways = f"give another --out, or remove {folder}"
    if lacking := sorted({*inputs} - {*before}):
        raise InputError(
            f"{name}: {stage} was recorded by an older version, which did not note its {', '.join(lacking)}; {ways}"
        )
    raise InputError(f"{name}: {stage} was made with other inputs: {difference(before, inputs)}; restore them, {ways}")


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The values that differ, "epochs 2 -> 3"; nested ones by their own names."""
    parts = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = difference(old, new)
            parts += [inner] if inner else []
        elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            parts.append(f"{key} {old} -> {new}")
    return ", ".join(parts)


def write_record(folder: Path, stage: str, inputs: Mapping[str, Any], start: str, **more: Any) -> None:
    """Mark a stage as finished."""
    record = {"hash": inputs_hash(inputs), "inputs": inputs, "start": start, "end": now_text(), **more}
    write_json(stage_file(folder, stage), record)


def now_text() -> str:
    """The time in UTC, to seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[int]:
    """Hold the lock of a folder; the file names host, process and Slurm job.

    The yielded descriptor may be handed to a child: the lock is free when all processes that have it are gone.

    Raises:
        LockedError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for left in reversed(range(TRIES)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise LockedError(f"{name} is running on {holder(folder)}") from None
                time.sleep(0.05)
        slurm = os.environ.get("SLURM_JOB_ID")
        who = {"host": socket.gethostname(), "pid": os.getpid(), "slurm": slurm, "start": now_text()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
        os.fsync(descriptor)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder(folder: Path) -> str:
    """Who holds the lock of a folder: "HOST, pid N"."""
    try:
        who = json.loads((folder / LOCK).read_text())
    except (OSError, ValueError):
        return "an unknown host"
    slurm = f", Slurm job {who['slurm']}" if who.get("slurm") else ""
    return f"{who['host']}, pid {who['pid']}{slurm}"


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
