"""What ``medmixers study plan`` and ``study run`` do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmixers.errors import ExistingFileError, InputError
from medmixers.files import written_whole
from medmixers.progress import Announce, note, silent
from medmixers.results import write_json
from medmixers.study.engine.jobs import drop_old_scores, finished
from medmixers.study.engine.local import LocalRunner
from medmixers.study.engine.records import PLAN, SPEC, holder, is_locked, needs, read_json, stage_file
from medmixers.study.engine.slurm import refuse_changes, refuse_live, submit_study
from medmixers.study.engine.spec import Spec, read_spec
from medmixers.study.rows import named

PLACES = ("local", "slurm")


def plan_text(
    file: str, out: str | None = None, *, measure: bool, allow_underpowered: bool, announce: Announce = silent
) -> str:
    """Plan a study and say what it costs; nothing is written."""
    spec = read_spec(file)
    announce("load torch")
    from medmixers.study.engine.describe import describe_plan
    from medmixers.study.engine.plan import design_of, make_plan

    announce("build each network")
    plan = make_plan(spec, allow_underpowered=allow_underpowered, allow_missing=True)
    designs = {row["name"]: design_of(spec, row) for row in plan["datasets"]}
    return describe_plan(plan, designs, out=study_folder(spec, out), measure=measure, announce=announce)


def run_study(
    file: str, out: str | None = None, *, on: str = "local", allow_underpowered: bool = False
) -> tuple[str, dict[str, str]]:
    """Plan a study into its folder, and run what is not done, or submit it.

    Returns:
        What was done in words, and job -> reason of each job that failed.

    Raises:
        InputError: no such ``on``, faults of the file, a design that cannot answer the question, finished trainings of
            other inputs, or a study that another process runs.
    """
    if on not in PLACES:
        raise InputError(f"--on must be {' or '.join(PLACES)}, got {on!r}")
    spec = read_spec(file)
    folder = study_folder(spec, out)
    plan = write_plan(spec, folder, allow_underpowered=allow_underpowered)
    total = len(needs(plan))
    if on == "slurm":
        submitted, there = submit_study(folder, plan)
        if submitted or there:
            done = total - len(submitted) - len(there)
            listed = "".join(f"\n  {name}: {where}" for name, where in there.items())
            return (
                f"{folder}: {len(submitted)} jobs submitted to Slurm, {done} done{', not submitted:' * bool(there)}"
                f"{listed}\nnext: medmixers study status {folder}"
            ), {}
        failed = {}
    else:
        refuse_live(folder, plan)
        failed = LocalRunner(folder, plan, plan["devices"]).run()
    if failed:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
        return f"{folder}: {total - len(failed)} of {total} jobs done, {len(failed)} failed:{listed}", failed
    from medmixers.study.scores import join

    return f"{folder}: all {total} jobs done; scores: {join(folder)}; next: medmixers study report {folder}", failed


def study_folder(spec: Spec, out: str | None) -> Path:
    """The given folder, or one with the study's name next to its file."""
    return Path(out) if out is not None else spec.path.parent / spec.study


def write_plan(spec: Spec, folder: Path, *, allow_underpowered: bool) -> dict[str, Any]:
    """Write plan.json and study.yaml, after a check that no finished training was made with other inputs.

    Scores of another tolerance, truth or group are deleted; their jobs score the predictions again.

    Raises:
        ExistingFileError: the folder is no study.
        InputError: it is another study or running, or the plan differs from what was trained.
    """
    from medmixers.study.engine.contents import FILES, add_contents, changed_cases
    from medmixers.study.engine.plan import make_plan

    old = read_json(folder / PLAN)
    if old is None and folder.exists() and {path.name for path in folder.iterdir()} - {FILES}:
        raise ExistingFileError(f"{folder} exists and is no study; give another --out")
    if old is not None and old["study"] != spec.study:
        raise InputError(f"{folder} is study {old['study']!r}, {spec.path} is study {spec.study!r}; give another --out")
    plan = make_plan(spec, allow_underpowered=allow_underpowered)
    if folder.is_dir() and is_locked(folder):
        raise InputError(f"study {folder} is running on {holder(folder)}")
    _refuse_dropped(spec, folder, plan)
    add_contents(folder, plan)
    changed = f" ({said})" if (said := changed_cases(old or {}, plan)) else ""
    try:
        for name in needs(plan):
            finished(folder, plan, name)
    except InputError as error:
        raise InputError(f"{error}{changed}") from error
    if old is not None:
        refuse_changes(folder, plan)
    if again := drop_old_scores(folder, plan):
        differences = "; ".join(dict.fromkeys(again.values()))
        note(f"{folder}: {len(again)} finished trainings are scored again: {differences}{changed}")
    if old != plan:
        write_json(folder / PLAN, plan)
    with written_whole(folder / SPEC) as partial:
        shutil.copyfile(spec.path, partial)
    return plan


def _refuse_dropped(spec: Spec, folder: Path, plan: Mapping[str, Any]) -> None:
    """Refuse a file without trainings that are finished in the folder: the table of scores would lose them."""
    kept = needs(plan)
    trained = [path.parent.name for path in sorted(folder.glob(f"runs/*/{stage_file(folder, 'train').name}"))]
    if dropped := [name for name in trained if name not in kept]:
        raise InputError(
            f"{spec.path} lacks finished trainings of {folder}: {named(dropped)}; keep their entries, seeds, folds and "
            f"data sets, give another --out, or remove their folders in {folder / 'runs'}"
        )
