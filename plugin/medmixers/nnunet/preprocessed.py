"""Data sets in nnU-Net's folders: their names, and preprocessed data that further plans can share."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets, maybe_convert_to_dataset_name

from medmixers.datasets.readings import read_json
from medmixers.errors import InputError, MissingFileError, first_line

STOCK_PLANS = "nnUNetPlans"
# Preprocessed data are shared only where these and the spacing agree.
PREPROCESSING_KEYS = (
    "preprocessor_name", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data",
    "resampling_fn_data_kwargs", "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip
CHECKED_CASES = 5  # whose shapes are compared: another spacing changes all
# Normalisation by the image alone. Any other scheme may use the data set's intensities, as CTNormalization does.
BY_IMAGE_ALONE = {
    "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization",
}  # fmt: skip


def dataset_name(name_or_id: str | int) -> str:
    """The folder's name of a data set, given as the stock commands take it: 900, "900" or "Dataset900_Name".

    Raises:
        InputError: no data set, or several with that id.
    """
    text = str(name_or_id)
    if not re.fullmatch(r"\d+|Dataset\d{3}_.+", text):
        raise InputError(f"dataset must be an id such as 900 or a name such as Dataset900_Name, got {text!r}")
    try:
        name = maybe_convert_to_dataset_name(text)
    except RuntimeError as error:
        raise InputError(f"dataset {text}: {nnunet_reason(error)}") from None
    there = [str(each) for each in find_candidate_datasets(dataset_id(name))]
    if name not in there:
        same = ", ".join(there) or "none"
        raise InputError(f"there is no data set {name!r} in nnU-Net's folders; with its id: {same}")
    if len(there) > 1:
        raise InputError(f"several data sets have the id {dataset_id(name)}: {', '.join(there)}; nnU-Net takes one")
    return str(name)


def dataset_id(name: str) -> int:
    """900 of "Dataset900_Name"."""
    return int(name.removeprefix("Dataset")[:3])


def nnunet_reason(error: Exception) -> str:
    """The first line of nnU-Net's message, without its pointer to the documentation."""
    return re.sub(r" [(]see .*", "", first_line(error))


def check_description(dataset: str) -> None:
    """Raise an error that names the file, unless nnU-Net's planner can read what describes a data set.

    Raises:
        MissingFileError: the raw data set has no dataset.json.
        InputError: it or the fingerprint is not JSON.
    """
    description = Path(nnUNet_raw or ".", dataset, "dataset.json")
    if not description.is_file():
        raise MissingFileError(f"there is no {description}: set nnUNet_raw to the folder of the raw data sets")
    fingerprint = Path(nnUNet_preprocessed, dataset, "dataset_fingerprint.json")
    for file in (description, fingerprint):
        if file.is_file():
            read_json(str(file))


def check_plans_file(dataset: str, plans_name: str, *, network_class: str) -> None:
    """Raise InputError if a file of this name exists and its plans do not name ``network_class``."""
    file = Path(nnUNet_preprocessed, dataset, f"{plans_name}.json")
    if file.is_file() and f'"{network_class}"' not in file.read_text():
        raise InputError(f"{file} exists and holds no plans of this package; give another plans_name")


def choose_data(
    dataset: str,
    configuration: str,
    plan: Mapping[str, Any],
    intensities: Mapping[str, Any],
    *,
    cases: Collection[str],
    transpose: Sequence[int],
    plans_name: str,
) -> tuple[str, bool]:
    """Identifier of the preprocessed data for a new plan, and whether they are there already.

    Data are shared where every plans file that names them preprocesses as the new plan does, with the same intensities
    if a normalisation uses them, and where their folder, if it exists, holds exactly the cases of the data set, in the
    plan's spacing. The stock data come first. Otherwise the plan gets data of its own, PLANS_CONFIGURATION.

    Args:
        dataset: name of the data set.
        configuration: "2d" or "3d_fullres", for example.
        plan: the new plan's configuration.
        intensities: ``foreground_intensity_properties_per_channel`` of the new plan.
        cases: names of the data set's cases.
        transpose: ``transpose_forward`` of the new plans.
        plans_name: name of the new plans. A file of this name will be replaced.

    Raises:
        InputError: other plans use the data of this name, and the new plan would replace them; or the data of this
            name were normalised or resampled in another way, which their shapes do not show.
    """
    folder, own = Path(nnUNet_preprocessed, dataset), f"{plans_name}_{configuration}"
    is_own_computed_alike = True
    agreed: dict[str, dict[str, bool]] = {}  # identifier -> plans that name it -> whether they preprocess alike
    for file in sorted(folder.glob("*.json"), key=lambda path: (path.stem != STOCK_PLANS, path.stem)):
        other = read_json(str(file))
        if not isinstance(other, dict) or "configurations" not in other:
            continue  # dataset.json, the fingerprint, the splits
        row = other["configurations"].get(configuration, {})
        identifier = row.get("data_identifier")
        if identifier is None or (file.stem == plans_name and identifier != own):
            continue
        is_computed_alike = _computes_alike(plan, row) and _same_intensities(
            plan, intensities, other["foreground_intensity_properties_per_channel"]
        )
        if file.stem == plans_name:
            is_own_computed_alike = is_computed_alike
        agreed.setdefault(identifier, {})[file.stem] = is_computed_alike and _same_spacing(plan, row)
    for identifier, plans in agreed.items():
        if not all(plans.values()):
            continue
        data = folder / identifier
        is_complete = {path.stem for path in data.glob("*.pkl")} == set(cases) and _are_resampled(
            data, cases, plan["spacing"], transpose
        )
        if is_complete or identifier == own or not data.is_dir():
            return identifier, is_complete
    users = ", ".join(sorted(agreed.get(own, {}).keys() - {plans_name}))
    if users:
        raise InputError(f"{users} use the preprocessed data {own} of other settings; give another plans_name")
    if not is_own_computed_alike and (folder / own).is_dir():
        raise InputError(f"{folder / own} holds data of other settings: remove it, or give another plans_name")
    return own, False


def _computes_alike(plan: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    plain = _as_json({key: plan[key] for key in PREPROCESSING_KEYS})
    return all(key in other and plain[key] == other[key] for key in plain) and "spacing" in other


def _same_spacing(plan: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return np.allclose(plan["spacing"], other["spacing"])


def _are_resampled(data: Path, cases: Collection[str], spacing: Sequence[float], transpose: Sequence[int]) -> bool:
    """Whether the first preprocessed cases have the shapes that nnU-Net's preprocessing gives them in this spacing.

    The plans do not tell: they may be newer than the data. What cannot be read must be preprocessed again.
    """
    try:
        read = infer_dataset_class(str(data))(str(data), list(cases))
        for case in sorted(cases)[:CHECKED_CASES]:
            image, _, _, properties = read.load_case(case)
            before = [properties["spacing"][axis] for axis in transpose]
            target = [before[0], *spacing] if len(spacing) < len(before) else spacing
            shape = compute_new_shape(properties["shape_after_cropping_and_before_resampling"], before, target)
            if image.shape[1:] != tuple(shape):
                return False
    except Exception:  # damaged files raise what blosc2 and pickle find in them
        return False
    return True


def _same_intensities(plan: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether all channels that are normalised by the data set's intensities have the same ones."""
    ours = _as_json(ours)
    for channel, scheme in enumerate(plan["normalization_schemes"]):
        if scheme not in BY_IMAGE_ALONE and ours.get(str(channel)) != theirs.get(str(channel)):
            return False
    return True


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content, default=lambda array: array.tolist()))
