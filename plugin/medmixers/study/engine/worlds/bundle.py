"""The world of MONAI Bundles: each training has a bundle of its own, which `python -m monai.bundle run` trains."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from medmixers.bundles.catalog import BundleRow, label_of
from medmixers.bundles.new import ROI_SIZES, default_recipe, write_bundle
from medmixers.files import written_whole
from medmixers.results import write_json
from medmixers.study.engine.datasets import task_of
from medmixers.study.engine.job import Job, JobFailed
from medmixers.study.engine.records import GRADIENT_NORMS, PROGRESS, progress_rows
from medmixers.study.engine.start import write_start_weights

SMALLER = {2: (256, 256), 3: (64, 64, 64)}  # patch of all entries where one has a matrix over all positions
KEY_METRICS = {"segmentation": "val_mean_dice", "classification": "val_f1"}


def row_of(dataset: Mapping[str, Any], entry: Mapping[str, Any]) -> BundleRow:
    """The bundle of an entry on a data set of the plan."""
    spec, training = task_of(dataset["task"]), dataset["training"]
    patch = training["patch_size"]
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in entry["options"].items()}
    return BundleRow(
        task_spec=spec,
        network=entry["network"],
        recipe=training["recipe"] or default_recipe(spec),
        label=label_of(entry["name"]),
        network_options=options,
        roi_size=None if patch is None else tuple(patch),
    )


def default_patch(dataset: Mapping[str, Any], *, smaller: bool) -> tuple[int, ...] | None:
    """Patch size of all entries on a data set; None for whole images."""
    spec = task_of(dataset["task"])
    if spec.image_size is not None or spec.task == "classification":
        return None
    return (SMALLER if smaller else ROI_SIZES)[spec.spatial_dims]


class BundleWorld:
    """Train and predict by MONAI's own commands."""

    def prepare(self, job: Job) -> dict[str, Any]:
        """Nothing is shared between trainings."""
        return {}

    def train(self, job: Job) -> None:
        """Train, or go on from the last state."""
        assert job.entry is not None
        assert job.run is not None
        row, bundle = row_of(job.dataset, job.entry), job.folder / "bundle"
        if not bundle.is_dir():
            parent = job.folder / "new"
            shutil.rmtree(parent, ignore_errors=True)
            write_bundle(row, parent).rename(bundle)
            parent.rmdir()
        models = bundle / "models"
        states = sorted(models.glob("resume_checkpoint_epoch=*.pt"), key=_epoch)
        options: dict[str, Any] = {
            "bundle_root": str(bundle),
            "dataset_dir": job.dataset["folder"],
            "seed": job.run["seed"],
            "resume_ckpt": str(states[-1]) if states else None,
            "train_datalist": self._items(job, "training"),
            "val_datalist": self._items(job, "validation"),
            "+train::handlers": self._records(job, row),
        }
        if job.entry.get("start") and not states:
            options["pretrained_ckpt"] = str(self._start_weights(job, row))
        training = job.dataset["training"]
        if training["epochs"]:
            options["epochs"] = training["epochs"]
        if training["batch_size"]:
            options |= {"batch_size": training["batch_size"], "accumulate_batches": 1}
        if not (states and _epoch(states[-1]) >= (options.get("epochs") or row.epochs)):
            self._run(job, "train", options)
        self._write_facts(job, row)

    @staticmethod
    def _start_weights(job: Job, row: BundleRow) -> Path:
        """Write the weights that the training starts from, as the bundle's network names them."""
        assert job.entry is not None
        assert job.run is not None
        file, spec = job.folder / "bundle" / "models" / "start.pt", row.task_spec
        sized = {"input_size": row.size} if row.is_bound_to_size else {}
        options = {**sized, **row.network_options}
        channels = {"in_channels": len(spec.channels), "out_channels": spec.out_channels}
        write_start_weights(
            file, row.network, {"spatial_dims": len(row.size), **channels, **options}, seed=job.run["seed"],
            **job.entry["start"],
        )  # fmt: skip
        return file

    def predict(self, job: Job) -> None:
        """Predict the test cases with the weights that validated best."""
        bundle, out = job.folder / "bundle", job.folder / "predictions"
        for state in (bundle / "models").glob("resume_checkpoint_epoch=*.pt"):
            state.unlink()  # the training is on record; each is several times the weights
        (bundle / "models" / "start.pt").unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        cases = job.parts["test"]
        images = [self._image(job.dataset["cases"][case]["image"]) for case in cases]
        target = bundle / "eval" if job.dataset["kind"] == "classification" else out
        options = {"bundle_root": str(bundle), "output_dir": str(target), "datalist": images}
        self._run(job, "inference", options)
        if job.dataset["kind"] == "classification":
            self._write_probabilities(job, target / "predictions.csv")

    def _run(self, job: Job, config: str, options: Mapping[str, Any]) -> None:
        bundle = job.folder / "bundle"
        overlay = bundle / "configs" / f"study_{config}.json"
        write_json(overlay, options)
        files = [str(bundle / "configs" / f"{config}.json"), str(overlay)]
        logging = {"PYTHONWARNINGS": "ignore"}
        job.command(sys.executable, "-m", "monai.bundle", "run", "--config_file", json.dumps(files), **logging)

    def _records(self, job: Job, row: BundleRow) -> list[dict[str, Any]]:
        """Handlers that record the training."""
        records: list[dict[str, Any]] = [
            {
                "_target_": "medmixers.bundle_runtime.record.TrainingRecord",
                "path": str(job.folder / PROGRESS),
                "validator": "@validate::evaluator",
                "metric": KEY_METRICS[row.task_spec.task],
            }
        ]
        if job.dataset["training"]["gradient_norms"]:
            handler = "medmixers.bundle_runtime.gradient_norms.GradientNormsHandler"
            records.append({"_target_": handler, "path": str(job.folder / GRADIENT_NORMS)})
        return records

    def _items(self, job: Job, part: str) -> list[dict[str, Any]]:
        return [self._item(job, job.dataset["cases"][case]) for case in job.parts[part]]

    def _item(self, job: Job, case: Mapping[str, Any]) -> dict[str, Any]:
        truth = case["truth"]
        if job.dataset["kind"] == "classification":
            truth = job.dataset["classes"][truth]
        elif isinstance(truth, dict):
            truth = list(truth.values())
        return {"image": self._image(case["image"]), "label": truth}

    @staticmethod
    def _image(paths: list[str]) -> Any:
        return paths[0] if len(paths) == 1 else paths

    def _write_probabilities(self, job: Job, table: Path) -> None:
        with table.open(newline="", encoding="utf-8") as content:
            rows = {row["file"]: row for row in csv.DictReader(content)}
        classes = list(job.dataset["classes"])
        with written_whole(job.folder / "probabilities.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "truth", *classes])
            for case in job.parts["test"]:
                row = job.dataset["cases"][case]
                found = rows.get(row["image"][0])
                if found is None:
                    raise JobFailed(f"{table} has no prediction of {row['image'][0]}")
                writer.writerow([case, row["truth"], *(found[name] for name in classes)])

    def _write_facts(self, job: Job, row: BundleRow) -> None:
        from medmixers.study.engine.cost import network_cost

        epochs = progress_rows(job.folder)
        spec, size = row.task_spec, row.size
        cost = network_cost(row.network, row.network_options, size, len(spec.channels), spec.out_channels)
        peaks = [float(each["peak_memory_mib"]) for each in epochs if each["peak_memory_mib"]]
        steps = [float(each["seconds"]) / int(each["steps"]) for each in epochs if int(each["steps"])]
        with written_whole(job.folder / "curve.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "loss", "validation"])
            writer.writerows([each["epoch"], each["loss"], each["validation"]] for each in epochs)
        write_json(
            job.folder / "run.json",
            run_facts(
                job,
                network=row.network,
                spatial_dims=len(size),
                parameters=cost.parameters,
                macs=cost.macs,
                train_seconds=sum(float(each["seconds"]) for each in epochs),
                epochs=len(epochs),
                step_seconds=median(steps) if steps else None,
                peak_memory_mib=max(peaks) if peaks else None,
                note="MONAI's seed of all random numbers; a GPU may still round differently from run to run.",
            ),
        )


def run_facts(job: Job, **facts: Any) -> dict[str, Any]:
    """Content of run.json."""
    assert job.run is not None
    keys = ("dataset", "entry", "seed", "fold")
    return {**{key: job.run[key] for key in keys}, "device": job.device_type, **facts}


def _epoch(state: Path) -> int:
    return int(state.stem.rpartition("=")[2])
