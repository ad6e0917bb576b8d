"""Check a data set in nnU-Net raw format before hours of training. Needs neither torch nor nnU-Net.

Format: nnU-Net's documentation/dataset_format.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmixers.datasets.raw_checks import AUDITED, CheckedCase, check_cases, listed_cases
from medmixers.datasets.raw_format import FOLDS_FILE, label_names, read_description
from medmixers.progress import progress

NNUNET_FOLDS = 5


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
                *(f"note: {note}" for note in self.notes),
            ]
        )


def audit_nnunet_dataset(
    folder: str | Path, *, parts: Collection[str] = AUDITED, voxels_of: int | None = None
) -> AuditReport:
    """Read every image and label of a data set and check them against its dataset.json.

    Args:
        folder: the data set.
        parts: "training", and "test", which is imagesTs and labelsTs where they exist. Images of a part that is not
            named stay unopened.
        voxels_of: number of cases, from the first, to read the voxels of; only headers of the others. None: of all.
            The report's ``voxels`` and ``notes`` are of the cases whose voxels were read.

    Raises:
        FileNotFoundError: the folder, dataset.json, a channel of a case or a training label is missing.
        ValueError: anything else; the first fault found, in one line with the file and the values.
    """
    folder = Path(folder)
    cases = listed_cases(folder, parts)
    description = read_description(folder)
    labels = label_names(description)
    named = {name: tuple(np.atleast_1d(value).tolist()) for name, value in description["labels"].items()}
    checked = list(progress(check_cases(folder, cases, voxels_of=voxels_of), "check", total=len(cases)))
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
    )


def extremes(shapes: Collection[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest extent per axis."""
    known = np.array(list(shapes))
    return tuple(known.min(0).tolist()), tuple(known.max(0).tolist())


def voxels_line(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """The extremes in words."""
    smallest, largest = (" x ".join(map(str, shape)) for shape in shapes)
    return f"voxels: {smallest}" + (f" to {largest}" if largest != smallest else "")


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
            f"{len(training)} training cases are fewer than nnU-Net's {NNUNET_FOLDS} folds: nnUNetv2_train takes only "
            f"fold 'all' then, unless {FOLDS_FILE} names the folds"
        )
    if "dataset" not in description:
        files = {path.name for path in (folder / "labelsTr").glob(f"*{description['file_ending']}")}
        orphans = sorted(files - {case.files.label.name for case in training if case.files.label})
        if orphans:
            yield f"{len(orphans)} files in labelsTr have no image, {orphans[0]} for example"
