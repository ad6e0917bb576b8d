"""Read a trained model folder of nnU-Net for sharing, and check that the plans alone describe its network."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import InputError, MissingFileError
from medmixers.networks.weights import saved_network
from medmixers.networks.weights.formats import our_names, recognise
from medmixers.nnunet.architecture import NETWORK_CLASS_NAME
from medmixers.nnunet.environment import TRAINER_VARIABLE, trainer_path
from medmixers.nnunet.same_network import check_same_network

CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True)
class TrainedModel:
    """A folder ``.../TRAINER__PLANS__CONFIGURATION`` of nnU-Net's results.

    Args:
        folder: it holds plans.json, dataset.json and fold_X.
        plans: content of plans.json.
        dataset: content of dataset.json.
        folds: names of the folds that have these weights, as "0" or "all".
        trainer: class name.
        configuration: of the plans.
        mirror_axes: axes that prediction may mirror, None for none; nnU-Net takes those of the first fold for all.
        checkpoint: file name of the weights in each fold.
    """

    folder: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    folds: tuple[str, ...]
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...] | None
    checkpoint: str = CHECKPOINT

    def checkpoint_file(self, fold: str) -> Path:
        """The fold's weights."""
        return self.folder / f"fold_{fold}" / self.checkpoint


def read_trained_model(
    folder: str | Path, *, checkpoint: str = CHECKPOINT, takes_released: bool = False
) -> TrainedModel:
    """Read a model folder whose plans describe its network. No code from its checkpoints is run.

    Args:
        folder: the model.
        checkpoint: file name of the weights in each fold, such as checkpoint_best.pth.
        takes_released: also take a model of the released Token-UNet's trainers. They build their network themselves;
            the plans that are returned name ours.

    Raises:
        MissingFileError: no trained model is there.
        InputError: a damaged checkpoint, a trainer that is not found, a trainer that builds its network itself, or a
            fold that was trained with another network than plans.json has.
    """
    folder = Path(folder)
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise MissingFileError(f"{folder} is not a trained nnU-Net model: it has no {name}")
    files = sorted(file for file in folder.glob("fold_*/*.pth") if file.name == checkpoint)
    if not files:
        raise MissingFileError(f"{folder} has no fold_X/{checkpoint}{_other_checkpoints(folder, checkpoint)}")
    folds = tuple(file.parent.name.removeprefix("fold_") for file in files)
    if len(folds) > 1:  # as in nnU-Net: the model of all cases is not in the ensemble of the folds
        folds = tuple(fold for fold in folds if fold != "all")
    saved = load_checkpoint(folder / f"fold_{folds[0]}" / checkpoint)
    axes = saved.get("inference_allowed_mirroring_axes")
    plans = json.loads((folder / "plans.json").read_text("utf-8"))
    for fold in folds:
        check_same_network(
            folder / f"fold_{fold}" / checkpoint, plans, saved["init_args"]["configuration"], owner="plans.json",
            remedy="nnU-Net predicts all folds by plans.json: train this fold again, or the folds that came after it",
        )  # fmt: skip
    if takes_released and is_released_token_unet(saved["network_weights"]):
        _name_our_network(plans, saved)
    else:
        _check_trainer(folder, saved["trainer_name"])
    return TrainedModel(
        folder=folder,
        plans=plans,
        dataset=json.loads((folder / "dataset.json").read_text("utf-8")),
        folds=folds,
        trainer=saved["trainer_name"],
        configuration=saved["init_args"]["configuration"],
        mirror_axes=None if axes is None else tuple(map(int, axes)),
        checkpoint=checkpoint,
    )


def _other_checkpoints(folder: Path, checkpoint: str) -> str:
    """What to do where no fold has the weights that were asked for."""
    names = sorted({file.name for file in folder.glob("fold_*/*.pth")})
    reason = ": no fold is trained to the end" if checkpoint == CHECKPOINT else ""
    return f"{reason}; there are: {', '.join(f'--checkpoint {name}' for name in names)}" if names else reason


def load_checkpoint(file: Path) -> dict[str, Any]:
    """nnU-Net's checkpoint, on the CPU. Raises InputError for a file that is not one."""
    saved = read_checkpoint(file)
    missing = {"network_weights", "trainer_name", "init_args"} - set(saved if isinstance(saved, dict) else ())
    if missing:
        raise InputError(f"{file} is not a checkpoint of nnU-Net v2: it lacks {', '.join(sorted(missing))}")
    return dict(saved)


def is_released_token_unet(weights: Mapping[str, Any]) -> bool:
    """Whether nnU-Net's weights are of the trainers in MedMaxLab/tokenunet."""
    row = recognise(weights)
    return row is not None and row.name == "MedMaxLab/tokenunet"


def our_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """nnU-Net's weights, those of the released Token-UNet under our names."""
    row = recognise(weights)
    if row is None or row.name != "MedMaxLab/tokenunet":
        return dict(weights)
    names = our_names(weights, row)
    return {names[name]: value for name, value in weights.items()}


def _name_our_network(plans: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Put the network of the released Token-UNet's weights into the plans."""
    found = saved_network(saved["network_weights"])
    arguments = {"name": found.name, "spatial_dims": found.spatial_dims, **found.options}
    plans["configurations"][saved["init_args"]["configuration"]]["architecture"] = {
        "network_class_name": NETWORK_CLASS_NAME,
        "arch_kwargs": {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()},
        "_kw_requires_import": [],
    }


@contextlib.contextmanager
def external_trainers(path: str | None) -> Iterator[None]:
    """Set ``nnUNet_extTrainer`` to ``path``, or unset it, and hide what nnU-Net prints and what its imports warn of."""
    before = os.environ.pop(TRAINER_VARIABLE, None)
    try:
        if path is not None:
            os.environ[TRAINER_VARIABLE] = path
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        os.environ.pop(TRAINER_VARIABLE, None)
        if before is not None:
            os.environ[TRAINER_VARIABLE] = before


def _check_trainer(folder: Path, name: str) -> None:
    """Prediction calls only one function of the trainer class, the builder of the network; it must be nnU-Net's."""
    with external_trainers(trainer_path()):
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        try:
            trainer = recursive_find_trainer_class_by_name(name)
        except RuntimeError:
            raise InputError(
                f"trainer {name!r} of {folder} is not found; name its folder in {TRAINER_VARIABLE}"
            ) from None
    if trainer.build_network_architecture is not nnUNetTrainer.build_network_architecture:
        raise InputError(
            f"trainer {name!r} of {folder} builds its network itself (build_network_architecture): the plans alone do "
            "not describe it, so it cannot be shared without that trainer (medmixers nnunet to_bundle takes the "
            "released Token-UNet)"
        )
