"""FeTS 2022 (BraTS 2021): ``FeTS2022_00001/FeTS2022_00001_{t1,t1ce,t2,flair,seg}.nii.gz``, ``partitioning_1.csv``."""

from __future__ import annotations

from pathlib import Path

from medmixers.datasets.raw_format import NIFTI
from medmixers.datasets.reading import by_name, nifti_file, read_table, some, table_file, with_ending
from medmixers.datasets.writers import RawWriter, last_of_every

SUFFIXES = {"T1": "t1", "T1ce": "t1ce", "T2": "t2", "FLAIR": "flair"}
IDS = {0: 0, 1: 1, 2: 2, 4: 3}  # nnU-Net wants consecutive ids


def convert(writer: RawWriter, source: Path, *, test_every: int = 0) -> None:
    """Write every subject with a segmentation. Ids become consecutive, enhancing tumour 4 -> 3.

    Args:
        writer: of brain_tumor_segmentation.
        source: folder with one folder per subject, at any depth, and partitioning_1.csv (Partition_ID, Subject_ID).
        test_every: n. The n-th, 2n-th, ... of the sorted subjects are the test part; 0: none, for cross-validation as
            in Tshimanga et al.
    """
    labels = some(with_ending(source.rglob("*_seg.*"), NIFTI), "*_seg.nii.gz", source)
    subjects = by_name(labels, lambda path: path.name.partition("_seg.")[0])
    test = last_of_every(subjects, test_every)
    for subject, label in subjects.items():
        images = [nifti_file(label.parent, f"{subject}_{SUFFIXES[channel]}") for channel in writer.task.channels]
        writer.add("test" if subject in test else "training", writer.case_name(subject), images, label, ids=IDS)
    images = with_ending(source.rglob("*_flair.*"), NIFTI)
    unlabelled = {path.name.partition("_flair.")[0] for path in images} - set(subjects)
    writer.note_left_out(unlabelled, "subjects without a segmentation")
    writer.notes.append("label 4 (enhancing tumour) is written as 3")
    if not any(source.rglob("partitioning_1.csv")):
        writer.notes.append("no partitioning_1.csv: the institutions of the subjects are not known")
        return
    rows = read_table(table_file(source, "partitioning_1.csv"), "Subject_ID", "Partition_ID")
    writer.description["institutions"] = {
        writer.case_name(subject): row["Partition_ID"] for subject, row in rows.items() if subject in subjects
    }
