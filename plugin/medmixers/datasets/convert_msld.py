"""MSLD: ``Original Images/{Monkey Pox,Others}/M01_01.jpg``, ``Augmented Images/{Monkeypox,Others}.../M01_01_00.jpg``.

An original is named PATIENT_NUMBER, an augmented copy ORIGINAL_NUMBER.
"""

from __future__ import annotations

from pathlib import Path

from medmixers.datasets.reading import PICTURES, read_picture, some, with_ending
from medmixers.datasets.writers import DatalistWriter
from medmixers.errors import InputError

# the authors' 70 : 10 : 20, of every ten sorted patients of a class
PARTS_OF_TEN = (
    ("training",) * 3 + ("test",) + ("training",) * 2 + ("validation",) + ("training",) + ("test", "training")
)


def convert(writer: DatalistWriter, source: Path) -> None:
    """Split the originals by patient into three parts; augmented copies of training originals train too.

    Args:
        writer: of monkeypox_skin_classification.
        source: folder that holds "Original Images" and, if copies are to train, "Augmented Images", at any depth.
    """
    left_out = 0
    for key, label in writer.task.labels.items():
        originals = _images(source, "original", label.name)
        some(originals, f"image of the class {label.name} in Original Images", source)
        patients = sorted({_patient(path) for path in originals})
        parts = {patient: PARTS_OF_TEN[index % 10] for index, patient in enumerate(patients)}
        by_stem = {path.stem: path for path in originals}
        for path in originals:
            _add(writer, parts[_patient(path)], path, label.name, key, _patient(path))
        for copy in _images(source, "augmented", label.name):
            stem = copy.stem.rpartition("_")[0]
            if stem not in by_stem:
                raise InputError(f"{copy} must be named ORIGINAL_NUMBER, but there is no original {stem!r}")
            patient = _patient(by_stem[stem])
            if parts[patient] == "training":
                _add(writer, "training", copy, label.name, key, patient)
            else:
                left_out += 1
    writer.notes.append(f"{left_out} augmented copies of validation and test originals were left out")


def _add(writer: DatalistWriter, part: str, path: Path, label: str, key: int, patient: str) -> None:
    name = f"{label}_{writer.case_name(path.stem)}"
    writer.add_class(part, name, read_picture(path, "RGB"), key, group=f"{label} {patient}")


def _images(source: Path, kind: str, label: str) -> list[Path]:
    """Images of a class in "Original Images" or "Augmented Images", by the first letters of the folder's name."""
    found = []
    for path in with_ending(source.rglob("*"), PICTURES):
        folders = [part.lower().replace(" ", "") for part in path.relative_to(source).parts[:-1]]
        if folders and folders[-1].startswith(label):
            found += [path] if any(folder.startswith(kind) for folder in folders[:-1]) else []
    return sorted(found)


def _patient(path: Path) -> str:
    patient, underscore, _ = path.stem.rpartition("_")
    if not underscore:
        raise InputError(f"{path} must be named PATIENT_NUMBER, as M01_01")
    return patient
