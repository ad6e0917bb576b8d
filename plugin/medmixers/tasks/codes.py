"""Codes of the structures that our tasks segment.

SCT is SNOMED CT in DICOM's subset (PS3.16). A concept that we find no certain code for gets one of our own, in the
scheme 99MEDMIXERS: DICOM keeps names that begin with 99 for private schemes.
"""

from __future__ import annotations

from medmixers.codes import ANATOMICAL_STRUCTURE, Code, SegmentCodes

OWN_SCHEME = "99MEDMIXERS"
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")


def sct(value: str, meaning: str, *, category: Code = ANATOMICAL_STRUCTURE, side: Code | None = None) -> SegmentCodes:
    """A structure of SNOMED CT."""
    return SegmentCodes(Code(value, "SCT", meaning), category, side)


def own(value: str, meaning: str, *, category: Code = ANATOMICAL_STRUCTURE) -> SegmentCodes:
    """A structure without a certain code in SNOMED CT."""
    return SegmentCodes(Code(value, OWN_SCHEME, meaning), category)


AORTA = sct("15825003", "Aorta")
GALLBLADDER = sct("28231008", "Gallbladder")
LEFT_KIDNEY = sct("64033007", "Kidney", side=LEFT)
RIGHT_KIDNEY = sct("64033007", "Kidney", side=RIGHT)
LIVER = sct("10200004", "Liver")
PANCREAS = sct("15776009", "Pancreas")
SPLEEN = sct("78961009", "Spleen")
STOMACH = sct("69695003", "Stomach")
