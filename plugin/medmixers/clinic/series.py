"""Find the DICOM series that a model is given, and check that it is one volume of the model's modality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom import GRID_TOLERANCE, check_series, dicom_files, identifier, read_header, volume_affine
from medmixers.images.dicom_seg import MANUFACTURER, Series

# DICOM objects that may have rows and columns, but are no images to segment
NOT_IMAGES = {"SEG", "RTDOSE", "PR", "SR", "KO", "REG"}
FOUND = ("SOPClassUID", "SeriesInstanceUID", "Modality", "Manufacturer", "Rows")


def find_series(source: Path, *, channels: Sequence[str], series_uid: Sequence[str] = ()) -> list[Series]:
    """The series of a case, one per channel, on one grid.

    Args:
        source: a folder, which is searched with all folders in it, or a multi-frame file.
        channels: names of the channels that the model takes.
        series_uid: SeriesInstanceUID of each channel; empty where ``source`` holds one series.

    Raises:
        MissingFileError: no DICOM image is there.
        InputError: several series without ``series_uid``; another number of series than channels; what
            :func:`medmixers.images.dicom.check_series` refuses; series of different patients or on
            different grids; as :func:`image_series`.
    """
    found = image_series(source)
    if not found:
        raise MissingFileError(f"{source} holds no DICOM image")
    listed = "; ".join(
        f"{uid} ({modality}, {len(files)} files, {files[0].parent})" for uid, (modality, files) in found.items()
    )
    chosen = list(series_uid) or (list(found) if len(found) == 1 else [])
    if not chosen and len(channels) == 1:
        raise InputError(f"{source} holds {len(found)} DICOM series; name one by --series_uid: {listed}")
    if len(chosen) != len(channels):
        raise InputError(
            f"the model takes {len(channels)} images per case; give the series of each, {', '.join(channels)}, as "
            f"--series_uid UID,UID,...; found: {listed}"
        )
    unknown = [uid for uid in chosen if uid not in found]
    if unknown:
        raise InputError(f"{source} holds no DICOM series {unknown[0]!r}; valid: {listed}")
    volumes = []
    for uid in chosen:
        modality, files = found[uid]
        slices = tuple(check_series(files))
        volumes.append(Series(slices, volume_affine(slices), modality))
    _check_one_case(volumes, chosen)
    return volumes


def image_series(source: Path) -> dict[str, tuple[str, list[Path]]]:
    """SeriesInstanceUID -> modality and files, of the images below ``source``.

    Raises:
        InputError: as :func:`medmixers.images.dicom.dicom_files`; an image that was cut off in its header; pixels that
            no installed package decodes.
    """
    if not source.exists():
        raise MissingFileError(f"there is no DICOM series {str(source)!r}")
    found: dict[str, tuple[str, list[Path]]] = {}
    kinds: set[str] = set()
    without_rows: dict[Path, str] = {}
    for path in dicom_files(source, [source] if source.is_file() else source.rglob("*")):
        header = read_header(path, FOUND)
        modality = str(header.get("Modality") or "")
        kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
        if "Rows" not in header:
            without_rows[path] = kind
        elif modality not in NOT_IMAGES and header.get("Manufacturer") != MANUFACTURER:
            kinds.add(kind)
            _check_decoder(path, header)
            found.setdefault(str(header.get("SeriesInstanceUID", path)), (modality, []))[1].append(path)
    for path, start in without_rows.items():  # of a cut file, the UID may be cut too
        if any(kind.startswith(start) for kind in kinds):
            raise InputError(f"{path} is an image that ends in its header: copy it again, or remove it")
    return found


def _check_decoder(file: Path, header: Any) -> None:
    """Raise InputError, before a model is loaded, where no package is installed that decodes the pixels."""
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.get("TransferSyntaxUID")
    try:
        decoder = get_decoder(syntax) if syntax else None
    except NotImplementedError:
        raise InputError(f"{file} has the transfer syntax {syntax.name}, which pydicom does not decode") from None
    if decoder is not None and not decoder.is_available:
        packages = ", or ".join(each.rpartition("requires ")[2] for each in decoder.missing_dependencies)
        raise InputError(f"{file} has the transfer syntax {syntax.name}: to decode it, install {packages}")


def _check_one_case(volumes: Sequence[Series], uids: Sequence[str]) -> None:
    first = volumes[0]
    patients = [identifier(each.slices[0].header, "PatientID") for each in volumes]
    if len(set(patients)) > 1:
        stranger = next(uid for uid, patient in zip(uids, patients, strict=True) if patient != patients[0])
        raise InputError(f"the series {uids[0]} and {stranger} have different PatientID; a case is of one patient")
    tolerance = GRID_TOLERANCE * float(np.linalg.norm(first.affine[:3, :3], axis=0).min())
    for uid, other in zip(uids, volumes, strict=True):
        if other.shape != first.shape or first.distance(other.affine) > tolerance:
            raise InputError(f"the series {uids[0]} and {uid} lie on different grids; resample one to the other first")
