"""Record a finished study of this machine: its figures in results/measured.json, and the documents' tables.

python scripts/benchmarks/record_study.py demo_run/demo     # of scripts/demo.sh
python scripts/benchmarks/record_study.py compare_nnunet    # of: medmixers study example compare_nnunet

A study of changed sources, or one whose trainings are not all scored, is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, one_line_errors
from medmixers.results import CHANGED, describe_run, documents, record
from medmixers.results.measured_code import measured_code_digest
from medmixers.study.report.folder import SCORED, StudyFolder, read_folder

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ("demo", "compare_nnunet")  # those with a table in the documents


def figures(study: StudyFolder) -> list[dict[str, Any]]:
    """One row per training."""
    rows = []
    for run in study.runs:
        data = next(each for each in study.plan["datasets"] if each["name"] == run.dataset)
        dice = {name: study.class_means[run.dataset, "dice", run.entry, name] for name in data["classes"]}
        rows.append({
            "world": data["world"],
            "recipe": data["training"]["recipe"],
            "entry": run.entry,
            "parameters": run.facts["parameters"],
            "dice": dice,
            "step_seconds": run.facts["step_seconds"],
            "train_seconds": run.facts["train_seconds"],
        })  # fmt: skip
    return rows


def check(study: StudyFolder) -> None:
    """Refuse what has no table, is not finished, or of unknown sources."""
    plan = study.plan
    if plan["study"] not in STUDIES:
        raise InputError(f"study {plan['study']!r} has no table in the documents; valid: {', '.join(STUDIES)}")
    if waiting := [run.id for run in study.runs if run.state != SCORED]:
        raise InputError(f"{study.path} is not finished: {len(waiting)} trainings have no scores, such as {waiting[0]}")
    if not plan["commit"] or CHANGED in plan["commit"]:
        raise InputError(f"{study.path} is of the sources {plan['commit']}; commit, then run it again in a new folder")
    if len(plan["seeds"]) > 1 or len(plan["devices"]) > 1:
        raise InputError("the documents' tables are of one seed and one training at a time")


@one_line_errors("record_study")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="its folder")
    study = read_folder(parser.parse_args().study)
    check(study)
    plan, name = study.plan, study.plan["study"]
    run = describe_run(name, device=plan["devices"][0], checkout=ROOT)
    run.pop("dirty")
    run["versions"] = {package: plan["versions"][package] for package in run["versions"]}
    run |= {"commit": plan["commit"], "code": measured_code_digest(ROOT, name, commit=plan["commit"])}
    record(name, figures(study), run=run)
    documents.write(ROOT)


if __name__ == "__main__":
    main()
