"""ACDC: ``training/patient001/patient001_frame01.nii.gz`` and ``..._gt.nii.gz``; ``..._4d.nii.gz`` is left alone."""

from __future__ import annotations

from pathlib import Path

from medmixers.datasets.reading import nifti_file, some
from medmixers.datasets.writers import RawWriter, last_of_every


def convert(writer: RawWriter, source: Path, *, test_every: int = 5) -> None:
    """Write both labelled frames of every patient.

    Args:
        writer: of cardiac_mri_segmentation.
        source: folder that holds the folders of the patients, at any depth. Those below a folder "testing" are the
            test part.
        test_every: n. Without a folder "testing", the n-th, 2n-th, ... of the sorted patients are the test part.
    """
    labels = some(list(source.rglob("patient*_frame*_gt.nii*")), "patient*_frame*_gt.nii.gz", source)
    given = {path.parent.name for path in labels if "testing" in path.relative_to(source).parts}
    test = given or last_of_every((path.parent.name for path in labels), test_every)
    for label in labels:
        name, patient = label.name.partition("_gt.nii")[0], label.parent.name
        image = nifti_file(label.parent, name)
        writer.add("test" if patient in test else "training", name, [image], label, group=patient)
