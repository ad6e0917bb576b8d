"""Cases that a model was trained and validated with, and their labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.uncertainty.bundle import Bundle, own_input_errors
from medmixers.clinic.uncertainty.predictor import Predictor, same_path
from medmixers.datasets.image_files import check_geometry, read_any
from medmixers.datasets.raw_format import read_description, read_folds, training_cases
from medmixers.errors import InputError, MissingFileError

if TYPE_CHECKING:
    from medmixers.clinic.uncertainty.nnunet import FoldsPredictor

PREPROCESSED = "nnUNet_preprocessed"  # nnU-Net's environment variable


class Split(NamedTuple):
    """Cases with labels, {"image": ..., "label": ...} each; of a model of nnU-Net with the "fold" that held it out.

    ``truth`` gives the label of a case: (1 or K, *spatial), not finite where it is not known, or (1 or K,) of a class.
    """

    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    truth: Callable[[Mapping[str, Any]], NDArray[Any]]


def read_split(predictor: Predictor, dataset: Path, fold: int | None) -> Split:
    """The training and the validation cases of a model.

    Args:
        predictor: of a bundle, or the folds of a model of nnU-Net.
        dataset: data set of the training.
        fold: of the split; None takes the bundle's, or all folds of a model of nnU-Net.

    Raises:
        MissingFileError: nothing says which cases are which.
        InputError: another data set, or a fold that the model does not have.
    """
    if not predictor.bundle.is_of_nnunet:
        return _of_bundle(predictor.bundle, dataset, fold)
    from medmixers.clinic.uncertainty.nnunet import FoldsPredictor

    assert isinstance(predictor, FoldsPredictor)
    return _of_nnunet(predictor, dataset, fold)


def _of_bundle(bundle: Bundle, dataset: Path, fold: int | None) -> Split:
    """As configs/train.json has it."""
    from monai.bundle import ConfigParser

    file = bundle.folder / "configs" / "train.json"
    if not file.is_file():
        raise MissingFileError(f"{bundle.source} has no configs/train.json, which splits the data")
    parser = ConfigParser()
    parser.read_config(str(file))
    parser["bundle_root"], parser["dataset_dir"] = str(bundle.folder), str(dataset)
    if fold is not None and "fold" not in parser.config:
        raise InputError(f"the data of {bundle.source} have one split: leave --fold out")
    if fold is not None:
        parser["fold"] = fold
    with own_input_errors(), same_path():
        transforms = parser.get_parsed_content("validate::label_transforms", default=[])

        def truth(case: Mapping[str, Any]) -> NDArray[Any]:
            item = {"label": case["label"]}
            with own_input_errors():
                for transform in transforms:
                    item = transform(item)
            return np.atleast_1d(np.asarray(item["label"]))

        return Split(
            training=parser.get_parsed_content("train_datalist"),
            validation=parser.get_parsed_content("val_datalist"),
            truth=truth,
        )


def _of_nnunet(predictor: FoldsPredictor, dataset: Path, fold: int | None) -> Split:
    """Each fold's validation cases, as nnU-Net recorded them. All other cases are of the training."""
    bundle, known = predictor.bundle, list(predictor.network.folds)
    folds = known if fold is None else [str(fold)]
    if "all" in known:
        raise InputError(f"{bundle.source} was trained on all cases: no case is left to fit a temperature on")
    if folds[0] not in known:
        raise InputError(f"{bundle.source} has no fold {fold}; it has {', '.join(known)}")
    description = read_description(dataset)
    for key in ("labels", "channel_names", "file_ending"):
        if description[key] != predictor.plans.dataset.get(key, description[key]):
            raise InputError(f"{dataset} is not the data set of {bundle.source}: its dataset.json has other {key}")
    cases = {case.name: case for case in training_cases(dataset, description)}
    held_out = [(name, each) for each in folds for name in _validated(bundle.source, each, dataset, cases, description)]
    names = {name for name, _ in held_out}

    def row(name: str) -> dict[str, Any]:
        return {"image": [str(file) for file in cases[name].images], "label": cases[name].label}

    return Split(
        training=[row(name) for name in cases if name not in names],
        validation=[{**row(name), "fold": each} for name, each in held_out],
        truth=lambda case: _nnunet_truth(bundle, case),
    )


def _validated(
    model: Path, fold: str, dataset: Path, cases: Mapping[str, Any], description: Mapping[str, Any]
) -> Sequence[str]:
    """Names of a fold's validation cases: by the scores in the model's folder, or by splits_final.json."""
    scores = model / f"fold_{fold}" / "validation" / "summary.json"
    if scores.is_file():
        try:
            rows = json.loads(scores.read_text("utf-8"))["metric_per_case"]
            names = [Path(row["prediction_file"]).name.removesuffix(description["file_ending"]) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{scores} is no summary of nnU-Net's validation: {error!r}") from None
        if missing := [name for name in names if name not in cases]:
            raise InputError(f"{scores} names case {missing[0]!r}, which {dataset} does not hold")
        return names
    preprocessed = os.environ.get(PREPROCESSED)
    own = read_folds(Path(preprocessed) / dataset.resolve().name, list(cases)) if preprocessed else None
    splits = own or read_folds(dataset, list(cases))
    if splits is None:
        raise MissingFileError(
            f"nothing says which cases fold {fold} of {model} was validated with: put nnU-Net's splits_final.json, of "
            f"its preprocessed folder, into {dataset}"
        )
    if int(fold) >= len(splits):
        raise InputError(f"splits_final.json has {len(splits)} folds, and {model} has fold {fold}")
    return splits[int(fold)]["val"]


def _nnunet_truth(bundle: Bundle, case: Mapping[str, Any]) -> NDArray[Any]:
    """(1, *spatial) of values, or (K, *spatial) of regions, NaN where the label is to be ignored."""
    label, image = read_any(case["label"]), Path(case["image"][0])
    check_geometry(case["label"], label, image, read_any(image, whole=False))
    if bundle.exclusive:
        return label.data[None]
    masks = np.stack([np.isin(label.data, bundle.values_of(number) or []) for number in bundle.structures])
    return np.where(label.data == bundle.ignored_value, np.nan, masks)
