"""Train nnU-Net's own U-Net, the Token-UNet family and the seven token mixers with nnU-Net's commands; one table.

compare_nnunet.py compare_run            # twenty minutes on two cores; on a GPU if there is one
compare_nnunet.py compare_run --record   # the same, and results/measured.json and the documents' tables
compare_nnunet.py smoke_run --only unet --epochs 1 --iterations 2 --resolution 4   # does it work?

All train on the demo's data set with equal patches, batches and steps, and predict its held-out cases. A network that
is finished is kept: a killed run goes on with the one it was at. A recorded run needs a clean checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from medmixers.demo.report import DATASET, TASK, case_dice
from medmixers.errors import InputError, one_line_errors
from medmixers.nnunet.environment import TRAINER_VARIABLE, trainer_path
from medmixers.results import describe_run, documents, record, write_json
from medmixers.results.tables import nnunet_table
from medmixers.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
NUMBER, CONFIGURATION = DATASET[len("Dataset") :].partition("_")[0], "3d_fullres"
MEMORY_GB = 0.5  # nnU-Net's target, as in scripts/demo.sh: patches that a CPU can train on in minutes
STOCK_RECIPE, KEUTH_RECIPE = "nnUNetTrainerStockRecipe", "nnUNetTrainerKeuth2025"
SEVEN = ("identity", "pooling", "conv", "grouped_conv", "local_attention", "global_attention", "random_mixing")
# As in the demo's bundle: with the start value 1e-5 of Keuth et al. no mixer would act in so short a training.
SHORT = {"layer_scale_init": 1.0, "drop_path_rate": 0.0}


class Contender(NamedTuple):
    """A line of the table: a network of medmixers, None for that of nnU-Net's own plans, and its trainer."""

    network: str | None
    options: dict[str, Any]
    trainer: str


CONTENDERS: dict[str, Contender] = {
    "PlainConvUNet": Contender(None, {}, STOCK_RECIPE),
    **{
        name: Contender(name, {}, STOCK_RECIPE)
        for name in (
            "unet_star_star", "token_unet_no_transformer", "token_unet", "token_unet_released_8_attention",
        )
    },
    **{
        f"metaformer_segformer_s12, {mixer}": Contender(
            "metaformer_segformer_s12", {"mixer": mixer, **SHORT}, KEUTH_RECIPE
        )
        for mixer in SEVEN
    },
}  # fmt: skip


class Comparison:
    """One run: its folder, which nnU-Net's variables point to, and what all its trainings share."""

    def __init__(self, folder: Path, settings: argparse.Namespace) -> None:
        self.folder, self.settings = folder.resolve(), settings
        self.data = self.folder / "nnUNet_raw" / DATASET
        self.preprocessed = self.folder / "nnUNet_preprocessed" / DATASET
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(self.folder / name)  # before nnU-Net is imported, which reads them once
        os.environ |= {TRAINER_VARIABLE: trainer_path(), "nnUNet_def_n_proc": "1"}
        os.environ |= {
            "MEDMIXERS_EPOCHS": str(settings.epochs),
            "MEDMIXERS_ITERATIONS_PER_EPOCH": str(settings.iterations),
            "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH": "1",
        }
        if settings.device == "cpu":
            # glibc: keep freed tensors instead of giving their pages back; on a CPU that halves a training step.
            os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}

    def command(self, log: str, *arguments: str, **variables: str) -> None:
        """Run ``medmixers nnunet run ARGUMENTS`` with its output in logs/LOG.txt."""
        file = self.folder / "logs" / f"{log}.txt"
        file.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "medmixers", "nnunet", "run", *arguments]
        with open(file, "w", encoding="utf-8") as out:
            status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **variables})
        if status.returncode:
            raise InputError(f"{arguments[0]} ended with status {status.returncode}; all of it: {file}")

    def prepare(self) -> None:
        """The data set, nnU-Net's plans and preprocessed data, and a split of one validation case."""
        from medmixers.demo.subjects import write_brain_demo

        splits = self.preprocessed / "splits_final.json"  # written last
        if splits.is_file():
            return
        write_brain_demo(self.data, resolution=self.settings.resolution)
        self.command(
            "plan", "nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", CONFIGURATION, "-gpu_memory_target",
            str(MEMORY_GB), "-np", "1", "-npfp", "1", "--no_pbar",
        )  # fmt: skip
        cases = sorted(path.name[: -len(".nii.gz")] for path in (self.data / "labelsTr").iterdir())
        # nnU-Net ends a training with mirrored predictions of all validation cases; one is enough here.
        write_json(splits, [{"train": cases[1:], "val": cases[:1]}])

    def plans(self, contender: Contender) -> str:
        """Name of the plans of a contender, with the patch and batch size of nnU-Net's own."""
        from medmixers.nnunet.planner import STOCK_PLANS, default_plans_name, plan_network

        if contender.network is None:
            return STOCK_PLANS
        shape = self.shape(STOCK_PLANS)
        plan_network(
            int(NUMBER), contender.network, gpu_memory_gb=1000, patch_size=shape["patch_size"], **contender.options
        )
        name = default_plans_name(contender.network, contender.options)
        if self.shape(name) != shape:
            raise InputError(f"{name} has {self.shape(name)}, {STOCK_PLANS} {shape}: no equal comparison")
        return name

    def shape(self, plans: str) -> dict[str, Any]:
        """Patch and batch size in a plans file."""
        row = json.loads((self.preprocessed / f"{plans}.json").read_text())["configurations"][CONFIGURATION]
        return {key: row[key] for key in ("patch_size", "batch_size")}

    def measure(self, name: str) -> dict[str, Any]:
        """Train and predict one contender: its line of the table. Weights, gigabytes for all, are not kept."""
        from medmixers.nnunet.trained import load_checkpoint

        contender, slug = CONTENDERS[name], slug_of(name)
        plans = self.plans(contender)
        model = self.folder / "nnUNet_results" / DATASET / f"{contender.trainer}__{plans}__{CONFIGURATION}"
        shutil.rmtree(model, ignore_errors=True)  # what an interrupted run left
        workers = {"nnUNet_n_proc_DA": "0"} if self.settings.device == "cpu" else {}
        self.command(
            slug, "nnUNetv2_train", NUMBER, CONFIGURATION, "0", "-tr", contender.trainer, "-p", plans, "-device",
            self.settings.device, **workers,
        )  # fmt: skip
        log = load_checkpoint(model / "fold_0" / "checkpoint_final.pth")["logging"]
        epochs = [
            end - start for start, end in zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=True)
        ]
        row = {
            "name": name,
            "trainer": contender.trainer,
            "seconds_per_iteration": median(epochs) / self.settings.iterations,
            **self.predict(model, self.folder / "predictions" / slug),
        }
        shutil.rmtree(model)
        return row

    def predict(self, model: Path, out: Path) -> dict[str, Any]:
        """Parameters of a trained model, seconds and Dice of the held-out cases; reading and writing count."""
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        device = torch.device(self.settings.device)
        with open(self.folder / "logs" / "predict.txt", "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            predictor = nnUNetPredictor(
                use_mirroring=False, perform_everything_on_device=device.type == "cuda", device=device, allow_tqdm=False
            )
            predictor.initialize_from_trained_model_folder(str(model), (0,))
            out.mkdir(parents=True, exist_ok=True)
            seconds, scores = [], []
            for truth in sorted((self.data / "labelsTs").iterdir()):
                image = self.data / "imagesTs" / truth.name.replace(".nii.gz", "_0000.nii.gz")
                start = time.perf_counter()
                predictor.predict_from_files_sequential([[str(image)]], [str(out / truth.name[: -len(".nii.gz")])])
                seconds.append(time.perf_counter() - start)
                labels = {value: label for value, label in TASKS[TASK].labels.items() if value}
                scores.append(case_dice(out / truth.name, truth, labels))
        return {
            "parameters": sum(parameter.numel() for parameter in predictor.network.parameters()),
            "dice": {label: sum(score[label] for score in scores) / len(scores) for label in scores[0]},
            "seconds_per_case": median(seconds),
        }


def slug_of(name: str) -> str:
    """A file name."""
    return name.replace(", ", "_")


def run_all(comparison: Comparison, names: list[str]) -> list[dict[str, Any]]:
    """Lines of the table; those that an earlier call measured are read from networks/NAME.json."""
    rows = []
    for name in names:
        file = comparison.folder / "networks" / f"{slug_of(name)}.json"
        if not file.is_file():
            start = time.perf_counter()
            row = comparison.measure(name)
            file.parent.mkdir(exist_ok=True)
            write_json(file, row)
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        rows.append(json.loads(file.read_text()))
    return rows


def begin(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """What run.json of the folder says, which must agree with this run; a new or an empty folder gets its own.

    Raises:
        ValueError: another folder, or one of another commit, machine or length.
    """
    file = folder / "run.json"
    if file.is_file():
        before: dict[str, Any] = json.loads(file.read_text())
        different = [key for key in run if key != "date" and before.get(key) != run[key]]
        if different:
            raise InputError(f"{folder} was begun with another {', '.join(different)}; give a new folder")
        return before
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no run of this comparison; name a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, run)
    return run


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the run; made if missing")
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose name holds this text")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=20, help="of an epoch")
    parser.add_argument("--resolution", type=int, default=2, help="of the data set, in millimetres")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    settings = parser.parse_args()
    if min(settings.epochs, settings.iterations, settings.resolution) <= 0:
        parser.error("--epochs, --iterations and --resolution must be positive")
    return settings


@one_line_errors("compare_nnunet")
def main() -> None:
    settings = parse()
    import torch

    settings.device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.cuda.get_device_name() if settings.device == "cuda" else "cpu"
    run = describe_run(device=device, checkout=ROOT)
    run |= {key: getattr(settings, key) for key in ("epochs", "iterations", "resolution")}
    names = [name for name in CONTENDERS if settings.only in name]
    if not names:
        raise InputError(f"no network has {settings.only!r} in its name; valid: {'; '.join(CONTENDERS)}")
    if settings.record and settings.only:
        raise InputError("--record is for a whole run, without --only")
    if settings.record and run["dirty"] is not False:
        raise InputError("the checkout is not clean or not under git; commit, then run again")
    run = begin(settings.folder, run)
    comparison = Comparison(settings.folder, settings)
    comparison.prepare()
    rows = run_all(comparison, names)
    run |= comparison.shape("nnUNetPlans")
    print(nnunet_table({**run, "commit": run["commit"] or "unknown", "figures": rows}))
    if settings.record:
        del run["dirty"]
        record(f"nnunet {settings.device}", rows, run=run)
        documents.write(ROOT)


if __name__ == "__main__":
    main()
