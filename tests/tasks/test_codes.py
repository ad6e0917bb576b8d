"""The codes of the tasks' labels against pydicom's copy of DICOM's dictionary (PS3.16)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medmixers.codes import Code, SegmentCodes
from medmixers.errors import InputError
from medmixers.tasks import TASKS
from medmixers.tasks.codes import OWN_SCHEME

concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts
SEGMENTATIONS = sorted(name for name, task in TASKS.items() if task.task == "segmentation")
# context groups of places in the body: regions, segmentation types, bones of the hand, parts of the heart
PLACES = {1006, 7151, 7152, 7192, 8134, 12021, 12305}


def entries(code: Code) -> list[tuple[str, list[int]]]:
    """Meanings of a code, each with its context groups."""
    return [each[code.value] for each in concepts[code.scheme].values() if code.value in each]


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_every_label_has_a_code_that_dicom_gives_this_meaning(name: str) -> None:
    task = TASKS[name]
    assert task.codes is not None
    assert list(task.codes) == list(task.segment_values)
    types = [(codes.type, codes.modifier) for codes in task.codes.values()]
    assert len(set(types)) == len(types)
    for codes in task.codes.values():
        for code in filter(None, (codes.type, codes.category, codes.modifier)):
            meanings = [meaning for meaning, _ in entries(code)] if code.scheme != OWN_SCHEME else [code.meaning]
            assert code.meaning in meanings, code
        assert any(7150 in groups for _, groups in entries(codes.category))  # Segmentation Property Categories
        if codes.modifier is not None:
            assert any(244 in groups for _, groups in entries(codes.modifier)), codes  # Laterality
        if codes.type.scheme != OWN_SCHEME:  # "Radius" is also a measurement
            assert any(PLACES.intersection(groups) for _, groups in entries(codes.type)), codes.type


def test_sides_are_those_of_the_names() -> None:
    for name in SEGMENTATIONS:
        for label, codes in (TASKS[name].codes or {}).items():
            side = codes.modifier.meaning.lower() if codes.modifier else "none"
            if codes.type.meaning in ("Kidney", "Lung", "Clavicle"):
                assert side in label, label
            else:
                assert side == "none"


def test_codes_are_of_segmentations() -> None:
    codes = {"grey_matter": SegmentCodes(Code("X", "99MINE", "X"))}
    with pytest.raises(InputError, match="codes belong to a segmentation, got task 'classification'"):
        replace(TASKS["brain_tissue_segmentation"], task="classification", codes=codes)
