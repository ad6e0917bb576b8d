"""Check a data set in nnU-Net raw format before hours of training. Needs neither torch nor nnU-Net.

Format: nnU-Net's documentation/dataset_format.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.case_facts import CaseFacts, facts_of
from medmixers.datasets.findings import Finding, find
from medmixers.datasets.image_files import Volume
from medmixers.datasets.nifti_forms import form_notes
from medmixers.datasets.raw_checks import AUDITED, CaseVoxels, CheckedCase, check_cases, listed_cases
from medmixers.datasets.raw_format import FOLDS_FILE, CaseFiles, label_names, read_description, read_folds
from medmixers.progress import progress

NNUNET_FOLDS = 5
MOST_THUMBNAILS = 2000  # 10 KB each, that are kept to choose from


@dataclass(frozen=True)
class AuditReport:
    """Content of a data set without faults.

    Args:
        folder: the data set.
        channels: channel names in order.
        labels: label value -> name; where regions share a value, the name of the smallest region.
        regions: name -> its label values, more than one for a region.
        training, test: identifiers of the cases that were read; ``test`` is empty without imagesTs.
        voxels: label value -> voxels in all training labels.
        shapes: smallest and largest extent per axis over all cases.
        notes: facts that are legal but unlikely to be meant, one line each.
        facts: of each case whose voxels were read.
        findings: copies, patients in two parts, and outliers.
    """

    folder: Path
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    training: tuple[str, ...]
    test: tuple[str, ...]
    voxels: Mapping[int, int]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    notes: tuple[str, ...]
    facts: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        total = max(sum(self.voxels.values()), 1)
        shares = [
            f"{name} ({', '.join(map(str, values))}): {100 * sum(self.voxels[v] for v in values) / total:.2f} %"
            for name, values in self.regions.items()
        ]
        return "\n".join(
            [
                f"{self.folder}: no error found",
                f"cases: {len(self.training)} training, {len(self.test)} test",
                f"channels: {', '.join(self.channels)}",
                voxels_line(self.shapes),
                f"labels: {', '.join(shares)}",
                *(f"note: {note}" for note in (*self.notes, *(finding.text for finding in self.findings))),
            ]
        )


def audit_nnunet_dataset(
    folder: str | Path,
    *,
    parts: Collection[str] = AUDITED,
    voxels_of: int | None = None,
    with_thumbnails: bool = False,
) -> AuditReport:
    """Read every image and label of a data set and check them against its dataset.json.

    Args:
        folder: the data set.
        parts: "training", and "test", which is imagesTs and labelsTs where they exist. Images of a part that is not
            named stay unopened.
        voxels_of: number of cases, from the first, to read the voxels of; only headers of the others. None: of all.
            The report's ``voxels``, ``notes`` and ``findings`` are of the cases whose voxels were read.
        with_thumbnails: draw cases, at most :data:`MOST_THUMBNAILS` of them, evenly spaced.

    Raises:
        FileNotFoundError: the folder, dataset.json, a channel of a case or a training label is missing.
        ValueError: anything else; the first fault found, in one line with the file and the values.
    """
    folder = Path(folder)
    cases = listed_cases(folder, parts)
    description = read_description(folder)
    labels = label_names(description)
    named = {name: tuple(np.atleast_1d(value).tolist()) for name, value in description["labels"].items()}
    look = _Look(folder, description, labels, cases, with_thumbnails=with_thumbnails)
    reading = check_cases(folder, cases, voxels_of=voxels_of, look=look)
    checked = list(progress(reading, "check", total=len(cases)))
    counted = [case.voxels for case in checked if case.is_training and case.voxels is not None]
    voxels = {value: sum(counts.get(value, 0) for counts in counted) for value in labels}
    return AuditReport(
        folder,
        tuple(str(name) for name in description["channel_names"].values()),
        labels,
        dict(sorted(named.items(), key=lambda item: item[1])),
        tuple(case.files.name for case in checked if case.is_training),
        tuple(case.files.name for case in checked if not case.is_training),
        voxels,
        extremes([case.shape for case in checked]),
        tuple(_notes(folder, description, labels, voxels, checked)) if "training" in parts else (),
        tuple(look.facts),
        find(look.facts, keeping=look.keeping),
    )


class _Look:
    """Collect the facts of each case while its voxels are in memory."""

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        labels: Mapping[int, str],
        cases: Collection[tuple[CaseFiles, bool]],
        *,
        with_thumbnails: bool,
    ) -> None:
        self.facts: list[CaseFacts] = []
        self._channels = tuple(str(name) for name in description["channel_names"].values())
        self._labels = {value: name for value, name in labels.items() if value and name != "ignore"}
        self._training = {case.name for case, is_training in cases if is_training}
        folds = read_folds(folder, self._training) if self._training else None
        self._validating = None if folds is None else [set(fold["val"]) for fold in folds]
        self._every = thumbnail_step(len(cases)) if with_thumbnails else 0
        self.keeping = (
            f"that folds may divide, without {FOLDS_FILE}" if folds is None else f"that a fold of {FOLDS_FILE} divides"
        )

    def __call__(self, voxels: CaseVoxels) -> None:
        case, is_training, _, counts = voxels.case
        name = case.name
        if not is_training and name in self._training:
            name += " (test)"
        channels = [part for image in voxels.images for part in _components(image)]
        drawn = bool(self._every) and len(self.facts) % self._every == 0
        self.facts.append(
            facts_of(
                name,
                "training" if is_training else "test",
                self._unit(case.name) if is_training else "",
                case.images[0],
                voxels.images[0],
                dict(zip(self._channels, channels, strict=True)),
                [] if voxels.label is None else [voxels.label.data],
                {label: (counts or {}).get(value, 0) for value, label in self._labels.items()},
                with_thumbnail=drawn,
                white=255 if voxels.images[0].data.dtype == np.uint8 and len(voxels.images[0].shape) == 2 else None,
            )
        )

    def _unit(self, case: str) -> str:
        """The folds that validate with a case; without folds, itself."""
        return case if self._validating is None else str([case in fold for fold in self._validating])


def _components(image: Volume) -> list[NDArray[Any]]:
    """The channels of a file."""
    return [image.data] if image.components == 1 else list(np.moveaxis(image.data, -1, 0))


def thumbnail_step(cases: int) -> int:
    """Every how many cases one is drawn while all are read, so that memory suffices."""
    return -(-cases // MOST_THUMBNAILS)


def extremes(shapes: Collection[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest extent per axis."""
    known = np.array(list(shapes))
    return tuple(known.min(0).tolist()), tuple(known.max(0).tolist())


def voxels_line(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """The extremes in words."""
    smallest, largest = (" x ".join(map(str, shape)) for shape in shapes)
    return f"voxels: {smallest}" + (f" to {largest}" if largest != smallest else "")


def _files(case: CheckedCase) -> list[Path]:
    return [*case.files.images, *([] if case.files.label is None else [case.files.label])]


def _notes(
    folder: Path,
    description: dict[str, Any],
    labels: Mapping[int, str],
    voxels: Mapping[int, int],
    checked: Collection[CheckedCase],
) -> Iterator[str]:
    training = [case for case in checked if case.is_training]
    absent = [f"{value} {name}" for value, name in labels.items() if name != "ignore" and not voxels[value]]
    if absent:
        yield f"no training label holds {', '.join(absent)}"
    empty = [case.files.name for case in training if case.voxels is not None and set(case.voxels) <= {0}]
    if empty:
        yield f"only background in {len(empty)} training labels, {empty[0]} for example"
    if len(training) < NNUNET_FOLDS and not (folder / FOLDS_FILE).is_file():
        yield (
            f"the training cases, {len(training)}, are fewer than nnU-Net's {NNUNET_FOLDS} folds: nnUNetv2_train takes "
            f"only fold 'all' then, unless {FOLDS_FILE} names the folds"
        )
    yield from form_notes([file for case in checked for file in _files(case)])
    if "dataset" not in description:
        files = {path.name for path in (folder / "labelsTr").glob(f"*{description['file_ending']}")}
        orphans = sorted(files - {case.files.label.name for case in training if case.files.label})
        if orphans:
            yield f"{len(orphans)} files in labelsTr have no image, {orphans[0]} for example"
