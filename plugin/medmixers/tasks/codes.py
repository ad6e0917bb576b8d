"""What a segment is, in codes: the triplets of value, scheme and meaning that DICOM names things by.

SCT is SNOMED CT in DICOM's subset (PS3.16). A concept that we find no certain code for gets one of our own, in the
scheme 99MEDMIXERS: DICOM keeps names that begin with 99 for private schemes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from medmixers.errors import InputError

OWN_SCHEME = "99MEDMIXERS"
MOST_CHARACTERS = {"value": 16, "scheme": 16, "meaning": 64}  # DICOM's SH, SH and LO


class Code(NamedTuple):
    """One code, in DICOM's order.

    Args:
        value: such as "10200004".
        scheme: designator of the coding scheme: SCT, DCM, or a private one, 99...
        meaning: for people.
    """

    value: str
    scheme: str
    meaning: str


ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")


@dataclass(frozen=True)
class SegmentCodes:
    """What a label is, as DICOM SEG states it (Segmented Property Type, Category and Type Modifier).

    Args:
        type: the structure.
        category: the kind of structure.
        modifier: of the type, such as its side.

    Raises:
        InputError: a part that is empty, too long for DICOM, or has a backslash.
    """

    type: Code
    category: Code = ANATOMICAL_STRUCTURE
    modifier: Code | None = None

    def __post_init__(self) -> None:
        for code in filter(None, (self.type, self.category, self.modifier)):
            for part, text in code._asdict().items():
                if not 0 < len(text.strip()) <= MOST_CHARACTERS[part] or "\\" in text:
                    raise InputError(
                        f"the {part} of a code must have 1 to {MOST_CHARACTERS[part]} characters without a backslash, "
                        f"got {text!r}"
                    )


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
