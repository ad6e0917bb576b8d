"""What a plan holds of each data set: definition, cases, classes, parts. Images are not opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from medmixers.bundle_runtime.cases import split
from medmixers.datasets.converters import CONVERTERS
from medmixers.datasets.raw_format import (
    held_out_cases,
    read_description,
    read_folds,
    stem_and_ending,
    training_cases,
)
from medmixers.datasets.split_rule import every_nth
from medmixers.errors import InputError, MissingFileError
from medmixers.registry import valid_names
from medmixers.study.engine.spec import METRICS, Data
from medmixers.study.rows import table_rows
from medmixers.tasks import TASKS, TaskSpec
from medmixers.tasks.from_yaml import load_task

FOLDS = 5
RAW, PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"  # environment variables of nnU-Net
DESCRIBED = ("channel_names", "labels", "regions_class_order", "file_ending", "overwrite_image_reader_writer")
FREE_TEXT = (  # of a task: nothing is trained or scored by it
    "name", "title", "codes", "licence", "citation", "data_source", "intended_use", "limits",
)  # fmt: skip
Parts = dict[str, dict[str, list[str]]]  # "test" or number of a fold -> training, validation, test -> cases


def task_of(task: str) -> TaskSpec:
    """The task of a name or of a YAML file."""
    spec = load_task(task) if task.endswith((".yaml", ".yml")) else TASKS[task]
    if spec.task == "classification" and spec.multi_label:
        raise InputError(f"task {task!r} gives an image several labels: a study compares tasks of one class per image")
    return spec


def definition(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the task, or the dataset.json of an nnU-Net data set, says now. Free text and colours are left out.

    Args:
        row: of the plan, with "world", "task" and "folder".
    """
    if row["world"] == "nnunet":
        description = read_description(Path(row["folder"]))
        return {key: description[key] for key in DESCRIBED if key in description}
    spec = task_of(str(row["task"]))
    facts = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in FREE_TEXT}
    facts["labels"] = [f"{value} {name}" for value, name in spec.label_names.items()]
    if spec.regions is not None:
        facts["regions"] = [[name, list(ids)] for name, ids in spec.regions.items()]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}


def describe(data: Data, folds: Sequence[int] | None) -> dict[str, Any]:
    """A data set as ``plan.json`` holds it.

    Args:
        data: of the study's file.
        folds: to train; None trains on the training part and predicts the test part.

    Raises:
        InputError: a missing folder or file, no test case with a truth, or a broken description.
    """
    described = _bundle(data, folds) if data.nnunet is None else _nnunet(data, folds)
    cases = described["cases"]
    if data.groups is not None:
        for case, group in _read_groups(data.groups, cases).items():
            cases[case]["group"] = group
    row = {"name": data.name, "world": data.world, **described}
    return {**row, "definition": definition(row)}


def describe_missing(data: Data, folds: Sequence[int] | None) -> dict[str, Any] | None:
    """The row of a data set whose folder is not there: what its task says, without cases; None where it is there.

    ``missing`` says what to do. Of an nnU-Net data set channels and classes are unknown, so they are None.
    """
    if data.nnunet is None:
        if Path(str(data.folder)).is_dir():
            return None
        row = _bundle_row(data, task_of(str(data.task)))
        how = "make it, or correct its name"
        if data.task == "brain_tissue_segmentation":
            how = f"medmixers demo data {data.folder}"
        elif data.task in CONVERTERS:
            how = f"medmixers dataset convert {data.task} DOWNLOADED {data.folder}"
        missing = f"there is no data set folder {data.folder}; {how}"
    else:
        try:
            nnunet_folder(data.nnunet)
            return None
        except InputError as error:
            writers = "medmixers dataset convert (tasks of label maps) and medmixers demo data write such folders"
            missing = f"{error}; {writers}"
        row = {
            "task": None, "folder": None, "configuration": data.configuration, "kind": "segmentation", "classes": {},
            "ignore_label": None, "spatial_dims": 2 if data.configuration == "2d" else 3, "channels": None,
            "out_channels": None,
        }  # fmt: skip
    nothing: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    parts = {"test": nothing} if folds is None else {str(fold): nothing for fold in folds}
    return {
        "name": data.name, "world": data.world, **row, "cases": {}, "test": [], "parts": parts,
        "missing": missing,
    }  # fmt: skip


def metric_of(data: Data, kind: str, metric: str | None) -> str:
    """The metric on a data set. Raises InputError where it is for the other kind of task."""
    chosen = data.metric or metric or METRICS[kind][0]
    if chosen not in METRICS[kind]:
        raise InputError(
            f"metric {chosen!r} is not for {kind}, as data set {data.name!r} is; give that data set "
            f"metric: {' or '.join(METRICS[kind][:2])}"
        )
    return chosen


def _bundle(data: Data, folds: Sequence[int] | None) -> dict[str, Any]:
    spec, folder = task_of(str(data.task)), Path(str(data.folder)).resolve()
    if not folder.is_dir():
        raise MissingFileError(f"there is no data set folder {folder}")
    parts = {part: _items(folder, part, spec) for part in ("training", "validation")}
    if folds is None:
        parts["test"] = _items(folder, "test", spec)
    items = [item for part in parts.values() for item in part]
    names = _case_names(folder, items, unique_files=spec.task == "segmentation")
    cases = {name: _case(item, spec, name) for name, item in zip(names, items, strict=True)}
    start, named = 0, {}
    for part, listed in parts.items():
        named[part] = names[start : start + len(listed)]
        start += len(listed)
    return {
        **_bundle_row(data, spec),
        "cases": cases,
        "test": named.get("test", []),
        "parts": {"test": named} if folds is None else _folds(folder, cases, spec.validation_every, folds),
    }


def _bundle_row(data: Data, spec: TaskSpec) -> dict[str, Any]:
    """What the task says of a bundle's data set."""
    classes = {name: key for key, name in spec.label_names.items()}
    if spec.task == "segmentation" and not spec.multi_label:
        classes = {name: key for name, key in classes.items() if key}
    return {
        "task": str(data.task),
        "folder": str(Path(str(data.folder)).resolve()),
        "kind": spec.task,
        "classes": {name: list(spec.regions[name]) for name in classes} if spec.regions is not None else classes,
        "ignore_label": spec.ignore_label,
        "spatial_dims": spec.spatial_dims,
        "channels": len(spec.channels),
        "out_channels": spec.out_channels,
    }


def _items(folder: Path, part: str, spec: TaskSpec) -> list[dict[str, Any]]:
    return split(folder, part=part, validation_every=spec.validation_every)


def _case(item: Mapping[str, Any], spec: TaskSpec, name: str) -> dict[str, Any]:
    image, label = item["image"], item["label"]
    truth: Any = label
    if spec.task == "classification":
        truth = spec.label_names[int(label)]
    elif isinstance(label, list):
        truth = dict(zip(spec.label_names.values(), label, strict=True))
    images = [image] if isinstance(image, str) else list(image)
    return {"image": images, "truth": truth, "group": item.get("group", name)}


def _case_names(folder: Path, items: Sequence[Mapping[str, Any]], *, unique_files: bool) -> list[str]:
    """The images' names; with their folders where two images have the same."""
    files = [item["image"] if isinstance(item["image"], str) else item["image"][0] for item in items]
    stems = [stem_and_ending(file)[0] for file in files]
    twice = [name for name, count in Counter(stems).items() if count > 1]
    if not twice:
        return stems
    if unique_files:
        raise InputError(f"{folder}: two images have the name {twice[0]!r}; their predictions would have one file")
    relative = [os.path.relpath(file, folder) for file in files]
    return ["__".join(Path(path).with_name(stem).parts) for path, stem in zip(relative, stems, strict=True)]


def _folds(folder: Path, cases: Mapping[str, Mapping[str, Any]], every: int, folds: Sequence[int]) -> Parts:
    """Cross-validation: each fold's part is predicted; of the others every n-th group chooses the best weights."""
    written = None if not (folder / "dataset.json").is_file() else read_folds(folder, list(cases))
    parts: Parts = {}
    for fold in folds:
        if fold >= (len(written) if written else FOLDS):
            raise InputError(f"fold must be from 0 to {(len(written) if written else FOLDS) - 1}, got {fold}")
        groups = {case: str(row["group"]) for case, row in cases.items()}
        held = every_nth(groups.values(), every=FOLDS, fold=fold)
        test = written[fold]["val"] if written else [case for case, group in groups.items() if group in held]
        others = {case: group for case, group in groups.items() if case not in test}
        chosen = every_nth(others.values(), every=every)
        validation = [case for case, group in others.items() if group in chosen]
        training = [case for case in others if case not in validation]
        if not (training and validation and test):
            raise InputError(f"fold {fold} of {len(cases)} cases leaves none to train, to validate or to test")
        parts[str(fold)] = {"training": training, "validation": validation, "test": sorted(test)}
    return parts


def nnunet_folder(dataset: str) -> Path:
    """The raw folder of an nnU-Net data set, by its number or name.

    Raises:
        InputError: nnUNet_raw is not set, or it has no or several such folders.
    """
    raw = os.environ.get(RAW)
    if not raw:
        raise InputError("nnU-Net data sets need the environment variable nnUNet_raw, which is not set")
    there = sorted(path.name for path in Path(raw).glob("Dataset[0-9][0-9][0-9]_*"))
    start = f"Dataset{int(dataset):03d}_" if dataset.isdigit() else dataset
    found = [name for name in there if name == start or (dataset.isdigit() and name.startswith(start))]
    if len(found) != 1:
        kind = "several data sets" if found else "no data set"
        raise InputError(f"{raw} has {kind} {dataset!r}; valid: {valid_names(dataset, there)}")
    return (Path(raw) / found[0]).resolve()


def _nnunet(data: Data, folds: Sequence[int] | None) -> dict[str, Any]:
    folder = nnunet_folder(str(data.nnunet))
    description = read_description(folder)
    training = training_cases(folder, description)
    held_out = [case for case in held_out_cases(folder, description) if case.label is not None]
    if folds is None and not held_out:
        raise MissingFileError(f"{folder} has no imagesTs with labelsTs to test; give folds: [0, 1, 2, 3, 4]")
    labels = description["labels"]
    listed = [*training, *(held_out if folds is None else [])]
    cases = {
        case.name: {"image": [str(path) for path in case.images], "truth": str(case.label), "group": case.name}
        for case in listed
    }
    if len(cases) < len(listed):
        raise InputError(f"{folder}: a case of imagesTs has the name of one of imagesTr")
    names, test = [case.name for case in training], [case.name for case in held_out]
    return {
        "task": None,
        "folder": str(folder),
        "configuration": data.configuration,
        "kind": "segmentation",
        "classes": {name: value for name, value in labels.items() if name not in ("background", "ignore")},
        "ignore_label": labels.get("ignore"),
        "spatial_dims": 2 if data.configuration == "2d" else 3,
        "channels": len(description["channel_names"]),
        "out_channels": len(set(labels) - {"ignore"}) - any(isinstance(value, list) for value in labels.values()),
        "file_ending": description["file_ending"],
        "cases": cases,
        "test": test if folds is None else [],
        "parts": {"test": {"training": names, "validation": [], "test": test}} if folds is None
        else _nnunet_folds(folder, names, folds),
    }  # fmt: skip


def _nnunet_folds(folder: Path, names: list[str], folds: Sequence[int]) -> Parts:
    """Folds of splits_final.json of the data set or of its preprocessed folder, else nnU-Net's own rule."""
    preprocessed = os.environ.get(PREPROCESSED)
    own = read_folds(Path(preprocessed) / folder.name, names) if preprocessed else None
    splits = own or read_folds(folder, names)
    if splits is None:
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        if len(names) < FOLDS:
            raise InputError(f"{folder} has {len(names)} training cases; {FOLDS} folds need {FOLDS}")
        splits = generate_crossval_split(sorted(names), seed=12345, n_splits=FOLDS)
    if max(folds) >= len(splits):
        raise InputError(f"fold must be from 0 to {len(splits) - 1}, got {max(folds)}")
    return {
        str(fold): {"training": list(map(str, splits[fold]["train"])), "validation": [],
                    "test": sorted(map(str, splits[fold]["val"]))}
        for fold in folds
    }  # fmt: skip


def _read_groups(file: Path, cases: Mapping[str, Any]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for line, row in table_rows(file, ("case", "group"))[1]:
        case, group = row["case"], row["group"]
        if groups.setdefault(case, group) != group:
            raise InputError(f"{file}, line {line}: case {case} is in the groups {groups[case]} and {group}")
    missing = [case for case in cases if not groups.get(case)]
    if missing:
        raise InputError(f"{file} has no group of case {missing[0]!r}")
    return {case: groups[case] for case in cases}
