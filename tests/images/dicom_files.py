"""Small DICOM files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR, DX, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.4.1"


def write_dicom(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """An uncompressed image of (rows, columns) or (rows, columns, 3) with the given tags over plain ones."""
    sop_class = tags.pop("sop_class", MR)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    file.Modality, file.PatientID, file.SeriesInstanceUID = "MR", "p", "1.2.3"
    file.SamplesPerPixel = 3 if pixels.ndim == 3 and pixels.shape[-1] == 3 else 1
    file.PhotometricInterpretation = "RGB" if file.SamplesPerPixel == 3 else "MONOCHROME2"
    file.Rows, file.Columns = pixels.shape[:2] if "NumberOfFrames" not in tags else pixels.shape[1:3]
    bits = 8 * pixels.dtype.itemsize
    file.BitsAllocated = file.BitsStored = bits
    file.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    if file.SamplesPerPixel == 3:
        file.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(file, name, value)
    file.HighBit = file.BitsStored - 1
    file.PixelData = np.ascontiguousarray(pixels).tobytes()
    file.save_as(path, enforce_file_format=True)
    return path


def oblique_directions() -> NDArray[np.float64]:
    """Columns: along a row, along a column, the normal; rotated by 20, -12 and 15 degrees."""
    x, y, z = np.radians([20, -12, 15])
    rotations = (
        [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]],
        [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]],
        [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]],
    )
    return np.linalg.multi_dot([np.array(each) for each in rotations])


def write_series(
    folder: Path,
    voxels: NDArray[Any],
    *,
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    directions: NDArray[np.float64] | None = None,
    origin: tuple[float, float, float] = (-10.0, 5.0, 30.0),
    kept: list[int] | None = None,
    **tags: Any,
) -> Path:
    """Slices of a volume (x, y, z); file names and instance numbers run against the positions."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.eye(3) if directions is None else directions
    count = voxels.shape[2]
    for k in range(count) if kept is None else kept:
        place = np.array(origin) + axes[:, 2] * spacing[2] * k
        write_dicom(
            folder / f"{count - k:03d}.dcm",
            voxels[:, :, k].T,
            **{
                "InstanceNumber": count - k,
                "PixelSpacing": [spacing[1], spacing[0]],
                "SliceThickness": 99,
                "ImageOrientationPatient": [*axes[:, 0], *axes[:, 1]],
                "ImagePositionPatient": list(place),
                **tags,
            },
        )
    return folder


def write_multi_frame(path: Path, voxels: NDArray[Any], *, spacing: float = 2.0, step: float = 3.0) -> Path:
    """An enhanced MR file: one frame per slice, the last slice first."""
    frames = []
    for k in reversed(range(voxels.shape[2])):
        plane, transformation, groups = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = [0, 0, step * k]
        transformation.RescaleSlope, transformation.RescaleIntercept = 2, k
        groups.PlanePositionSequence = Sequence([plane])
        groups.PixelValueTransformationSequence = Sequence([transformation])
        frames.append(groups)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [spacing, spacing]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    return write_dicom(
        path,
        np.ascontiguousarray(voxels.transpose(2, 1, 0)[::-1]),
        sop_class=ENHANCED_MR,
        NumberOfFrames=voxels.shape[2],
        PerFrameFunctionalGroupsSequence=Sequence(frames),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
