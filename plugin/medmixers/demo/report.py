"""The report of ``scripts/demo.sh``: one table, and one picture per held-out case, from the files of its run.

One function measures both methods from their prediction files. The table does not use MONAI's or nnU-Net's evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmixers.bundles.catalog import BUNDLES
from medmixers.checkpoints import read_checkpoint
from medmixers.errors import InputError, MissingFileError
from medmixers.progress import progress
from medmixers.tasks import TASKS, Label
from medmixers.variants import NETWORKS

DATASET = "Dataset900_BrainTissue"
TASK = "brain_tissue_segmentation"
BUNDLE = f"{TASK}_grouped_conv"
SECONDS_FILE = "seconds.txt"  # in a method's folder: duration of its training, written by the demo's script


@dataclass(frozen=True)
class MethodRow:
    """One line of the table.

    Args:
        name: tool and network.
        parameters: of the network; None where the run's folder has no weights.
        dice: label name -> mean Dice over the held-out cases.
        seconds: duration of the training; None where it is not recorded.
        predictions: case -> its file.
    """

    name: str
    parameters: int | None
    dice: Mapping[str, float]
    seconds: float | None
    predictions: Mapping[str, Path]

    @property
    def mean_dice(self) -> float:
        """Mean over the labels."""
        return float(np.mean(list(self.dice.values())))


@dataclass(frozen=True)
class DemoReport:
    """Rows of the table, the held-out cases and their pictures. ``str()`` gives the text for the terminal."""

    rows: tuple[MethodRow, ...]
    cases: tuple[str, ...]
    pictures: tuple[Path, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        labels = list(self.rows[0].dice)
        header = ["method", "parameters", *(f"Dice {label}" for label in labels), "mean Dice", "training s"]
        lines = [header]
        for row in self.rows:
            scores = [f"{row.dice[label]:.3f}" for label in labels]
            parameters = "-" if row.parameters is None else f"{row.parameters:,}"
            seconds = "-" if row.seconds is None else f"{row.seconds:.0f}"
            lines.append([row.name, parameters, *scores, f"{row.mean_dice:.3f}", seconds])
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        table = ["  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))]) for line in lines]
        where = self.pictures[0].parent if self.pictures else "none"
        held_out = f"{len(self.cases)} held-out cases: {', '.join(self.cases)}"
        return "\n".join([held_out, *table, *self.notes, f"pictures: {where}"])


def report(run_dir: str | Path, *, pictures: bool = True) -> DemoReport:
    """Measure the held-out predictions of a demo run and draw its pictures.

    Args:
        run_dir: the run's folder, as ``scripts/demo.sh`` writes it.
        pictures: write ``pictures/CASE.png``, and the token attention maps in ``nnunet/attention``.

    Returns:
        The report. A method without a predictions folder is left out and noted.

    Raises:
        MissingFileError: no such run, no predictions of either method, or no prediction of one case.
        InputError: a prediction with another shape than its label.
    """
    run = Path(run_dir)
    data = run / "nnUNet_raw" / DATASET
    if not (data / "dataset.json").is_file():
        raise MissingFileError(f"{run} is not a run of the demo: there is no {data / 'dataset.json'}")
    description = json.loads((data / "dataset.json").read_text())
    ending = description["file_ending"]
    labels = {value: label for value, label in TASKS[TASK].labels.items() if value}
    truths = {path.name[: -len(ending)]: path for path in sorted((data / "labelsTs").glob(f"*{ending}"))}
    if not truths:
        raise MissingFileError(f"{data / 'labelsTs'} holds no labels to measure predictions with")
    rows, notes = [], []
    for name, folder, weights in _methods(run):
        if not (folder / "predictions").is_dir():
            notes.append(f"{name}: no predictions in {folder / 'predictions'}")
            continue
        rows.append(_measure(name, folder, weights, truths, labels))
    if not rows:
        raise MissingFileError(f"{run} holds no predictions yet: " + "; ".join(notes))
    drawn = _draw(run, data, truths, labels, rows) if pictures else []
    return DemoReport(tuple(rows), tuple(truths), tuple(drawn), tuple(notes))


def _methods(run: Path) -> list[tuple[str, Path, Path]]:
    """Name, folder and weights file of both methods."""
    row = BUNDLES[BUNDLE]
    bundle = f"MONAI: {row.network}, {row.network_options['mixer']}"
    weights = _nnunet_weights(run)
    return [
        (bundle, run / "bundle", run / "bundle" / "models" / "model.pt"),
        (f"nnU-Net: {_nnunet_network(weights)}", run / "nnunet", weights),
    ]


def _nnunet_weights(run: Path) -> Path:
    """Path of the latest weights that nnU-Net trained in this run, or the path they would have."""
    results = run / "nnUNet_results" / DATASET
    trained = sorted(results.glob("*/fold_*/checkpoint_final.pth"), key=lambda path: path.stat().st_mtime)
    return trained[-1] if trained else results / "TRAINER" / "fold_0" / "checkpoint_final.pth"


def _nnunet_network(weights: Path) -> str:
    """Name of the network, from the plans that are saved with the weights."""
    model = weights.parents[1]
    if not (model / "plans.json").is_file():
        return "no model"
    configurations = json.loads((model / "plans.json").read_text())["configurations"]
    architecture = configurations[model.name.rpartition("__")[2]]["architecture"]
    return architecture["arch_kwargs"].get("name", architecture["network_class_name"])


def _measure(
    name: str, folder: Path, weights: Path, truths: Mapping[str, Path], labels: Mapping[int, Label]
) -> MethodRow:
    predictions = {case: folder / "predictions" / path.name for case, path in truths.items()}
    missing = [str(path) for path in predictions.values() if not path.is_file()]
    if missing:
        raise MissingFileError(f"{name} lacks a prediction: {missing[0]}")
    scores = [case_dice(predictions[case], path, labels) for case, path in truths.items()]
    seconds = folder / SECONDS_FILE
    return MethodRow(
        name,
        _count_parameters(weights) if weights.is_file() else None,
        {label.name: float(np.nanmean([score[label.name] for score in scores])) for label in labels.values()},
        float(seconds.read_text()) if seconds.is_file() else None,
        predictions,
    )


def case_dice(prediction: Path, truth: Path, labels: Mapping[int, Label]) -> dict[str, float]:
    """Label name -> Dice of one case."""
    from medmixers.demo.panels import dice

    predicted, true = (_read(path) for path in (prediction, truth))
    if predicted.shape != true.shape:
        raise InputError(f"{prediction} has shape {predicted.shape}, its label {truth} has {true.shape}")
    return {label.name: dice(predicted, true, value) for value, label in labels.items()}


def _read(path: Path) -> NDArray[Any]:
    return np.asanyarray(nib.load(path).dataobj)


def _count_parameters(weights: Path) -> int:
    """Values in a state dict, or in nnU-Net's checkpoint; the demo's networks hold no buffers."""
    saved = read_checkpoint(weights)
    return sum(tensor.numel() for tensor in saved.get("network_weights", saved).values())


def _draw(
    run: Path,
    data: Path,
    truths: Mapping[str, Path],
    labels: Mapping[int, Label],
    rows: list[MethodRow],
) -> list[Path]:
    """One PNG per case; with token attention if nnU-Net trained a network with tokens."""
    from medmixers.demo.panels import write_case_panel

    weights = _nnunet_weights(run)
    row = NETWORKS.get(_nnunet_network(weights))
    has_tokens = row is not None and row.has_tokens
    drawn = []
    for case, truth in progress(truths.items(), "pictures", total=len(truths)):
        image = data / "imagesTs" / truth.name.replace(case, f"{case}_0000", 1)
        attention = run / "nnunet" / "attention" / truth.name
        if has_tokens:
            from medmixers.explain.nnunet_attention import nnunet_token_attention

            fold = weights.parent.name.removeprefix("fold_")
            nnunet_token_attention(weights.parents[1], image, out=attention, fold=fold)
        panel = write_case_panel(
            run / "pictures" / f"{case}.png",
            image=image,
            truth=truth,
            predictions={row.name: row.predictions[case] for row in rows},
            labels=labels,
            attention=attention if has_tokens else None,
            image_name="T1",
            title=f"{case}, held out",
        )
        drawn.append(panel)
    return drawn
