"""DICOM: a series as one volume with its affine, or a single image as a picture.

Geometry comes from ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone (DICOM PS3.3, C.7.6.2), never
from SliceThickness, SliceLocation or InstanceNumber. pydicom decodes the pixels and applies the look-up tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError, MissingFileError, MissingPackageError, first_line
from medmixers.images.dicom_values import (
    RESCALE,
    decoded,
    in_colour,
    in_units,
    in_window,
    range_of_units,
    rescale_of,
    scaled,
    stored_range,
    with_syntax,
)
from medmixers.images.pictures import Picture, fit_channels

# A slice may lie this part of a voxel away from the regular grid of its series: rounding in headers, not a gap.
GRID_TOLERANCE = 0.1
DIRECTION_TOLERANCE = 1e-3  # of each component of the direction cosines
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEADER = (
    "SeriesInstanceUID", "ImageType", "AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier", "Rows",
    "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PatientID", "FrameOfReferenceUID", *RESCALE,
)  # fmt: skip
ONE_PER_SERIES = ("PatientID", "FrameOfReferenceUID")
GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # numbers of each
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")  # a DICOM file may have none
# The first element of a file without preamble: group 2 (explicit VR) or 8 (explicit, or a short implicit value).
FIRST_ELEMENT = re.compile(rb"[\x02\x08]\x00.\x00[A-Z]{2}|\x08\x00.\x00[\x00-\x7e]\x00\x00\x00", re.DOTALL)
DISTINGUISHING = ("AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier")


class Slice(NamedTuple):
    """One slice of a volume: where it lies (LPS, mm), and which frame of which file holds it."""

    file: Path
    frame: int | None
    position: NDArray[np.float64]
    directions: NDArray[np.float64]  # (2, 3): along a row, along a column
    spacing: tuple[float, float]  # between rows, between columns
    size: tuple[int, int]  # rows, columns
    rescale: tuple[float, float] | None  # slope and intercept; None where the file states none
    header: Any


class DicomVolume(NamedTuple):
    """Voxels (x, y, z) in the modality's units, and the affine from voxels to RAS millimetres."""

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    files: tuple[Path, ...]


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM: by the letters after its preamble, or without one by its first element and its UID."""
    start = _start(file)
    if start[128:] == b"DICM" or not FIRST_ELEMENT.match(start):
        return start[128:] == b"DICM"
    try:
        return bool(read_header(file, ("SeriesInstanceUID",)).get("SeriesInstanceUID"))
    except InputError:
        return False


def _start(file: Path) -> bytes:
    with open(file, "rb") as content:
        return content.read(132)


def dicom_files(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """The DICOM files among the paths in ``folder``, sorted. Others, such as texts, are passed over.

    Raises:
        InputError: beside them lies a file that may be a lost slice: it is empty, or DICOM by its name alone.
    """
    files: list[Path] = []
    others: list[Path] = []
    for path in sorted(paths):
        if not path.is_dir():
            (files if path.is_file() and is_dicom(path) else others).append(path)
    for path in others if files else ():
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)  # as those of macOS
        is_empty = not path.exists() or (path.is_file() and path.stat().st_size == 0)  # or a link to no file
        if not is_hidden and (is_empty or path.suffix.lower() in DICOM_ENDINGS):
            fault = "is empty" if is_empty else "cannot be read as DICOM"
            raise InputError(f"{path} {fault}, and may be a slice of a series: copy it again, or remove it")
    return files


def patient_id(file: Path) -> str | None:
    """PatientID of a DICOM file; None where it is empty, or where the file is not DICOM."""
    if not is_dicom(file):
        return None
    return identifier(read_header(file, ("PatientID",)), "PatientID") or None


def identifier(header: Any, name: str) -> str:
    """An identifier of a header; empty where it has none."""
    return str(header.get(name) or "").strip()


def series_in(files: Sequence[Path]) -> dict[str, list[Path]]:
    """SeriesInstanceUID -> its files."""
    found: dict[str, list[Path]] = {}
    for file in files:
        uid = str(read_header(file, ("SeriesInstanceUID",)).get("SeriesInstanceUID", file))
        found.setdefault(uid, []).append(file)
    return found


def series_files(source: Path, *, series_uid: str | None = None) -> list[Path]:
    """The DICOM files of one series: ``source`` is their folder or one multi-frame file.

    Raises:
        MissingFileError: no DICOM file is there.
        InputError: several series are there and ``series_uid`` names none of them; as :func:`dicom_files`.
    """
    if source.is_file():
        return [source]
    files = dicom_files(source, source.iterdir()) if source.is_dir() else []
    if not files:
        raise MissingFileError(f"{source} holds no DICOM file")
    found = series_in(files)
    if series_uid is None and len(found) > 1:
        listed = "; ".join(f"{uid} ({len(group)} files, {group[0].name})" for uid, group in sorted(found.items()))
        raise InputError(
            f"{source} holds {len(found)} DICOM series: {listed}. Name one by series_uid, or give each a folder"
        )
    if series_uid is not None and series_uid not in found:
        raise InputError(f"{source} holds no DICOM series {series_uid!r}; valid: {', '.join(sorted(found))}")
    return found[series_uid] if series_uid is not None else files


def check_series(files: Sequence[Path]) -> list[Slice]:
    """The slices of a volume, sorted along their normal, after they are found to form one regular grid.

    Raises:
        InputError: a slice without a position, of another patient or frame of reference, other orientations, sizes or
            pixel spacings, units in some slices only, two slices at one place, unequal steps, or a gantry tilt. The
            message names the files.
    """
    slices = [slice_ for file in files for slice_ in _slices(file)]
    first = slices[0]
    for other in slices[1:]:
        _check_same_series(first, other)
    normal = np.cross(*first.directions)
    slices.sort(key=lambda each: float(each.position @ normal))
    if len(slices) > 1:
        _check_steps(slices, normal)
    return slices


def read_volume(source: Path, *, series_uid: str | None = None) -> DicomVolume:
    """Read a DICOM series as one volume.

    Rescale slope and intercept (or the modality LUT) of each slice are applied.

    Args:
        source: the folder of a series, or a multi-frame file.
        series_uid: the series to read where the folder holds several.

    Raises:
        MissingFileError, InputError: as :func:`series_files` and :func:`check_series`; colour images; damaged files.
    """
    slices = check_series(series_files(source, series_uid=series_uid))
    return DicomVolume(read_slices(slices), volume_affine(slices), tuple(each.file for each in slices))


def read_slices(slices: Sequence[Slice]) -> NDArray[np.float32]:
    """Voxels (x, y, z) of checked slices in the modality's units. InputError: colour images; damaged files."""
    planes = []
    opened: dict[Path, tuple[Any, NDArray[Any]]] = {}
    for each in slices:
        if each.file not in opened:
            opened = {each.file: (read_header(each.file), decoded(each.file))}  # of one file at a time
        dataset, pixels = opened[each.file]
        plane = pixels if each.frame is None or pixels.ndim == 2 else pixels[each.frame]
        if plane.ndim != 2:
            raise InputError(f"{each.file} is a colour image, not a slice of a volume")
        planes.append(in_units(each.file, plane, dataset, each.rescale).astype(np.float32).T)
    return np.stack(planes, axis=-1)


def read_dicom_picture(
    file: Path, *, channels: int | None = None, convert: bool = True, voi_window: bool = False
) -> Picture:
    """Read a single DICOM image as a picture: 0 is the black of its format and 255 its white.

    The modality LUT is applied, MONOCHROME1 is inverted, PALETTE COLOR and YBR become RGB. The scale follows BitsStored
    and PixelRepresentation, or the LUT's own depth.

    Args:
        file: the file.
        channels, convert: as :func:`medmixers.images.pictures.read_picture`.
        voi_window: apply the file's VOI LUT or window, so that 0 and 255 are its ends.

    Raises:
        MissingFileError, InputError: no such file; a damaged file; a look-up table or a window that is not
            valid; a film of several frames.
    """
    dataset, pixels = read_header(file), decoded(file)
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise InputError(f"{file} holds {dataset.NumberOfFrames} frames; give one picture per file")
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    interpretation = dataset.PhotometricInterpretation
    if interpretation == "PALETTE COLOR":
        return fit_channels(file, in_colour(file, pixels, dataset), channels, convert=convert)
    if pixels.ndim == 3:
        return fit_channels(file, scaled(pixels, *stored_range(dataset)), channels, convert=convert)
    rescale = rescale_of(file, dataset)
    values, ends = in_units(file, pixels, dataset, rescale), range_of_units(file, dataset, rescale)
    grey = in_window(file, values, dataset, ends) if voi_window else scaled(values, *ends)
    return fit_channels(file, 255 - grey if interpretation == "MONOCHROME1" else grey, channels, convert=convert)


def _slices(file: Path) -> list[Slice]:
    """The slices that a file holds: one, or one per frame."""
    header = read_header(file, HEADER)
    count = int(header.get("NumberOfFrames", 1) or 1)
    if "PerFrameFunctionalGroupsSequence" not in header:
        if count == 1:
            return [_slice(file, None, header, header.get, header)]
        raise InputError(f"{file} holds {count} frames without positions: a film, not the slices of a volume")
    if (places := len(header.PerFrameFunctionalGroupsSequence)) != count:
        raise InputError(f"{file} holds {count} frames and the places of {places}")
    slices = []
    for frame in range(count):
        # Slope and intercept lie in the functional groups; some files have them at the top only.
        units = _functional_group(header, frame, "PixelValueTransformationSequence")
        slices.append(_slice(file, frame, header, _of_frame(header, frame), header if units is None else units))
    return slices


def _of_frame(header: Any, frame: int) -> Callable[[str], Any]:
    places = {
        "ImagePositionPatient": "PlanePositionSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "PixelSpacing": "PixelMeasuresSequence",
    }

    def get(name: str) -> Any:
        group = _functional_group(header, frame, places[name])
        return None if group is None else group.get(name)

    return get


def _functional_group(header: Any, frame: int, name: str) -> Any:
    for groups in (header.PerFrameFunctionalGroupsSequence[frame], *header.get("SharedFunctionalGroupsSequence", [])):
        if groups.get(name):
            return groups[name][0]
    return None


def _slice(file: Path, frame: int | None, header: Any, get: Callable[[str], Any], units: Any) -> Slice:
    position, orientation, spacing = (_numbers(file, name, get, count) for name, count in GEOMETRY.items())
    rows, columns = (int(_numbers(file, name, header.get, 1)[0]) for name in ("Rows", "Columns"))
    directions = orientation.reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(directions[0] @ directions[1]) > 1e-2 or not (spacing > 0).all():
        raise InputError(f"{file} has no valid grid: orientation {orientation.tolist()}, spacing {spacing.tolist()}")
    edges, size = (float(spacing[0]), float(spacing[1])), (rows, columns)
    return Slice(file, frame, position, directions, edges, size, rescale_of(file, units), header)


def _numbers(file: Path, name: str, get: Callable[[str], Any], count: int) -> NDArray[np.float64]:
    """The values of an attribute. InputError: it is missing, or has not ``count`` finite numbers."""
    try:
        value = get(name)
        numbers = np.array([] if value is None else value, float).ravel()
    except (TypeError, ValueError):  # no numbers
        numbers = np.full(1, np.nan)
    if not numbers.size:
        raise InputError(f"{file} has no {name}: its place in a volume is unknown")
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(f"{file} has no valid {name}, {count} finite numbers: its place in a volume is unknown")
    return numbers


def _check_same_series(first: Slice, other: Slice) -> None:
    """Raise InputError unless both slices are of one patient and place, and of the same grid and units."""
    pair = f"{first.file.name} and {other.file.name} in {first.file.parent}"
    for name in ONE_PER_SERIES:
        if identifier(first.header, name) != identifier(other.header, name):
            raise InputError(f"{pair} have different {name}; a series has one")
    if not np.allclose(first.directions, other.directions, atol=DIRECTION_TOLERANCE):
        kind = " (one is a localizer)" if "LOCALIZER" in _kinds(first) ^ _kinds(other) else ""
        raise InputError(f"{pair} have different orientations{kind}; remove one of them")
    if first.size != other.size:
        raise InputError(f"{pair} have different sizes, {first.size} and {other.size} (rows, columns)")
    if not np.allclose(first.spacing, other.spacing, rtol=1e-3):
        one, two = (" x ".join(f"{edge:g}" for edge in each.spacing) for each in (first, other))
        raise InputError(f"{pair} have different pixel spacings, {one} and {two} mm")
    if (first.rescale is None) != (other.rescale is None):
        raise InputError(f"{pair} have different units: only one has {' and '.join(RESCALE)}")


def _kinds(slice_: Slice) -> set[str]:
    return set(slice_.header.get("ImageType") or ())


def picture_affine(file: Path) -> NDArray[np.float64]:
    """From pixel (x, y) to RAS millimetres, (4, 4); the identity where the file states no place."""
    try:
        return volume_affine(_slices(file))
    except InputError:
        return np.eye(4)


def volume_affine(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """From voxel (x, y, z) of sorted slices to RAS millimetres, (4, 4)."""
    first, affine = slices[0], np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = np.cross(*first.directions) * _step(slices)
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _step(slices: Sequence[Slice]) -> float:
    """Distance from one slice to the next (mm); 1 for a single slice."""
    if len(slices) == 1:
        return 1.0
    drift = slices[-1].position - slices[0].position
    return float(drift @ np.cross(*slices[0].directions)) / (len(slices) - 1)


def _check_steps(slices: Sequence[Slice], normal: NDArray[np.float64]) -> None:
    """Raise InputError unless the sorted slices lie on a regular grid along their normal."""
    along = np.array([each.position @ normal for each in slices])
    steps = np.diff(along)
    typical = float(np.median(steps))
    names = [f"{each.file.name}{'' if each.frame is None else f' (frame {each.frame})'}" for each in slices]
    where = slices[0].file.parent
    smallest = int(np.argmin(steps))
    if steps[smallest] <= max(GRID_TOLERANCE * typical, 1e-6):
        pair = slices[smallest : smallest + 2]
        differing = [name for name in DISTINGUISHING if len({str(each.header.get(name)) for each in pair}) > 1]
        reason = f"they differ in {', '.join(differing)}" if differing else "one may be a copy of the other"
        raise InputError(
            f"{names[smallest]} and {names[smallest + 1]} in {where} lie at the same place: {reason}; "
            "keep one slice per place"
        )
    uneven = int(np.argmax(np.abs(steps - typical)))
    grid = along[0] + np.arange(len(slices)) * (along[-1] - along[0]) / (len(slices) - 1)
    if np.abs(along - grid).max() > GRID_TOLERANCE * typical or abs(steps[uneven] - typical) > GRID_TOLERANCE * typical:
        raise InputError(
            f"the slices in {where} have unequal steps: {steps[uneven]:.3g} mm from {names[uneven]} to "
            f"{names[uneven + 1]}, {typical:.3g} mm elsewhere; at most {GRID_TOLERANCE:.0%} of a step is allowed"
        )
    drift = slices[-1].position - slices[0].position
    sideways = float(np.linalg.norm(drift - (drift @ normal) * normal))
    if sideways > GRID_TOLERANCE * min(slices[0].spacing):
        angle = np.degrees(np.arctan2(sideways, abs(drift @ normal)))
        raise InputError(
            f"the slices in {where} are sheared by {angle:.1f} degrees (a gantry tilt), which the voxel grid of an "
            "image file cannot hold; resample the series to an untilted grid first"
        )


def read_header(file: Path, tags: Sequence[str] | None = None) -> Any:
    """The data set of a DICOM file without its pixels; with ``tags``, those only. InputError: it cannot be read."""
    try:
        from pydicom import dcmread
    except ImportError:
        raise MissingPackageError(f"{file} is DICOM, which needs the package pydicom") from None
    if not file.is_file():
        raise MissingFileError(f"there is no DICOM file {str(file)!r}")
    try:
        has_no_preamble = FIRST_ELEMENT.match(_start(file)) is not None
        tags = list(tags) if tags else None
        return with_syntax(dcmread(file, specific_tags=tags, stop_before_pixels=True, force=has_no_preamble))
    except Exception as error:  # a damaged file may raise anything: its bytes steer the parser
        raise InputError(f"{file} cannot be read as DICOM: {first_line(error)}") from None
