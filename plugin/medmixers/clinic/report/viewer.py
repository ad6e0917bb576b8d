"""An interactive viewer in a report: NiiVue, from a file that a person has downloaded, and its volumes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.report.planes import UNSURE, Drawing
from medmixers.errors import InputError, MissingFileError

TEMPLATES = Path(__file__).parent / "templates"
PACKAGE = "npm pack @niivue/niivue@0.69.0, package/dist/niivue.umd.js"
MOST_VOXELS = 2**26  # of an image; a browser holds several copies


class Script(NamedTuple):
    """A script of the page, and its digest for the page's policy."""

    text: str
    digest: str


class Volumes(NamedTuple):
    """NIfTI files of a case, as base64, and the colours of its labels as NiiVue takes them."""

    image: str
    labels: str
    entropy: str
    colours: str


def read_scripts(viewer: Path) -> list[Script]:
    """NiiVue and what starts it.

    Args:
        viewer: NiiVue's file for a page, niivue.umd.js.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is something else.
    """
    if not viewer.is_file():
        raise MissingFileError(f"there is no file {str(viewer)!r}; it is in NiiVue's package: {PACKAGE}")
    text = viewer.read_text("utf-8", errors="replace")
    if "globalThis" not in text or ".niivue=" not in text:
        raise InputError(f"{viewer} is not niivue.umd.js of NiiVue: {PACKAGE}")
    start = (TEMPLATES / "viewer.js").read_text("utf-8")
    return [_script(text), _script(start)]


def _script(text: str) -> Script:
    """As it stands in a page: the browser ends a script at its end tag, and counts each line end as one."""
    inline = text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")
    return Script(inline, base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode())


def volumes(drawn: Drawing, names: Sequence[str]) -> Volumes | None:
    """The volumes of a case, in 8 bits; None for a picture, or an image of more than MOST_VOXELS.

    Args:
        drawn: the case.
        names: of its structures. Where structures overlap, later ones cover earlier ones.
    """
    if drawn.grid is None or drawn.image.size > MOST_VOXELS:
        return None
    labels = np.zeros(drawn.image.shape, np.uint8)
    for number, structure in enumerate(drawn.structures, start=1):
        labels[structure.mask] = min(number, 255)
    grey = np.clip((drawn.image - drawn.black) / max(drawn.white - drawn.black, 1e-12), 0, 1)
    doubt = np.clip(drawn.entropy / UNSURE, 0, 1)
    columns = np.array([(0, 0, 0), *(each.colour for each in drawn.structures)]).T.tolist()
    colours = {
        **dict(zip("RGB", columns, strict=True)),
        "A": [0, *[255] * len(names)],
        "I": list(range(len(names) + 1)),
        "labels": ["", *names],
    }
    return Volumes(
        image=_nifti(np.rint(255 * grey), drawn.grid),
        labels=_nifti(labels, drawn.grid),
        entropy=_nifti(np.rint(255 * doubt), drawn.grid),
        colours=json.dumps(colours),
    )


def _nifti(values: NDArray[Any], affine: NDArray[np.float64]) -> str:
    """base64 of a NIfTI file without a text of the source's."""
    content = nib.Nifti1Image(values.astype(np.uint8), affine).to_bytes()
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
