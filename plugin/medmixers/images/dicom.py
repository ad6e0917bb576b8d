"""DICOM: a series as one volume with its affine, or a single image as a picture.

Geometry comes from ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone (DICOM PS3.3, C.7.6.2), never
from SliceThickness, SliceLocation or InstanceNumber. pydicom decodes the pixels and applies the look-up tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError, MissingFileError, MissingPackageError, first_line
from medmixers.images.pictures import Picture, fit_channels

# A slice may lie this part of a voxel away from the regular grid of its series: rounding in headers, not a gap.
GRID_TOLERANCE = 0.1
DIRECTION_TOLERANCE = 1e-3  # of each component of the direction cosines
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEADER = (
    "SeriesInstanceUID", "ImageType", "AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier", "Rows",
    "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
DISTINGUISHING = ("AcquisitionNumber", "EchoNumbers", "TemporalPositionIdentifier")


class Slice(NamedTuple):
    """One slice of a volume: where it lies (LPS, mm), and which frame of which file holds it."""

    file: Path
    frame: int | None
    position: NDArray[np.float64]
    directions: NDArray[np.float64]  # (2, 3): along a row, along a column
    spacing: tuple[float, float]  # between rows, between columns
    size: tuple[int, int]  # rows, columns
    header: Any


class DicomVolume(NamedTuple):
    """Voxels (x, y, z) in the modality's units, and the affine from voxels to RAS millimetres."""

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    files: tuple[Path, ...]


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM, by the letters after its preamble of 128 bytes."""
    with open(file, "rb") as content:
        return content.read(132)[128:] == b"DICM"


def patient_id(file: Path) -> str | None:
    """PatientID of a DICOM file; None where it is empty, or where the file is not DICOM."""
    if not is_dicom(file):
        return None
    return str(read_header(file, ("PatientID",)).get("PatientID") or "").strip() or None


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
        InputError: several series are there and ``series_uid`` names none of them.
    """
    if source.is_file():
        return [source]
    files = sorted(path for path in source.iterdir() if path.is_file() and is_dicom(path)) if source.is_dir() else []
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
        InputError: a slice without a position, other orientations, sizes or pixel spacings, two slices at one place,
            unequal steps, or a gantry tilt. The message names the files.
    """
    slices = [slice_ for file in files for slice_ in _slices(file)]
    first = slices[0]
    for other in slices[1:]:
        _check_same_grid(first, other)
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
            opened = {each.file: (read_header(each.file), _decoded(each.file))}  # of one file at a time
        dataset, pixels = opened[each.file]
        plane = pixels if each.frame is None else pixels[each.frame]
        if plane.ndim != 2:
            raise InputError(f"{each.file} is a colour image, not a slice of a volume")
        planes.append(_rescaled(dataset, plane, each).T)
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
        MissingFileError, InputError: no such file; a damaged file; a film of several frames.
    """
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

    dataset, pixels = read_header(file), _decoded(file)
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise InputError(f"{file} holds {dataset.NumberOfFrames} frames; give one picture per file")
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    interpretation = dataset.PhotometricInterpretation
    if interpretation == "PALETTE COLOR":
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        return fit_channels(file, _scaled(apply_color_lut(pixels, dataset), 0, 2**bits - 1), channels, convert=convert)
    if pixels.ndim == 3:
        return fit_channels(file, _scaled(pixels, *_stored_range(dataset)), channels, convert=convert)
    values = apply_modality_lut(pixels, dataset)
    low, high = _modality_range(dataset)
    if voi_window:
        values = apply_voi_lut(values, dataset)
        if "VOILUTSequence" in dataset:
            low, high = 0, 2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    grey = _scaled(values, low, high)
    return fit_channels(file, 255 - grey if interpretation == "MONOCHROME1" else grey, channels, convert=convert)


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    return ((values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))).astype(np.float32)


def _stored_range(dataset: Any) -> tuple[int, int]:
    """The lowest and the highest value that BitsStored can hold."""
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


def _modality_range(dataset: Any) -> tuple[float, float]:
    """The same after the modality LUT."""
    if "ModalityLUTSequence" in dataset:
        return 0, 2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    ends = [end * slope + intercept for end in _stored_range(dataset)]
    return min(ends), max(ends)


def _rescaled(dataset: Any, plane: NDArray[Any], slice_: Slice) -> NDArray[np.float32]:
    """The plane in the modality's units. A multi-frame file keeps slope and intercept in its functional groups."""
    from pydicom.pixels import apply_modality_lut

    if slice_.frame is None:
        return apply_modality_lut(plane, dataset).astype(np.float32)
    transformation = _functional_group(dataset, slice_.frame, "PixelValueTransformationSequence")
    if transformation is None:
        return plane.astype(np.float32)
    return plane.astype(np.float32) * np.float32(transformation.RescaleSlope) + np.float32(
        transformation.RescaleIntercept
    )


def _slices(file: Path) -> list[Slice]:
    """The slices that a file holds: one, or one per frame."""
    header = read_header(file, HEADER)
    if int(header.get("NumberOfFrames", 1) or 1) == 1 and "PerFrameFunctionalGroupsSequence" not in header:
        return [_slice(file, None, header, header.get)]
    if "PerFrameFunctionalGroupsSequence" not in header:
        raise InputError(
            f"{file} holds {header.NumberOfFrames} frames without positions: a film, not the slices of a volume"
        )
    return [_slice(file, frame, header, _of_frame(header, frame)) for frame in range(int(header.NumberOfFrames))]


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


def _slice(file: Path, frame: int | None, header: Any, get: Callable[[str], Any]) -> Slice:
    names = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    values = {name: get(name) for name in names}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise InputError(f"{file} has no {', '.join(missing)}: its place in a volume is unknown")
    position, orientation, spacing = (np.array(values[name], float) for name in names)
    directions = orientation.reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(directions[0] @ directions[1]) > 1e-2 or not (spacing > 0).all():
        raise InputError(f"{file} has no valid grid: orientation {orientation.tolist()}, spacing {spacing.tolist()}")
    rows, columns = int(header.Rows), int(header.Columns)
    return Slice(file, frame, position, directions, (spacing[0], spacing[1]), (rows, columns), header)


def _check_same_grid(first: Slice, other: Slice) -> None:
    """Raise InputError unless both slices have the same orientation, size and pixel spacing."""
    pair = f"{first.file.name} and {other.file.name} in {first.file.parent}"
    if not np.allclose(first.directions, other.directions, atol=DIRECTION_TOLERANCE):
        kind = " (one is a localizer)" if "LOCALIZER" in _kinds(first) ^ _kinds(other) else ""
        raise InputError(f"{pair} have different orientations{kind}; remove one of them")
    if first.size != other.size:
        raise InputError(f"{pair} have different sizes, {first.size} and {other.size} (rows, columns)")
    if not np.allclose(first.spacing, other.spacing, rtol=1e-3):
        one, two = (" x ".join(f"{edge:g}" for edge in each.spacing) for each in (first, other))
        raise InputError(f"{pair} have different pixel spacings, {one} and {two} mm")


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
        return dcmread(file, specific_tags=list(tags) if tags else None, stop_before_pixels=True)
    except Exception as error:  # a damaged file may raise anything: its bytes steer the parser
        raise InputError(f"{file} cannot be read as DICOM: {first_line(error)}") from None


def _decoded(file: Path) -> NDArray[Any]:
    """Stored pixels, YBR as RGB."""
    from pydicom.pixels import pixel_array

    try:
        return np.asarray(pixel_array(file))
    except Exception as error:  # missing plug-ins, truncated pixels, damaged frames
        raise InputError(f"the pixels of {file} cannot be decoded: {first_line(error)}") from None
