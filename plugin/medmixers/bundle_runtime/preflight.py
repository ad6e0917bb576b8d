"""What a bundle checks before it starts: bad input ends in one line, not in a traceback.

The configs call these functions first in ``run``, and not in ``initialize``: ``monai.bundle.load`` runs ``initialize``
to get the network alone, and needs no data. MONAI wraps an exception that a config raises into others and prints them
all; SystemExit passes through. torch is imported only where weights are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medmixers.bundle_runtime.cases import find_images, split, unread_files
from medmixers.bundle_runtime.options import build, ensemble_files, given_cases
from medmixers.bundle_runtime.preflight_files import (
    VOXELS_OF,
    check_cases,
    check_folders,
    check_given,
    check_label_counts,
    paths,
)
from medmixers.bundle_runtime.preflight_weights import check_start_weights, check_state
from medmixers.bundle_runtime.stack import one_line_in_command
from medmixers.checkpoints import read_weights
from medmixers.datasets.datalist_format import FILE as LIST_FILE
from medmixers.datasets.raw_format import stem_and_ending
from medmixers.errors import InputError

if TYPE_CHECKING:
    from medmixers.bundle_runtime.image_reader import BundleImageReader
    from medmixers.bundle_runtime.nnunet_images import NnUNetImages
    from medmixers.bundle_runtime.preflight_raw import RawCases

# The keys where MONAI's clients set lists of cases instead of a folder.
TRAINING_DATA = {"training": "train::dataset::data", "validation": "validate::dataset::data"}
T = TypeVar("T")
SILENT_SECONDS = 5  # a check that takes longer shows a progress bar


@one_line_in_command()
def check_built(keys: Sequence[str]) -> None:
    """Raise InputError where one of these components of the config that runs cannot be built of its input."""
    for key in keys:
        build(key)


@one_line_in_command()
def check_training(
    *,
    dataset_dir: str,
    validation_every: int,
    network: Any,
    pretrained_ckpt: str | None,
    pretrained_adapt: bool = False,
    resume_ckpt: str | None,
    image_reader: BundleImageReader,
    label_values: Sequence[int] = (),
    raw: RawCases | None = None,
    classes: int = 0,
    masks: int = 0,
    labels: int = 0,
    fold: int = 0,
    epochs: int | None = None,
    folders: Sequence[str | None] = (),
) -> None:
    """Raise InputError unless the training cases can be read, split, and fit the network. Held-out cases are not read.

    Names, pairs and headers of all of them, voxels of the first VOXELS_OF: every start waits for this, on every rank.
    The readers of images and labels check the others as each is loaded; `medmixers dataset check` reads all voxels.

    Args:
        dataset_dir: a data set in nnU-Net raw format, or a folder with datalist.json.
        validation_every: of the split.
        network: the module that loads the checkpoints, or its key in the config: it is then built here.
        pretrained_ckpt: weights to start from, or None.
        pretrained_adapt: whether they may have other channels and classes.
        resume_ckpt: state of a training to go on with, or None.
        image_reader: what will read the images.
        label_values: what the label files of a data set in nnU-Net raw format may hold.
        raw: the checks of such a data set; needed with ``label_values``.
        classes: classes of a datalist.json, where a case has one.
        masks: mask files of each case of a datalist.json, where a case has those.
        labels: labels of a datalist.json, where a case has several.
        fold: of the split.
        epochs: length of the training, which a state to go on with may not exceed.
        folders: what is written to.
    """
    check_folders(folders)
    network = _built(network)
    if pretrained_ckpt is not None:
        check_start_weights(pretrained_ckpt, network, adapt=pretrained_adapt)
    if resume_ckpt is not None:
        check_state(resume_ckpt, network, epochs=epochs)
    listed = {"label_values": label_values, "raw": raw, "classes": classes, "masks": masks, "labels": labels}
    given = {part: given_cases(key) for part, key in TRAINING_DATA.items()}
    is_folder = all(items is None for items in given.values())
    check_given(given)
    if is_folder:
        _check_format(dataset_dir, label_values, raw, in_channels=image_reader.channels)
    rule = {"validation_every": validation_every, "fold": fold}
    parts = [split(dataset_dir, part=part, **rule) if items is None else items for part, items in given.items()]
    cases = [case for part in parts for case in part]
    check_folders(folders, _inputs(cases))
    _check_cases(dataset_dir if is_folder else None, cases, "training", image_reader, listed)
    if labels:
        check_label_counts(parts[1], "validation")


@one_line_in_command()
def check_evaluation(
    *,
    dataset_dir: str,
    part: str,
    validation_every: int,
    ckpt_path: str,
    network: Any,
    image_reader: BundleImageReader,
    label_values: Sequence[int] = (),
    raw: RawCases | None = None,
    classes: int = 0,
    masks: int = 0,
    labels: int = 0,
    fold: int = 0,
    class_names: Sequence[str] = (),
    ensemble: str | Sequence[str] = (),
    folders: Sequence[str | None] = (),
) -> None:
    """Raise InputError unless the cases to score can be read, and there are weights; name the classes without a case.

    Args:
        dataset_dir: a data set in nnU-Net raw format, or a folder with datalist.json.
        part: "test" or "validation".
        validation_every: of the split.
        ckpt_path: file of the weights.
        network: as :func:`check_training` has it.
        image_reader: as :func:`check_training` has it.
        label_values: as :func:`check_training` has it.
        raw: as :func:`check_training` has it.
        classes: as :func:`check_training` has it.
        masks: as :func:`check_training` has it.
        labels: as :func:`check_training` has it.
        fold: of the split.
        class_names: of a classification.
        ensemble: files of weights that are read instead of ``ckpt_path``.
        folders: as :func:`check_training` has it.
    """
    check_folders(folders)
    _check_weights(_built(network), ckpt_path, ensemble)
    listed = {"label_values": label_values, "raw": raw, "classes": classes, "masks": masks, "labels": labels}
    given = given_cases(TRAINING_DATA["validation"])
    check_given({"evaluated": given})
    if given is None:
        _check_format(dataset_dir, label_values, raw, in_channels=image_reader.channels)
        cases = split(dataset_dir, part=part, validation_every=validation_every, fold=fold)
    else:
        cases = given
    check_folders(folders, _inputs(cases))
    audited = "test" if part == "test" else "training"
    _check_cases(dataset_dir if given is None else None, cases, audited, image_reader, listed)
    if labels:
        _name_one_sided_labels(class_names, cases, part)
    elif class_names:
        _name_absent_classes(class_names, cases, part)


@one_line_in_command()
def check_inference(
    *,
    dataset_dir: str,
    images: Sequence[Any],
    ckpt_path: str,
    network: Any,
    load_pretrain: bool,
    image_reader: BundleImageReader | NnUNetImages,
    writes_images: bool = False,
    find: Callable[[str], list[Any]] = find_images,
    ensemble: str | Sequence[str] = (),
    folders: Sequence[str | None] = (),
    cases: str | None = None,
) -> None:
    """Raise InputError unless there are weights and readable images.

    Args:
        dataset_dir: named in the message where ``images`` is empty.
        images: paths, or lists of the channels' paths.
        ckpt_path: file of the weights.
        network: as :func:`check_training` has it.
        load_pretrain: False predicts with random weights, on purpose.
        image_reader: as :func:`check_training` has it.
        writes_images: each prediction is a file named after its case, so no two cases may have one name.
        find: what lists the images of ``dataset_dir``.
        ensemble: as :func:`check_evaluation` has it.
        folders: as :func:`check_training` has it.
        cases: key of the :class:`~medmixers.bundle_runtime.many_cases.Cases` in the config; None reads all images. Only
            those that it will predict are read, and none where it goes on after a bad case: it reads each itself.
    """
    check_folders(folders)
    network = _built(network)
    if load_pretrain or ensemble:
        hint = "; --allow_untrained True predicts with untrained weights"
        _check_weights(network, ckpt_path, ensemble, hint)
    if (given := given_cases("dataset::data")) is not None:
        check_given({"predicted": given})
        images = [case["image"] for case in given]
    if not images:
        find(dataset_dir)  # raises and says what is missing
        raise InputError("the datalist is empty: there is no image to predict")
    check_folders(folders, _inputs([{"image": entry} for entry in images]))
    _name_unread(dataset_dir, images)
    chosen = build(cases) if cases is not None and given is None else None
    read = images if chosen is None else [] if chosen.keep_going else chosen.images
    if writes_images:
        _check_names(images)
    for entry in _with_progress(read):
        image_reader.check_case(paths(entry))


def _check_names(images: Sequence[Any]) -> None:
    """Raise InputError where two predictions would have one name."""
    first_of: dict[str, Path] = {}
    for files in map(paths, images):
        other = first_of.setdefault(stem_and_ending(files[0])[0], files[0])
        if other is not files[0]:
            raise InputError(f"the predictions of {str(other)!r} and {str(files[0])!r} would have one name; rename one")


def _check_weights(network: Any, ckpt_path: str, ensemble: str | Sequence[str], hint: str = "") -> None:
    """Raise InputError unless the network can load the weights: of ``ckpt_path``, or of each file of an ensemble."""
    files = ensemble_files(ensemble)
    for file in files:
        read_weights(file, network, option="ensemble")
    if not files:
        read_weights(ckpt_path, network, hint=hint)


def _inputs(cases: Sequence[Any]) -> list[Path]:
    """One input file per folder, of images and labels: what is written into such a folder could replace it."""
    entries = [case.get(key) for case in cases for key in ("image", "label")]
    files = [file for entry in entries for file in (entry if isinstance(entry, (list, tuple)) else [entry])]
    found = [Path(file) for file in files if isinstance(file, (str, Path))]
    return list({path.parent: path for path in found}.values())


def _name_unread(dataset_dir: str, images: Sequence[Any]) -> None:
    """Name the files of a folder of images that are not predicted."""
    unread = unread_files(dataset_dir, images)
    if unread:
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        print(f"medmixers: note: {dataset_dir} holds what is not read: {', '.join(unread[:5])}{more}", flush=True)


def _built(network: Any) -> Any:
    return build(network) if isinstance(network, str) else network


def _with_progress(cases: Sequence[T]) -> Iterable[T]:
    """The cases, with a progress bar after some seconds where stderr is a terminal."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(cases, desc="check", unit="case", delay=SILENT_SECONDS, disable=None)
    return bar


def _check_format(dataset_dir: str, label_values: Sequence[int], raw: RawCases | None, *, in_channels: int) -> None:
    """A data set of the right format."""
    if raw is not None:
        raw.check_format(dataset_dir, label_values, in_channels=in_channels)
    elif not (Path(dataset_dir) / LIST_FILE).is_file() and (Path(dataset_dir) / "dataset.json").is_file():
        raise InputError(f"{dataset_dir!r} is in nnU-Net raw format; this bundle reads a folder with {LIST_FILE}")


def _check_cases(
    dataset_dir: str | None, cases: list[dict[str, Any]], part: str, reader: BundleImageReader, listed: dict[str, Any]
) -> None:
    """Check the files of cases: of a folder in nnU-Net raw format as nnU-Net reads them, of a list case by case.

    Args:
        dataset_dir: the folder; None where a client gave the cases.
    """
    if dataset_dir is None or listed["raw"] is None:
        check_cases(_with_progress(cases), reader, **listed)
        return
    images = [paths(case["image"]) for case in cases[:VOXELS_OF]]
    listed["raw"].check_folder(dataset_dir, images, part, reader, progress=_with_progress)


def _name_absent_classes(names: Sequence[str], cases: list[dict[str, Any]], part: str) -> None:
    present = {case["label"] for case in cases}
    absent = [f"{label} {name}" for label, name in enumerate(names) if label not in present]
    if absent:
        auc = ". val_auc is nan: all cases are of one class" if len(present) == 1 else ""
        print(
            f"medmixers: note: no {part} case is of class {', '.join(absent)}: left out of the means val_f1, "
            f"val_precision, val_recall and val_auc{auc}",
            flush=True,
        )


def _name_one_sided_labels(names: Sequence[str], cases: list[dict[str, Any]], part: str) -> None:
    counts = Counter(label for case in cases for label in case["label"])
    one_sided = [f"{label} {name}" for label, name in enumerate(names) if counts[label] in (0, len(cases))]
    if one_sided:
        print(
            f"medmixers: note: all or none of the {part} cases have {', '.join(one_sided)}: without a value of AUROC, "
            "left out of val_auc",
            flush=True,
        )
