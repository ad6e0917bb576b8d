"""The two places that a NIfTI header gives its voxels, qform and sform, where they say different things or nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import nibabel as nib

from medmixers.datasets.case_facts import spacing_of
from medmixers.datasets.image_files import Volume, check_geometry
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError


def form_notes(files: Collection[Path]) -> Iterator[str]:
    """A note on the files whose qform and sform differ, and one on those that have neither.

    MONAI reads the sform, by nibabel. SimpleITK, which nnU-Net reads NIfTI with, takes the qform of some files. Without
    both, the two readers assume different directions.

    Args:
        files: images and labels, which were read before. Only NIfTI files are opened.
    """
    differing: list[tuple[Path, str]] = []
    without: list[Path] = []
    nifti = [file for file in files if file.name.lower().endswith(NIFTI)]
    for file in nifti:
        header = nib.load(file).header
        qform, sform = (header.get_qform(coded=True)[0], header.get_sform(coded=True)[0])
        if qform is None and sform is None:
            without.append(file)
        elif qform is not None and sform is not None:
            by_qform, by_sform = (Volume(header.get_data_shape()[:3], form) for form in (qform, sform))
            try:
                check_geometry(file, by_qform, file, by_sform)
            except InputError:
                differing.append((file, f"voxels of {_edges(by_qform)} and {_edges(by_sform)} mm"))
    if differing:
        file, edges = differing[0]
        yield (
            f"qform and sform differ in {len(differing)} of {len(nifti)} NIfTI files ({file.name}: {edges}): MONAI "
            "reads the sform, nnU-Net may read the qform; save them with one of the two in both"
        )
    if without:
        yield (
            f"neither qform nor sform is set in {len(without)} of {len(nifti)} NIfTI files ({without[0].name}): "
            "nnU-Net and MONAI assume different directions; set the one that is true"
        )


def _edges(volume: Volume) -> str:
    return " x ".join(f"{edge:.4g}" for edge in spacing_of(volume))
