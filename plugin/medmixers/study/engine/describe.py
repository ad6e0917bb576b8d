"""A plan in words: jobs, hours, disk, what it can find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from medmixers.errors import InputError
from medmixers.progress import Announce, silent
from medmixers.recipes import RECIPES
from medmixers.study.engine.cost import step_seconds
from medmixers.study.engine.design import Design
from medmixers.study.engine.plan import built_of
from medmixers.study.engine.records import read_json
from medmixers.study.engine.worlds.bundle import row_of

GIB = 2**30
# Bytes per parameter on disk while a training runs: weights, and two states of weights and two moments.
BYTES = {"bundle": 4 * (1 + 2 * 3), "nnunet": 4 * 2 * 2}


def describe_plan(
    plan: Mapping[str, Any], designs: Mapping[str, Design], *, out: Path, measure: bool, announce: Announce = silent
) -> str:
    """The job table, hours, disk and detectable differences.

    Args:
        plan: content of plan.json.
        designs: of each data set.
        out: the study's folder, whose finished trainings tell how long a step takes.
        measure: time a training step of each entry on the first device.
        announce: called with the name of each step that is timed.
    """
    lines = [f"study {plan['study']}: {len(plan['runs'])} trainings", ""]
    total, unknown = 0.0, False
    widths = max(len(entry["name"]) for entry in plan["entries"])
    for row in plan["datasets"]:
        lines.append(_heading(row))
        for entry in plan["entries"]:
            if entry["name"] not in row["entries"]:
                continue
            runs = [run for run in plan["runs"] if (run["dataset"], run["entry"]) == (row["name"], entry["name"])]
            if measure:
                announce(f"{row['name']} {entry['name']}")
            hours = _hours(plan, row, entry, out, measure=measure)
            unknown, total = unknown or hours is None, total + (hours or 0) * len(runs)
            each = "time unknown" if hours is None else f"{hours:.3g} h each"
            parameters = row["parameters"].get(entry["name"])
            size = "" if parameters is None else f", {parameters / 1e6:.2f} M parameters"
            lines.append(f"  {entry['name']:<{widths}}  {len(runs)} trainings, {each}{size}")
        lines += [f"  {text}" for text in _design_lines(designs[row["name"]], row)] + [""]
    lines += _cost_lines(plan, total, unknown=unknown)
    lines += [f"note: {note}" for note in plan["notes"]]
    lines += [f"overridden: {reason}" for reason in plan["refusals"]]
    lines += [f"missing: {what}" for what in plan["missing"]]
    if plan["missing"]:
        lines.append("study run needs what is missing")
    return "\n".join(lines)


def _heading(row: Mapping[str, Any]) -> str:
    parts = row["parts"]
    if "missing" in row:
        cases = "no" if "test" in parts else f"{len(parts)} folds, no"
    elif "test" in parts:
        cases = ", ".join(f"{len(parts['test'][part])} {part}" for part in parts["test"] if parts["test"][part])
    else:
        cases = f"{len(row['cases'])} in {len(parts)} folds"
    world = "MONAI Bundle" if row["world"] == "bundle" else f"nnU-Net {row['configuration']}"
    return f"{row['name']} ({world}, {row['kind']}, {row['spatial_dims']}D): {cases} cases, {row['metric']}"


def _design_lines(design: Design, row: Mapping[str, Any]) -> list[str]:
    detectable = design.detectable()
    what = f"{design.cases} independent test cases, {design.seeds} seeds, {design.comparisons} comparison(s)"
    if design.cases is None:
        return ["detectable difference: unknown, the data is missing"]
    if detectable is None or design.spread is None:
        return [f"detectable difference: unknown ({what}); give question: sd or pilot"]
    spread = f"seed sd {design.spread.seed:.3g}, residual sd {design.spread.residual:.3g}, {design.spread.source}"
    return [f"detectable difference: {detectable:.4g} {row['metric']} with 80 % power ({what}; {spread}), "
            f"margin {design.margin:g}"]  # fmt: skip


def _cost_lines(plan: Mapping[str, Any], total: float, *, unknown: bool) -> list[str]:
    devices = plan["devices"]
    if unknown:
        hours = "time: unknown for some entries; --measure times a training step of each"
    else:
        hours = f"time: {total:.3g} h, {total / len(devices):.3g} h per device on {', '.join(devices)}"
    disk = sum(
        BYTES[row["world"]] * row["parameters"].get(run["entry"], 3e7)
        for row in plan["datasets"]
        for run in plan["runs"]
        if run["dataset"] == row["name"]
    )
    more = ", and nnU-Net's preprocessed data" if any(row["world"] == "nnunet" for row in plan["datasets"]) else ""
    asked = {key: value for key, value in (plan["slurm"] or {}).items() if value is not None}
    slurm = ["slurm, per job: " + ", ".join(f"{key} {value}{' min' * (key == 'time')}" for key, value in asked.items())]
    return [hours, *slurm * bool(asked), f"disk: about {disk / GIB:.2g} GiB of weights{more}"]


def _hours(
    plan: Mapping[str, Any], row: Mapping[str, Any], entry: Mapping[str, Any], out: Path, *, measure: bool
) -> float | None:
    """Hours of one training: from finished trainings of this study, else timed; None where neither is possible."""
    seconds = [
        facts["train_seconds"]
        for run in plan["runs"]
        if (run["dataset"], run["entry"]) == (row["name"], entry["name"])
        and (facts := read_json(out / "runs" / run["id"] / "run.json"))
        and facts.get("train_seconds")
    ]
    if seconds:
        return median(seconds) / 3600
    if not measure or row["world"] == "nnunet" or "missing" in row:  # nnU-Net's patch is known once it has planned
        return None
    network, options, size = built_of(row, entry)
    bundle = row_of(row, entry)
    recipe, training = RECIPES[bundle.recipe], row["training"]
    cases = len(next(iter(row["parts"].values()))["training"])
    batch = min(training["batch_size"] or recipe.batch_size, cases)
    patches = recipe.patches_per_image if bundle.roi_size else 1
    try:
        step = step_seconds(
            network, options, size, row["channels"], row["out_channels"], batch_size=batch * patches,
            device=plan["devices"][0],
        )  # fmt: skip
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--measure on {plan['devices'][0]}: {error}") from error
    steps = math.ceil(cases / batch) * (training["epochs"] or bundle.epochs)
    return step * steps / 3600
