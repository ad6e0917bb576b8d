"""DICOM series in several orientations for tests, and readers of DICOM SEG that share no code with its writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicom_files import oblique_directions, write_series
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from medmixers.clinic.model import SegmentationModel
from medmixers.images.dicom_seg import Segment

# columns: along a row, along a column, the normal; in LPS
ORIENTATIONS = {
    "axial": np.eye(3),
    "sagittal": np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]], float),
    "oblique": oblique_directions(),
}
SPACING, ORIGIN = (1.9, 2.3, 3.1), (-10.0, 5.0, 30.0)
STUDY = {"StudyInstanceUID": "1.2.826.1", "FrameOfReferenceUID": "1.2.826.2"}
PATIENT = {"PatientName": "DOE^JOHN", "PatientID": "SECRET7", "PatientBirthDate": "19500131", "PatientSex": "M"}


def series(folder: Path, voxels: NDArray[Any], orientation: str = "oblique", **tags: Any) -> Path:
    """A series of voxels (x, y, z) with what a DICOM SEG refers to."""
    tags = {**STUDY, "SeriesInstanceUID": generate_uid(), **tags}
    return write_series(folder, voxels, spacing=SPACING, directions=ORIENTATIONS[orientation], origin=ORIGIN, **tags)


def small_model(folder: Path, segments: tuple[Segment, ...]) -> SegmentationModel:
    """A model of CT whose file of weights exists."""
    weights = folder / "model.pt"
    weights.write_bytes(b"weights")
    return SegmentationModel(folder, "small_model", "0.3.1", weights, ("CT",), "CT", segments, False, {})


def lps_affine(orientation: str) -> NDArray[np.float64]:
    """From voxel (x, y, z) of such a series to LPS millimetres."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = ORIENTATIONS[orientation] * SPACING, ORIGIN
    return affine


def voxels_in(file: Path, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(K, *shape): each segment on this grid, by pydicom: the pixels and the place that each frame states."""
    dataset = pydicom.dcmread(file)
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    masks = np.zeros((len(dataset.SegmentSequence), *shape), bool)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        measures = shared.PixelMeasuresSequence[0].PixelSpacing
        cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        plane = np.eye(4)
        plane[:3, 0], plane[:3, 1] = cosines[:3] * measures[1], cosines[3:] * measures[0]
        plane[:3, 3] = groups.PlanePositionSequence[0].ImagePositionPatient
        rows, columns = np.nonzero(frame)
        places = plane @ [columns, rows, np.zeros(len(rows)), np.ones(len(rows))]
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        _set(masks[number - 1], places, affine)
    return masks


def _set(mask: NDArray[np.bool_], places: NDArray[np.float64], affine: NDArray[np.float64]) -> None:
    """Mark the voxels at these places (4, N), which must be centres of voxels."""
    indices = np.linalg.solve(affine, places)[:3]
    np.testing.assert_allclose(indices, indices.round(), atol=1e-3)
    x, y, z = indices.round().astype(int)
    assert not mask[x, y, z].any(), "a voxel is stated twice"
    mask[x, y, z] = True


def voxels_of_nifti(file: Path, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The voxels above 0 of a NIfTI file, which may cover a part of the grid."""
    import nibabel as nib

    image = nib.load(file)
    found = np.nonzero(np.asarray(image.dataobj))
    places = np.diag([-1.0, -1, 1, 1]) @ image.affine @ [*found, np.ones(len(found[0]))]
    mask = np.zeros(shape, bool)
    _set(mask, places, affine)
    return mask
