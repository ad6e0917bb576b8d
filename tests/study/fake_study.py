"""A study of fake trainings: real processes, locks, logs and records; a training counts to ten in a file.

``fake_study.py run STUDY`` is the local runner, ``fake_study.py job STUDY ID --device D`` the job command, and
``fake_study.py count FOLDER`` the training that a job starts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

STEPS, PAUSE = 10, 0.02
ENTRIES, SEEDS = ("identity", "pooling", "conv", "grouped_conv"), (0, 1)


def fake_plan(*, world: str = "bundle", epochs: int = 1, seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
    """Eight trainings: four entries and two seeds on one data set."""
    entries = [{"name": name, "what": {"network": "n", "mixer": name}} for name in ENTRIES]
    runs = [
        {"id": f"data__{name}__seed{seed}", "dataset": "data", "entry": name, "seed": seed, "fold": None}
        for seed in seeds
        for name in ENTRIES
    ]
    dataset = {"name": "data", "world": world, "fingerprint": "f", "training": {"epochs": epochs, "patch_size": (8, 8)}}
    return {"datasets": [dataset], "entries": entries, "runs": runs, "versions": {}, "commit": None}


def write_study(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(fake_plan(**options)))
    return folder


def command(study: Path, name: str, device: str) -> list[str]:
    return [sys.executable, __file__, "job", str(study), name, "--device", device]


def trace(study: Path, *words: str) -> None:
    """Append a line at once: processes write side by side."""
    descriptor = os.open(study / "trace.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (" ".join(words) + "\n").encode())
    os.close(descriptor)


def traced(study: Path, what: str) -> list[list[str]]:
    """The lines of the trace that begin so, as words."""
    file = study / "trace.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [line.split() for line in lines if line.startswith(f"{what} ")]


class FakeWorld:
    def prepare(self, job: Any) -> dict[str, Any]:
        if os.environ.get("FAIL") == job.name:
            job.command(sys.executable, "-c", "raise SystemExit('Error: no disk')")
        trace(job.study, "prepared", job.name)
        return {}

    def train(self, job: Any) -> None:
        if os.environ.get("FAIL") == job.name:
            job.command(sys.executable, "-c", "print('RuntimeError: CUDA out of memory'); raise SystemExit(1)")
        trace(job.study, "start", job.name, job.device)
        try:
            job.command(sys.executable, __file__, "count", job.folder)
        finally:
            trace(job.study, "stop", job.name, job.device)
        trace(job.study, "trained", job.name)

    def predict(self, job: Any) -> None:
        (job.folder / "predictions").mkdir(exist_ok=True)


def score_run(study: Path, run: dict[str, Any], plan: dict[str, Any]) -> None:
    count = (study / "runs" / run["id"] / "count.txt").read_text()
    (study / "runs" / run["id"] / "scores.csv").write_text(f"entry,seed,value\n{run['entry']},{run['seed']},{count}\n")


def count(folder: Path) -> None:
    """Go on from the checkpoint, the number in count.txt."""
    file = folder / "count.txt"
    start = int(file.read_text()) if file.is_file() else 0
    study = folder.parents[1]
    for step in range(start + 1, STEPS + 1):
        while (study / "hold.txt").is_file() and step > STEPS // 2:  # the test lets go
            time.sleep(0.01)
        time.sleep(PAUSE)
        partial = file.with_suffix(".partial")
        partial.write_text(str(step))
        partial.replace(file)
        trace(study, "step", folder.name, str(step))


def main() -> None:
    from medmixers.errors import one_line_errors
    from medmixers.study.engine import jobs
    from medmixers.study.engine.local import LocalRunner

    scores = ModuleType("medmixers.study.scores")
    scores.score_run = score_run  # type: ignore[attr-defined]
    sys.modules["medmixers.study.scores"] = scores
    what, study = sys.argv[1], Path(sys.argv[2])
    with one_line_errors("medmixers"):
        if what == "count":
            count(study)
        elif what == "job":
            try:
                jobs.run_job(study, sys.argv[3], device=sys.argv[5], find_world=lambda name: FakeWorld())
            except jobs.Ended:
                raise SystemExit(jobs.REQUEUE) from None
        else:
            plan = json.loads((study / "plan.json").read_text())
            failed = LocalRunner(study, plan, ["cuda:0", "cuda:1"], command=command).run()
            print(json.dumps(failed))
            raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
