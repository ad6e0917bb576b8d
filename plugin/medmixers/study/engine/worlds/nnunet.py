"""The world of nnU-Net: its own commands plan, preprocess, train and predict, in folders of the study."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.nnunet.environment import TRAINER_VARIABLE, trainer_path
from medmixers.results import write_json
from medmixers.study.engine.entries import PLANNERS
from medmixers.study.engine.job import Job, JobFailed
from medmixers.study.engine.records import PREPARE, read_json, stage_file
from medmixers.study.engine.worlds.bundle import run_facts

STEPS = "medmixers.study.engine.worlds.nnunet_steps"
STOCK = PLANNERS["default"][1]
# recipe -> trainer with nnU-Net's own loop and this recipe's optimizer
TRAINERS: dict[str | None, str] = {
    None: "nnUNetTrainerStockRecipe",
    **dict.fromkeys(("keuth2025_segmentation", "keuth2025_segmentation_volumes"), "nnUNetTrainerKeuth2025"),
    "tshimanga2026": "nnUNetTrainerTshimanga2026",
    "xue2026_segmentation": "nnUNetTrainerXue2026",
}
NOTE = (
    "Seeded: Python, NumPy and torch, so start weights repeat. nnU-Net cannot repeat the order of its augmentation "
    "workers (nnUNet_n_proc_DA above 0), nor cuDNN's choice of algorithms."
)
FACTS = "facts.json"


class NnUNetWorld:
    """Train and predict by nnU-Net's commands."""

    def prepare(self, job: Job) -> dict[str, Any]:
        """Plan and preprocess once; give every network plans with nnU-Net's patch and batch size."""
        number, configuration = self._number(job), job.dataset["configuration"]
        memory = job.dataset["training"]["gpu_memory_gb"]
        target = ["-gpu_memory_target", str(memory)] if memory else []
        entries = [entry for entry in job.plan["entries"] if entry["name"] in job.dataset["entries"]]
        workers = ["-np", "1", "-npfp", "1"] if job.device_type == "cpu" else []
        planned = job.folder / "nnUNet_preprocessed" / Path(job.dataset["folder"]).name / f"{STOCK}.json"
        self._nnunet(
            job, "nnUNetv2_plan_and_preprocess", "-d", number, "-c", configuration, *target, *workers, "--no_pbar"
        )
        if configuration not in json.loads(planned.read_text())["configurations"]:
            raise JobFailed(f"nnU-Net planned no configuration {configuration!r} for {job.dataset['name']}")
        for plans in sorted({entry["plans"] for entry in entries if entry["network"] is None} - {"default"}):
            planner, name = PLANNERS[plans]
            self._nnunet(job, "nnUNetv2_plan_experiment", "-d", number, "-pl", planner, *target)
            self._nnunet(
                job, "nnUNetv2_preprocess", "-d", number, "-plans_name", name, "-c", configuration, "-np", "1",
                "--no_pbar",
            )  # fmt: skip
        asked = {
            "dataset": number, "configuration": configuration, "preprocessed": str(planned.parent),
            "batch_size": job.dataset["training"]["batch_size"],
            "networks": [{"entry": e["name"], "network": e["network"], "options": e["options"]} for e in entries
                         if e["network"] is not None],
            "stock": {e["name"]: PLANNERS[e["plans"]][1] for e in entries if e["network"] is None},
            "out": str(job.folder / "shapes.json"),
        }  # fmt: skip
        self._steps(job, "plan", asked)
        if "test" not in job.dataset["parts"]:
            splits = self._all_folds(job)
            write_json(planned.parent / "splits_final.json", splits)
        return {"shapes": json.loads((job.folder / "shapes.json").read_text())}

    def train(self, job: Job) -> None:
        """Train, or go on from the last checkpoint."""
        assert job.entry is not None
        assert job.run is not None
        training, shape = job.dataset["training"], self._shapes(job)[job.entry["name"]]
        model = self._model(job)
        checkpoints = [model / f"checkpoint_{name}.pth" for name in ("final", "latest", "best")]
        asked = {
            "words": [
                self._number(job), job.dataset["configuration"], self._fold(job), "-tr", self._trainer(job), "-p",
                shape["plans"], "-device", job.device_type,
                *(["--c"] if any(file.is_file() for file in checkpoints) else []),
            ],
            "seed": job.run["seed"],
            "epochs": training["epochs"],
            "iterations": training["iterations"],
            "threads": job.plan.get("threads"),
            "gradient_norms": training["gradient_norms"],
            "folder": str(job.folder),
        }  # fmt: skip
        self._steps(job, "train", asked)
        facts = json.loads((job.folder / FACTS).read_text())
        others = {name: each["patch_size"] for name, each in self._shapes(job).items()}
        unequal = shape["patch_size"] != max(others.values(), key=list(others.values()).count)
        note = NOTE + (f" Patch {shape['patch_size']} differs from that of other entries." if unequal else "")
        network = job.entry["network"] or shape["architecture"]
        write_json(job.folder / "run.json", run_facts(job, network=network, **facts, note=note))

    def predict(self, job: Job) -> None:
        """Predict the run's cases by nnUNetv2_predict, with the weights of the last epoch."""
        images, out = job.folder / "images", job.folder / "predictions"
        for folder in (images, out):
            shutil.rmtree(folder, ignore_errors=True)
        images.mkdir()
        for case in job.parts["test"]:
            for path in job.dataset["cases"][case]["image"]:
                (images / Path(path).name).symlink_to(path)
        shape = self._shapes(job)[str(job.run and job.run["entry"])]
        self._nnunet(
            job, "nnUNetv2_predict", "-i", images, "-o", out, "-d", self._number(job), "-c",
            job.dataset["configuration"], "-f", self._fold(job), "-tr", self._trainer(job), "-p", shape["plans"],
            "-device", job.device_type, "-npp", "1", "-nps", "1", "--disable_progress_bar",
        )  # fmt: skip
        shutil.rmtree(images)
        for extra in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
            (out / extra).unlink(missing_ok=True)

    def _nnunet(self, job: Job, command: str, *words: str | Path) -> None:
        script = Path(sysconfig.get_path("scripts")) / command
        job.command(script, *words, **self._variables(job))

    def _steps(self, job: Job, step: str, asked: Mapping[str, Any]) -> None:
        file = job.folder / f"{step}_request.json"
        write_json(file, asked)
        job.command(sys.executable, "-m", STEPS, step, file, **self._variables(job))

    def _variables(self, job: Job) -> dict[str, str]:
        prepared = job.study / PREPARE / job.dataset["name"]
        variables = {
            "nnUNet_raw": str(Path(job.dataset["folder"]).parent),
            "nnUNet_preprocessed": str((prepared / "nnUNet_preprocessed").resolve()),
            "nnUNet_results": str((job.folder / "nnUNet_results").resolve()),
            TRAINER_VARIABLE: trainer_path(),
        }
        if job.device_type == "cpu":  # augmentation in the training's own process, which is seeded
            training = {"nnUNet_n_proc_DA": "0"} if job.run is not None else {}
            variables |= {"nnUNet_def_n_proc": "1", **training, **ALLOCATOR_VARIABLES}
        return {**variables, **{key: os.environ[key] for key in ("nnUNet_n_proc_DA",) if key in os.environ}}

    def _shapes(self, job: Job) -> dict[str, Any]:
        record = read_json(stage_file(job.study / PREPARE / job.dataset["name"], PREPARE))
        if record is None:
            raise JobFailed(
                f"data set {job.dataset['name']} is not prepared: run the job {PREPARE}__{job.dataset['name']}"
            )
        shapes: dict[str, Any] = record["shapes"]
        return shapes

    def _trainer(self, job: Job) -> str:
        assert job.entry is not None
        return str(job.entry["trainer"] or TRAINERS[job.dataset["training"]["recipe"]])

    def _model(self, job: Job) -> Path:
        shape = self._shapes(job)[str(job.run and job.run["entry"])]
        name = f"{self._trainer(job)}__{shape['plans']}__{job.dataset['configuration']}"
        dataset = Path(job.dataset["folder"]).name
        return job.folder / "nnUNet_results" / dataset / name / f"fold_{self._fold(job)}"

    @staticmethod
    def _number(job: Job) -> str:
        return Path(job.dataset["folder"]).name[len("Dataset") :][:3]

    @staticmethod
    def _fold(job: Job) -> str:
        assert job.run is not None
        return "all" if job.run["fold"] is None else str(job.run["fold"])

    @staticmethod
    def _all_folds(job: Job) -> list[dict[str, list[str]]]:
        """splits_final.json of the planned folds; a fold that is not planned repeats the first, and is not trained."""
        parts = {int(fold): part for fold, part in job.dataset["parts"].items()}
        first = next(iter(parts.values()))
        chosen = [parts.get(fold, first) for fold in range(max(parts) + 1)]
        return [{"train": part["training"], "val": part["test"]} for part in chosen]
