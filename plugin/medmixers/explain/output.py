"""Where `medmixers explain` writes: NIfTI on the voxels of the image, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medmixers.errors import InputError
from medmixers.explain.case import Case, finite
from medmixers.explain.cases import NIFTI
from medmixers.explain.picture import FORMATS, Row, write_picture
from medmixers.files import file_digest, refuse_overwriting_inputs, written_whole
from medmixers.images.explanations import Explanation, with_explanation

Voxels = NDArray[np.float32]


class Output(NamedTuple):
    """Files of one case.

    Args:
        nifti: None where only a picture is written.
        picture: PNG or JPEG.
    """

    nifti: Path | None
    picture: Path

    def __str__(self) -> str:
        return str(self.picture) if self.nifti is None else f"{self.nifti}, {self.picture}"


def output_of(out: str | Path, files: Sequence[Path]) -> Output:
    """The files for OUT: NIfTI and a PNG next to it, or the picture alone.

    Args:
        out: .nii, .nii.gz, .png or .jpg.
        files: that are read, and must not be overwritten.

    Raises:
        InputError: another ending, or an output that is an input.
    """
    out = Path(out)
    if out.name.lower().endswith(NIFTI):
        stem = out.name[: -len(".nii.gz" if out.name.lower().endswith(".gz") else ".nii")]
        output = Output(out, out.with_name(f"{stem}.png"))
    elif out.suffix.lower() in FORMATS:
        output = Output(None, out)
    else:
        raise InputError(f"{out} must be a NIfTI file, .nii or .nii.gz, or a picture ({', '.join(FORMATS)})")
    for path in output:
        if path is not None:
            refuse_overwriting_inputs(path, files)
    return output


def on_file(case: Case, maps: Tensor) -> Voxels:
    """Maps of a case, (B, N, *spatial), on the voxels of its image file, (X, Y, Z, N). InputError: not finite."""
    voxels: Voxels = np.asarray(case.on_file(finite(maps)).dataobj, np.float32)
    return voxels


def write(
    case: Case,
    voxels: Voxels,
    output: Output,
    rows: Sequence[Row],
    voxel: Sequence[int],
    *,
    kind: str,
    titles: Sequence[str],
    image: Path,
    notes: Sequence[str] = (),
) -> None:
    """Write the NIfTI file and the picture of a case.

    Args:
        voxels: of the NIfTI file, (X, Y, Z, N).
        rows: of the picture.
        voxel: of the image file, through which the picture's planes go.
        kind: of the maps, in :data:`medmixers.images.explanations.KINDS`.
        titles: what each volume of the NIfTI file shows, N.
        image: file of the first channel.
        notes: lines above the rows; how the maps were made.
    """
    write_picture(output.picture, case.source, rows, [*voxel, *[0] * (3 - len(voxel))], notes=notes)
    if output.nifti is not None:
        with written_whole(output.nifti) as partial:
            facts = Explanation(kind, tuple(titles), tuple(notes), file_digest(image))
            nib.save(with_explanation(nib.Nifti1Image(voxels, case.source.affine), facts), partial)
