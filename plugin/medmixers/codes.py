"""What a segment is, in codes: the triplets of value, scheme and meaning that DICOM names things by."""

from __future__ import annotations

from dataclasses import dataclass, fields
from reprlib import repr as shortened
from typing import Any, NamedTuple

from medmixers.errors import InputError

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


def read_segment_codes(name: str, value: Any) -> SegmentCodes:
    """The codes of one label, from JSON or YAML: {"type": [value, scheme, meaning], "category": ..., "modifier": ...}.

    Args:
        name: what the error calls them.
        value: what the file holds; only ``type`` is required.

    Raises:
        InputError: another form, or codes that :class:`SegmentCodes` refuses.
    """
    valid = [field.name for field in fields(SegmentCodes)]
    if not isinstance(value, dict) or "type" not in value or not set(value) <= set(valid):
        raise InputError(f"{name} must have type, and may have category and modifier, got {shortened(value)}")
    return SegmentCodes(**{part: _code(f"{part} in {name}", code) for part, code in value.items()})


def _code(name: str, value: Any) -> Code:
    if not isinstance(value, list) or len(value) != len(Code._fields):
        raise InputError(f"{name} must be [value, scheme, meaning], got {shortened(value)}")
    for part in value:
        if not isinstance(part, str):
            raise InputError(f"each of {name} must be text, got {shortened(part)}; put it in quotes")
    return Code(*(" ".join(part.split()) for part in value))
