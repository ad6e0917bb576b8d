"""``medmixers nnunet portable``: a copy of a trained model that predicts without any external trainer."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmixers.checkpoints import compact_copies
from medmixers.errors import ExistingFileError, InputError, joined_lines
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.nnunet.environment import trainer_path
from medmixers.nnunet.trained import CHECKPOINT, TrainedModel, external_trainers, load_checkpoint, read_trained_model
from medmixers.progress import Announce, silent

# Optional files of a model that nnUNetv2_export_model_to_zip copies too.
EXTRAS = ("dataset_fingerprint.json", "crossval_results_*/postprocessing.pkl", "crossval_results_*/postprocessing.json")


def make_portable(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    checkpoint: str = CHECKPOINT,
    announce: Announce = silent,
) -> str:
    """Copy a trained model to a folder that ``nnUNetv2_predict_from_modelfolder`` takes without any variable.

    The copied checkpoints name nnU-Net's own trainer and keep only what prediction reads; training cannot resume from
    them. Both folders then predict one synthetic image: all folds as an ensemble, in one tile, without mirroring, on
    the CPU. The copy is kept only if probabilities and segmentation agree in every byte and the mirror axes agree.

    Args:
        folder: the model, ``.../TRAINER__PLANS__CONFIGURATION``.
        out: the new folder; by default MODEL_portable in the working directory.
        checkpoint: file name of the weights in each fold; in the copy they are checkpoint_final.pth.
        announce: called with the name of each step.

    Returns:
        What was written, in words.

    Raises:
        MissingFileError: no trained model is there.
        ExistingFileError: ``out`` exists.
        InputError: the errors of :func:`medmixers.nnunet.trained.read_trained_model`, or predictions that differ.
    """
    target = Path(out) if out is not None else Path(f"{Path(folder).resolve().name}_portable")
    if target.exists():
        raise ExistingFileError(f"{target} exists: give another folder with -o, or move it away")
    refuse_overwriting_inputs(target, [folder])
    announce("read the model")
    model = read_trained_model(folder, checkpoint=checkpoint)
    with written_whole(target) as partial:
        announce("copy the weights")
        sizes = _copy(model, partial)
        _check_same(model, partial, announce)
    megabytes = [f"{size / 1e6:.1f} MB" for size in sizes]
    return (
        f"{target}: folds {', '.join(model.folds)} of {model.trainer}, weights of {megabytes[1]} instead of "
        f"{megabytes[0]} (optimizer state and logs are left out)\n"
        "identical probabilities and segmentation of a synthetic image\n"
        f"nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m {shlex.quote(str(target))} "
        f"-f {' '.join(model.folds)}"
    )


def _copy(model: TrainedModel, target: Path) -> tuple[int, int]:
    """Write the portable folder; bytes of the checkpoints before and after."""
    target.mkdir()
    for pattern in ("plans.json", "dataset.json", *EXTRAS):
        for file in model.folder.glob(pattern):
            copy = target / file.relative_to(model.folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
    before = after = 0
    for fold in model.folds:
        source = model.checkpoint_file(fold)
        file = target / source.parent.name / CHECKPOINT  # the name that nnU-Net's commands look for
        file.parent.mkdir()
        saved = load_checkpoint(source)
        kept = {
            "network_weights": compact_copies(saved["network_weights"]),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": saved["init_args"]["configuration"]},
            "inference_allowed_mirroring_axes": saved.get("inference_allowed_mirroring_axes"),
        }
        torch.save(kept, file)
        before, after = before + source.stat().st_size, after + file.stat().st_size
    return before, after


def _check_same(model: TrainedModel, copy: Path, announce: Announce) -> None:
    announce("predict a synthetic image with the model")
    expected = _predict_synthetic_image(model.folder, model.folds, model.checkpoint, trainers=trainer_path())
    announce("predict it with the copy")
    given = _predict_synthetic_image(copy, model.folds, CHECKPOINT, trainers=None)
    for what, value in expected.items():
        if given[what] != value:
            raise InputError(
                f"{model.folder}: the portable copy gives another {what} than the model; nothing is written"
            )


def _predict_synthetic_image(
    folder: Path, folds: tuple[str, ...], checkpoint: str, *, trainers: str | None
) -> dict[str, Any]:
    """Prediction of nnU-Net's predictor for an image of one tile: mirror axes, segmentation and probabilities."""
    with external_trainers(trainers):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        try:
            predictor.initialize_from_trained_model_folder(str(folder), folds, checkpoint)
            image, properties, previous = _synthetic_case(predictor)
            segmentation, probabilities = predictor.predict_single_npy_array(image, properties, previous, None, True)
        except (RuntimeError, AssertionError) as error:  # weights of another network, infinite logits
            raise InputError(
                f"nnU-Net cannot predict a synthetic image with {folder}: {joined_lines(error)[:200]}"
            ) from error
    return {
        "mirror axes": predictor.allowed_mirroring_axes,
        "segmentation": segmentation.tobytes(),
        "probabilities": probabilities.tobytes(),
    }


def _synthetic_case(predictor: Any) -> tuple[np.ndarray, dict[str, Any], np.ndarray | None]:
    """Noise of the plans' patch size and spacing, (C, *spatial) in the axes of files; for a cascade also labels."""
    plans, configuration, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    size, spacing = list(configuration.patch_size), list(configuration.spacing)
    if len(size) == 2:  # nnU-Net reads every image as 3D, and predicts slices with a 2D network
        size, spacing = [2, *size], [1.0, *spacing]
    shape = [size[axis] for axis in plans.transpose_backward]
    rng = np.random.default_rng(0)
    channels = len(dataset.get("channel_names") or dataset["modality"])
    image = rng.uniform(0, 255, (channels, *shape)).astype(np.float32)  # the only range that RGB normalisation takes
    previous = None
    if configuration.previous_stage_name is not None:
        labels = [0, *predictor.label_manager.foreground_labels]
        previous = rng.choice(labels, (1, *shape)).astype(np.float32)  # as nnU-Net reads it
    return image, {"spacing": [spacing[axis] for axis in plans.transpose_backward]}, previous
