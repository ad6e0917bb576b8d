"""Write the data set folder of a converter, in the format that bundles read.

An exclusive segmentation becomes nnU-Net's raw format, anything else a folder with datalist.json.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmixers.datasets.datalist_format import FILE, validation_groups
from medmixers.datasets.image_files import check_geometry
from medmixers.datasets.raw_format import FOLDS_FILE, region_class_order
from medmixers.datasets.reading import nifti_header, read_label_file, read_picture
from medmixers.datasets.split_rule import PARTS, every_nth
from medmixers.errors import InputError
from medmixers.files import copy_file
from medmixers.progress import Announce, silent
from medmixers.tasks import TaskSpec

Array = NDArray[Any]


class Written(NamedTuple):
    """One written case."""

    part: str
    name: str
    group: str
    classes: frozenset[int]  # ids that it holds


class Writer:
    """Base of the writers of both formats: the cases that were written, and notes on them.

    Args:
        task: the task of the data set.
        folder: where to write; it exists and is empty.
        announce: called with the name of each case.
    """

    def __init__(self, task: TaskSpec, folder: Path, *, announce: Announce = silent) -> None:
        self.task = task
        self.folder = folder
        self.cases: list[Written] = []
        self.notes: list[str] = []
        self._names: set[str] = set()
        self._announce = announce

    def case_name(self, text: str) -> str:
        """``text`` with nothing but letters, digits, '-' and '_', which every tool takes in a file name."""
        return re.sub(r"[^A-Za-z0-9-]+", "_", text).strip("_")

    def note_left_out(self, names: set[str], what: str) -> None:
        """Say that these were left out, if there are any.

        Args:
            names: of the cases.
            what: they are, in the plural.
        """
        if names:
            self.notes.append(f"{len(names)} {what} were left out, {min(names)} for example")

    def finish(self) -> None:
        """Write the description. Raises ValueError where nothing trains or a group was divided."""
        self._check()

    def summary(self) -> str:
        """Cases, groups and classes of each part, then the notes."""
        lines = [f"{self.task.name}: {len(self.cases)} cases"]
        for part in PARTS:
            cases = [case for case in self.cases if case.part == part]
            if cases:
                counts = Counter(key for case in cases for key in case.classes)
                held = ", ".join(f"{name} {counts[key]}" for key, name in self._class_names().items())
                groups = f" (groups: {len({case.group for case in cases})})" if self._is_grouped() else ""
                lines.append(f"{part}: {len(cases)} cases{groups}; holding {held}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _add(self, part: str, name: str, group: str | None, classes: Iterable[int]) -> None:
        if name in self._names:
            raise InputError(f"two cases would be named {name}; rename one of their files")
        self._names.add(name)
        self._announce(name)
        self.cases.append(Written(part, name, group or name, frozenset(classes)))

    def _check(self) -> None:
        if not any(case.part == "training" for case in self.cases):
            raise InputError(f"no case is left to train {self.task.name}")
        seen: dict[str, str] = {}
        for case in self.cases:
            if seen.setdefault(case.group, case.part) != case.part:
                raise InputError(f"group {case.group!r} would lie in {seen[case.group]} and in {case.part}")

    def _class_names(self) -> dict[int, str]:
        return self.task.label_names

    def _is_grouped(self) -> bool:
        return any(case.group != case.name for case in self.cases)


class DatalistWriter(Writer):
    """Images with a class or overlapping masks: images/, masks/ and datalist.json."""

    def __init__(self, task: TaskSpec, folder: Path, *, announce: Announce = silent) -> None:
        super().__init__(task, folder, announce=announce)
        self._entries: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}

    def add_class(self, part: str, name: str, image: Array, label: int, *, group: str | None = None) -> None:
        """One image, (height, width[, 3]) as PNG or (X, Y, Z) as NIfTI of unknown geometry, and its class."""
        if label not in self.task.labels:
            raise InputError(f"{name} has class {label}; valid: {', '.join(map(str, self.task.labels))}")
        self._add(part, name, group, [label])
        self._put(part, {"image": self._save("images", name, image), "label": label}, group)

    def add_labels(
        self, part: str, name: str, image: Array, labels: Sequence[int], *, group: str | None = None
    ) -> None:
        """One image as :meth:`add_class` takes it, and the ids of its labels in ascending order, perhaps none."""
        self._add(part, name, group, list(labels))
        self._put(part, {"image": self._save("images", name, image), "label": list(labels)}, group)

    def add_masks(self, part: str, name: str, image: Array, masks: Array, *, group: str | None = None) -> None:
        """One image and one mask per label, (labels, height, width) bool."""
        self._add(part, name, group, [key for key in self.task.labels if masks[key].any()])
        files = [
            self._save("masks", f"{name}_{key:02d}_{label.name}", masks[key].astype(np.uint8) * 255)
            for key, label in self.task.labels.items()
        ]
        self._put(part, {"image": self._save("images", name, image), "label": files}, group)

    def finish(self) -> None:
        """Write datalist.json."""
        super().finish()
        (self.folder / FILE).write_text(json.dumps(self._entries, indent=1) + "\n", encoding="utf-8")

    def _put(self, part: str, entry: dict[str, Any], group: str | None) -> None:
        self._entries[part].append({**entry, "group": group} if group else entry)

    def _save(self, kind: str, name: str, data: Array) -> str:
        (self.folder / kind).mkdir(exist_ok=True)
        file = f"{kind}/{name}.nii.gz" if self.task.spatial_dims == 3 else f"{kind}/{name}.png"
        if self.task.spatial_dims == 3:
            nib.save(nib.Nifti1Image(data, np.eye(4)), self.folder / file)
        else:
            Image.fromarray(np.ascontiguousarray(data)).save(self.folder / file)
        return file


class RawWriter(Writer):
    """nnU-Net's raw format: imagesTr, labelsTr, imagesTs, labelsTs, dataset.json, and the folds by group.

    ``description`` is added to dataset.json.

    Args:
        task, folder, announce: as :class:`Writer` has them.
        link: make hard links to the source's files instead of copies. A change of one then changes both.
    """

    def __init__(self, task: TaskSpec, folder: Path, *, announce: Announce = silent, link: bool = False) -> None:
        super().__init__(task, folder, announce=announce)
        self.description: dict[str, Any] = {}
        self._link = link
        self._ending = ".nii.gz" if task.spatial_dims == 3 else ".png"
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir()

    def add(
        self,
        part: str,
        name: str,
        images: Sequence[Path],
        label: Path,
        *,
        group: str | None = None,
        ids: Mapping[int, int] | None = None,
    ) -> None:
        """One case: its images are copied or linked, its label too unless ``ids`` changes its values.

        Args:
            part: "training" or "test".
            name: of the case.
            images: one file per channel, or one file with all channels.
            label: its file.
            group: name of the group, which no split divides; None: the case is its own.
            ids: value in the file -> value to write; other values are refused. None keeps all.
        """
        values, classes = self._checked_label(label, images, ids)
        self._add(part, name, group, classes)
        where = "Tr" if part == "training" else "Ts"
        for kind in ("images", "labels"):
            (self.folder / f"{kind}{where}").mkdir(exist_ok=True)
        for channel, image in enumerate(images):
            self._place(image, self.folder / f"images{where}" / f"{name}_{channel:04d}{self._ending}")
        target = self.folder / f"labels{where}" / f"{name}{self._ending}"
        if ids is None:
            self._place(label, target)
        elif self.task.spatial_dims == 3:
            header = nib.load(label).header.copy()
            header.set_data_dtype(np.uint8)
            nib.save(nib.Nifti1Image(values, nib.load(label).affine, header), target)
        else:
            Image.fromarray(values).save(target)

    def finish(self) -> None:
        """Write dataset.json, and splits_final.json where cases share a group."""
        super().finish()
        task = self.task
        training = [case for case in self.cases if case.part == "training"]
        description = {
            "name": task.name,
            "description": task.title,
            "reference": task.citation,
            "licence": task.licence,
            "channel_names": {str(index): name for index, name in enumerate(task.channels)},
            "labels": self._labels(),
            "numTraining": len(training),
            "file_ending": self._ending,
            **({"regions_class_order": region_class_order(list(task.regions.values()))} if task.regions else {}),
            **self.description,
        }
        (self.folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        groups = {case.group for case in training}
        if len(groups) == 1 and len(training) > 1:
            self.notes.append(
                f"all {len(training)} training cases belong to {min(groups)}, so there is no {FOLDS_FILE}: every fold "
                "would divide them"
            )
        elif self._is_grouped() and len(training) > 1:
            folds = folds_by_group({case.name: case.group for case in training}, every=task.validation_every)
            (self.folder / FOLDS_FILE).write_text(json.dumps(folds, indent=1) + "\n", encoding="utf-8")
            self.notes.append(
                f"for nnU-Net copy {FOLDS_FILE} to the folder of this data set in nnUNet_preprocessed before training"
            )

    def _place(self, source: Path, target: Path) -> None:
        """Put ``source`` at ``target``: a copy, a hard link where asked for. A volume gets .nii.gz and three axes."""
        is_volume = self.task.spatial_dims == 3
        if is_volume and not (source.name.lower().endswith(".gz") and len(nib.load(source).shape) == 3):
            _save_volume(source, target)
            return
        source = source.resolve()  # a link to a symlink would break with it
        if not self._link:
            copy_file(source, target)
            return
        try:
            os.link(source, target)
        except OSError as error:
            raise InputError(f"{source} cannot be linked ({error.strerror}); convert without --link") from None

    def _labels(self) -> dict[str, Any]:
        task = self.task
        if task.regions is not None:
            return {"background": 0, **{name: list(ids) for name, ids in task.regions.items()}}
        ignore = {} if task.ignore_label is None else {"ignore": task.ignore_label}
        return {**{name: key for key, name in task.label_names.items()}, **ignore}

    def _class_names(self) -> dict[int, str]:
        return {key: name for key, name in self.task.label_names.items() if self.task.regions or key}

    def _checked_label(
        self, path: Path, images: Sequence[Path], ids: Mapping[int, int] | None
    ) -> tuple[Array, set[int]]:
        """The label to write, and the ids of ``task.labels`` that it holds."""
        if self.task.spatial_dims == 3:
            label = nifti_header(path)
            for image in images:
                check_geometry(image, nifti_header(image), path, label)
        elif (sizes := {read_picture(file).shape[:2] for file in (path, *images)}) and len(sizes) > 1:
            raise InputError(f"{path} has another size than {images[0]}: {sorted(sizes)}")
        task = self.task
        values = read_label_file(path, valid=ids or self.task.file_values)
        if ids is not None:
            new_values = np.zeros(max(ids) + 1, np.uint8)
            new_values[list(ids)] = list(ids.values())
            values = new_values[values]
        held = set(np.unique(values).tolist())
        if task.regions is not None:
            return values, {index for index, region in enumerate(task.regions.values()) if held & set(region)}
        return values, held & set(task.labels)


def folds_by_group(groups: Mapping[str, str], *, every: int) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json: fold k validates the k-th of the sorted groups and every n-th after it.

    Args:
        groups: case -> its group.
        every: n, the number of folds; fewer where there are fewer groups.
    """
    names = list(groups.values())
    folds = []
    for fold in range(min(every, len(set(names)))):
        chosen = validation_groups(names, every=every, fold=fold)
        folds.append(
            {
                "train": sorted(case for case, group in groups.items() if group not in chosen),
                "val": sorted(case for case, group in groups.items() if group in chosen),
            }
        )
    return folds


def last_of_every(names: Iterable[str], every: int) -> set[str]:
    """The n-th, 2n-th, ... of the sorted names, to test with; none for 0.

    Validation takes the first of every n, so both rules pick evenly and never the same name.
    """
    if every == 1 or every < 0:
        raise InputError(f"test_every must be 0, or a whole number from 2, got {every!r}")
    return every_nth(names, every=every, fold=every - 1) if every else set()


def _save_volume(source: Path, target: Path) -> None:
    """Save a NIfTI file with three axes, its voxels as they are stored."""
    image = nib.load(source)
    stored = image.dataobj.get_unscaled()
    volume = type(image)(stored.reshape(stored.shape[:3]), image.affine, image.header)
    volume.header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)  # else nibabel scales them anew
    nib.save(volume, target)
