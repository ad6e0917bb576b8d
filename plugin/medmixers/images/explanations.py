"""What a NIfTI file of ``medmixers explain`` says of itself: what its volumes show, and of which image."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingFileError
from medmixers.images.pictures import PICTURES

KEY = "medmixers explain"  # of the JSON object in the file's header extension
KINDS = ("activation", "tokens", "attention", "receptive_field")


@dataclass(frozen=True)
class Explanation:
    """Facts about maps on the voxels of an image.

    Args:
        kind: one of ``KINDS``, the command that made the maps.
        titles: what each volume shows.
        notes: how the maps were made.
        image_sha256: of the file of the image's first channel.
    """

    kind: str
    titles: tuple[str, ...]
    notes: tuple[str, ...]
    image_sha256: str


def with_explanation(image: Any, explanation: Explanation) -> Any:
    """A nibabel NIfTI image whose header holds the facts too."""
    import nibabel as nib

    text = json.dumps({KEY: asdict(explanation)})
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text.encode()))
    return image


def read_explanation(file: Path) -> tuple[Any, Explanation]:
    """The nibabel image of a file, and its facts.

    Raises:
        MissingFileError: there is no such file.
        InputError: a file that ``medmixers explain`` did not write.
    """
    import nibabel as nib

    if not file.is_file():
        raise MissingFileError(f"there is no file {str(file)!r}")
    if file.name.lower().endswith(PICTURES):
        raise InputError(f"{file} is a picture; give the NIfTI file of medmixers explain")
    try:
        image = nib.load(file)
        for extension in getattr(image.header, "extensions", []):
            facts = _facts(extension.get_content())
            if facts is not None:
                return image, facts
    except (nib.filebasedimages.ImageFileError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read as a NIfTI file of medmixers explain: {error}") from None
    raise InputError(f"{file} does not say what it shows: make it by medmixers explain of this version")


def _facts(content: Any) -> Explanation | None:
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    if KEY not in text:
        return None
    facts = json.loads(text.rstrip("\0 "))[KEY]
    if facts["kind"] not in KINDS:
        raise ValueError(f"unknown kind {facts['kind']!r}")
    return Explanation(facts["kind"], tuple(facts["titles"]), tuple(facts["notes"]), facts["image_sha256"])
