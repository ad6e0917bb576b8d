"""One job of a study: prepare a data set, or train, predict and score one entry with one seed.

The same idempotent command runs it everywhere: ``medmixers study job STUDY ID``. Finished stages are skipped, an
unfinished training goes on from its checkpoint, and a job that another process holds is refused.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from medmixers.errors import InputError
from medmixers.registry import valid_names
from medmixers.results import write_json
from medmixers.study.engine.job import ENDING, Ended, Job, JobFailed
from medmixers.study.engine.records import (
    FAILED,
    LOG,
    PREPARE,
    SCORE,
    SCORES,
    STAGES,
    difference,
    is_done,
    locked,
    needs,
    now_text,
    prepared_dataset,
    read_json,
    read_plan,
    run_folder,
    stage_file,
    write_record,
)

REQUEUE = 75  # exit status of a job that was ended and may go on


class World(Protocol):
    """What trains. The arguments are the job's data set, entry and run."""

    def prepare(self, job: Job) -> dict[str, Any]:
        """Do what is done once per data set; returns facts for PREPARE.json."""

    def train(self, job: Job) -> None:
        """Train or go on, and write run.json and curve.csv."""

    def predict(self, job: Job) -> None:
        """Write predictions/ or probabilities.csv."""


def world_of(name: str) -> World:
    """The world of a data set."""
    if name == "bundle":
        from medmixers.study.engine.worlds.bundle import BundleWorld

        return BundleWorld()
    from medmixers.study.engine.worlds.nnunet import NnUNetWorld

    return NnUNetWorld()


def make_job(study: Path, plan: Mapping[str, Any], name: str, device: str = "auto") -> Job:
    """The job of this name. Raises InputError, naming the nearest, for an unknown one."""
    graph = needs(plan)
    if name not in graph:
        raise InputError(f"{study} has no job {name!r}; valid: {valid_names(name, graph, listing='study status')}")
    run = next((run for run in plan["runs"] if run["id"] == name), None)
    dataset_name = run["dataset"] if run else prepared_dataset(name)
    dataset = next(each for each in plan["datasets"] if each["name"] == dataset_name)
    entry = next((each for each in plan["entries"] if run and each["name"] == run["entry"]), None)
    return Job(study, plan, name, dataset, run, entry, device)


def stages_of(job: Job) -> tuple[str, ...]:
    """Names of the job's stages, in order."""
    return (PREPARE,) if job.run is None else STAGES


def finished(study: Path, plan: Mapping[str, Any], name: str) -> bool:
    """Whether all stages of a job are done. Raises InputError where one was made with other inputs."""
    job = make_job(study, plan, name)
    done = [is_done(job.folder, stage, job.inputs(stage), name=name) for stage in stages_of(job)]
    return all(done)


def drop_old_scores(study: Path, plan: Mapping[str, Any]) -> dict[str, str]:
    """Delete scores that were made with another tolerance, truth or group, so that no table mixes them with new ones.

    Scores whose table is gone are old too.

    Returns:
        Training -> what differs. Its job scores the predictions again.

    Raises:
        InputError: there are no predictions of one of them; nothing is deleted.
    """
    old: dict[str, str] = {}
    for run in plan["runs"]:
        job = make_job(study, plan, run["id"])
        record, inputs = read_json(stage_file(job.folder, SCORE)), job.inputs(SCORE)
        if record is None or is_done(job.folder, SCORE, inputs, name=job.name):
            continue
        old[job.name] = difference(record["inputs"], inputs) or f"no {SCORES}"
        if not any((job.folder / name).exists() for name in ("predictions", "probabilities.csv")):
            raise InputError(
                f"{job.name}: its scores must be made again: {old[job.name]}; it has no predictions to score; restore "
                f"the inputs, give another --out, or remove {job.folder}"
            )
    for name in old:
        for file in (stage_file(run_folder(study, name), SCORE), run_folder(study, name) / SCORES):
            file.unlink(missing_ok=True)
    if old:
        (study / SCORES).unlink(missing_ok=True)  # of all runs; made again in the end
    return old


def run_job(
    study: str | Path, name: str, *, device: str = "auto", find_world: Callable[[str], World] = world_of
) -> str:
    """Run the stages of a job that are not done.

    Args:
        study: the study's folder.
        name: of the job.
        device: as of :class:`Job`.
        find_world: what trains a data set.

    Returns:
        One line that says what was done.

    Raises:
        InputError: no such job, other inputs, a job that another process holds, or a failed stage.
        Ended: the process was told to end.
    """
    study = Path(study).resolve()
    plan = read_plan(study)
    job = make_job(study, plan, name, device)
    done = []
    with locked(job.folder, name) as job.lock, _told_to_end():
        (job.folder / FAILED).unlink(missing_ok=True)
        for stage in stages_of(job):
            if is_done(job.folder, stage, job.inputs(stage), name=name):
                continue
            start = now_text()
            try:
                _refuse_changed(job, stage)
                facts = _stage(find_world(job.dataset["world"]), stage, job)
            except Exception as error:
                line = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
                write_json(job.folder / FAILED, {"stage": stage, "line": line, "time": now_text()})
                if isinstance(error, JobFailed):
                    raise JobFailed(f"{name}: {stage} failed: {line}; log: {job.folder / LOG}") from error
                raise
            write_record(job.folder, stage, job.inputs(stage), start, **facts)
            done.append(stage)
    return f"{name}: {', '.join(done) or 'nothing to do'}"


def _refuse_changed(job: Job, stage: str) -> None:
    """Refuse data or start weights that are no longer what the plan says. Plans of older versions do not say it."""
    if job.dataset.get("contents") is None:
        return
    from medmixers.study.engine.contents import refuse_changed, refuse_changed_weights

    if stage == "train" and job.entry is not None:
        refuse_changed_weights(job.name, job.entry)

    cases = job.dataset["cases"] if job.run is None else [case for part in job.parts.values() for case in part]
    refuse_changed(job.study, job.name, job.dataset, cases)


def _stage(world: World, stage: str, job: Job) -> dict[str, Any]:
    if stage == PREPARE:
        return world.prepare(job)
    if stage == "train":
        world.train(job)
    elif stage == "predict":
        world.predict(job)
    else:
        from medmixers.study.scores import score_run

        score_run(job.study, dict(job.run or {}), dict(job.plan))
    return {}


class _told_to_end:
    """Turn the signals that end a job into :class:`Ended`."""

    def __enter__(self) -> None:
        self.before = {number: signal.signal(number, self._end) for number in ENDING}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)  # once is enough: the training is being ended
        raise Ended(signal.Signals(number).name)


def job_command(study: Path, name: str, device: str) -> Sequence[str]:
    """The command of a job."""
    return [sys.executable, "-m", "medmixers", "study", "job", str(study), name, "--device", device]
