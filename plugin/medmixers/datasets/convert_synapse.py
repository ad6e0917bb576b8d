"""Synapse (BTCV abdomen): ``RawData/Training/{img/img0001.nii.gz,label/label0001.nii.gz}``."""

from __future__ import annotations

from pathlib import Path

from medmixers.datasets.raw_format import NIFTI
from medmixers.datasets.reading import nifti_file, some, with_ending
from medmixers.datasets.writers import RawWriter

# The twelve test volumes that the field has used since TransUNet (Chen et al. 2021).
TEST = ("0001", "0002", "0003", "0004", "0008", "0022", "0025", "0029", "0032", "0035", "0036", "0038")
# id in the files -> id of the task; the five others become background
IDS = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8} | dict.fromkeys((0, 5, 9, 10, 12, 13), 0)


def convert(writer: RawWriter, source: Path) -> None:
    """The 30 labelled volumes: 18 to train, 12 to test.

    Args:
        writer: of multi_organ_ct_segmentation.
        source: folder that holds img and label, at any depth.
    """
    labels = with_ending(source.rglob("label/label*"), NIFTI)
    for label in some(labels, "label/label0001.nii.gz", source):
        number = label.name.removeprefix("label").partition(".")[0]
        image = nifti_file(label.parents[1] / "img", f"img{number}")
        writer.add("test" if number in TEST else "training", f"img{number}", [image], label, ids=IDS)
    names = {path.name.partition(".")[0] for path in with_ending(source.rglob("img/img*"), NIFTI)}
    writer.note_left_out(names - {case.name for case in writer.cases}, "volumes without a label")
    writer.notes.append("oesophagus, vena cava, portal and splenic veins and adrenal glands are written as background")
