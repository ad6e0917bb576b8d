"""A study's folder as the engine leaves it, made of arrays: spheres in noise, and classes of grey pictures."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
from PIL import Image

from medmixers.bundle_runtime.epoch_table import NORM_COLUMNS, EpochTable
from medmixers.study.scores import score_run

MIXERS = {"pooling k3": ("pooling", 3), "pooling k5": ("pooling", 5), "conv k3": ("conv", 3), "conv k5": ("conv", 5)}
ENTRIES = ("identity", *MIXERS)
CLASSES = {"core": 2, "whole": [1, 2]}
GRADES = ("benign", "border", "malignant")
ID = {"segmentation": "brain", "classification": "colon"}


def entry_rows(names):
    rows = []
    for name in names:
        mixer, kernel = MIXERS.get(name, (name, None))
        rows.append({"name": name, "options": {"mixer": mixer}, "mixer": mixer, "kernel_size": kernel})
    return rows


def make_study(folder, *, kinds=tuple(ID), entries=ENTRIES, seeds=3, cases=6, name="mixers", control=None, margin=0.02):
    """Write the folder with scores of every run, and return its plan."""
    datasets = [make_dataset(folder, kind, cases if kind == "segmentation" else 6 * cases) for kind in kinds]
    runs = [
        {
            "id": f"{data['name']}__e{number}__seed{seed}",
            "dataset": data["name"],
            "entry": entry,
            "seed": seed,
            "fold": None,
        }
        for data in datasets
        for number, entry in enumerate(entries)
        for seed in range(seeds)
    ]
    question = {"metric": "dice", "margin": margin, "alpha": 0.05, "control": control}
    plan = {"study": name, "question": question, "datasets": datasets, "entries": entry_rows(entries), "runs": runs}
    write_plan(folder, plan)
    for run in runs:
        data = next(each for each in datasets if each["name"] == run["dataset"])
        make_run(folder, run, data, list(entries).index(run["entry"]))
        score_run(folder, run, plan)
    return plan


def write_plan(folder, plan):
    (folder / "plan.json").write_text(json.dumps(plan))


def make_dataset(folder, kind, count):
    rng = np.random.default_rng(1)
    data = folder / "data" / kind
    data.mkdir(parents=True)
    cases = {}
    for number in range(count):
        case = f"case{number:02d}"
        if kind == "segmentation":
            truth = sphere(rng)
            image = data / f"{case}_image.nii.gz"
            save(image, (100 * truth + rng.normal(0, 25, truth.shape) + 200).astype(np.float32))
            save(data / f"{case}.nii.gz", truth)
            cases[case] = {"image": [str(image)], "truth": str(data / f"{case}.nii.gz"), "group": f"p{number}"}
        else:
            image = data / f"{case}.png"
            Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(image)
            cases[case] = {"image": [str(image)], "truth": GRADES[number % 3], "group": None}
    classes = CLASSES if kind == "segmentation" else {grade: k for k, grade in enumerate(GRADES)}
    facts = {"name": ID[kind], "kind": kind, "classes": classes, "cases": cases, "test": list(cases)}
    return facts | ({"metric": "auroc"} if kind == "classification" else {"world": "nnunet"})


def save(path, array):
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.5, 2.0, 1.0])), path)


def sphere(rng, shape=(20, 18, 10)):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    centre = np.array(shape) / 2 + rng.uniform(-1.5, 1.5, 3)
    distance = np.linalg.norm((grid - centre) * [1, 1.1, 1.8], axis=-1)
    return ((distance < 6).astype(np.uint8) + (distance < 3)).astype(np.uint8)


def make_run(folder, run, data, quality):
    rng = np.random.default_rng([quality, run["seed"]])
    home = folder / "runs" / run["id"]
    (home / "predictions").mkdir(parents=True)
    if data["kind"] == "segmentation":
        for case, facts in data["cases"].items():
            truth = np.asarray(nib.load(facts["truth"]).dataobj)
            moved = np.roll(truth, int(rng.random() < 0.7 - 0.12 * quality), axis=int(rng.integers(3)))
            save(
                home / "predictions" / f"{case}.nii.gz",
                np.where(rng.random(truth.shape) < 0.01, 0, moved).astype(np.uint8),
            )
    else:
        write_probabilities(home / "probabilities.csv", data, rng, sharpness=0.6 + 0.3 * quality + rng.normal(0, 0.05))
    facts = {
        "parameters": int(4e6 * (1 + quality)), "macs": 2e9 * (1 + quality), "train_seconds": 3000 * (1 + quality),
        "step_seconds": 0.25,
        "peak_memory_mib": 2000 + 700 * quality, "device": "pretend GPU",
    }  # fmt: skip
    (home / "run.json").write_text(json.dumps(facts))
    losses = 1 / (1 + 0.2 * (1 + quality) * np.arange(40)) + rng.normal(0, 0.005, 40)
    norms = rng.lognormal(-quality, 1, 9 + quality)
    table = EpochTable(home / "gradient_norms.csv", NORM_COLUMNS)
    table.begin(1)
    table.add(1, [
        {"layer": f"layer{k}", "mean": mean, "largest": 3 * mean, "updates": 7, "not_finite": int(k == quality == 1)}
        for k, mean in enumerate(norms)
    ])  # fmt: skip
    with (home / "curve.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["epoch", "loss", "validation"])
        writer.writerows([epoch, loss, ""] for epoch, loss in enumerate(losses))


def write_probabilities(file, data, rng, sharpness):
    names = list(data["classes"])
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["case", "truth", *names])
        for case, facts in data["cases"].items():
            easy = np.random.default_rng(int(case[4:])).normal(size=len(names))
            logits = easy + rng.normal(0, 0.4, len(names)) + sharpness * 2 * (np.array(names) == facts["truth"])
            odds = np.exp(logits)
            writer.writerow([case, facts["truth"], *(odds / odds.sum())])
