"""ACDC: ``training/patient001/patient001_frame01.nii.gz`` and ``..._gt.nii.gz``; ``..._4d.nii.gz`` is left alone."""

from __future__ import annotations

from pathlib import Path

from medmixers.datasets.raw_format import NIFTI
from medmixers.datasets.reading import nifti_file, some, with_ending
from medmixers.datasets.writers import RawWriter, last_of_every


def convert(writer: RawWriter, source: Path, *, test_every: int = 5) -> None:
    """Write both labelled frames of every patient.

    Args:
        writer: of cardiac_mri_segmentation.
        source: folder that holds the files of the patients, at any depth. Patients with a file below a folder
            "testing" are the test part.
        test_every: n. Without a folder "testing", the n-th, 2n-th, ... of the sorted patients are the test part.
    """
    found = with_ending(source.rglob("patient*_frame*_gt.*"), NIFTI)
    labels = some(found, "patient*_frame*_gt.nii.gz", source)
    given = {_patient(path) for path in labels if "testing" in path.relative_to(source).parts}
    test = given or last_of_every(map(_patient, labels), test_every)
    for label in labels:
        name, patient = label.name.partition("_gt.")[0], _patient(label)
        image = nifti_file(label.parent, name)
        writer.add("test" if patient in test else "training", name, [image], label, group=patient)
    frames = with_ending(source.rglob("patient*_frame*"), NIFTI)
    names = {path.name.partition(".")[0].removesuffix("_gt") for path in frames}
    writer.note_left_out(names - {case.name for case in writer.cases}, "frames without a label")


def _patient(path: Path) -> str:
    return path.name.partition("_frame")[0]
