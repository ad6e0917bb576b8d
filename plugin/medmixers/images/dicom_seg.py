"""Write a segmentation as one DICOM SEG (PS3.3, A.51) with highdicom, on the slices of its series."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from operator import index
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.codes import Code, SegmentCodes, read_segment_codes
from medmixers.errors import InputError, MissingPackageError
from medmixers.files import written_whole
from medmixers.images.dicom import Slice, read_header

MANUFACTURER = "medmixers"  # of all objects that this package writes; its pictures are no input
LONGEST = 64  # characters of DICOM's LO
SERIES_NUMBER = 1000  # is added to that of the source
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
NEEDED_BY_SEG = (*NEEDED, "FrameOfReferenceUID")
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
SEXES = ("", "M", "F", "O")
DATES, TIMES = ("PatientBirthDate", "StudyDate"), ("StudyTime",)


@dataclass(frozen=True)
class Segment:
    """One structure that the model finds.

    Args:
        name: of its label.
        values: of the predicted file that make it up; None where it has its own file.
        colour: red, green, blue from 0 to 255.
        codes: what it is; None where the task does not say.
    """

    name: str
    values: tuple[int, ...] | None
    colour: tuple[int, int, int]
    codes: SegmentCodes | None = None


def read_segments(source: str, metadata: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The structures of a bundle that segments, in the order of their numbers.

    Args:
        source: what the error calls the bundle.
        metadata: content of its configs/metadata.json; ``segments`` is name -> values, colour, codes.

    Raises:
        InputError: it has no segments, or values, a colour or codes of another form.
    """
    of = f"the configs/metadata.json of {source}"
    segments = metadata.get("segments")
    if not isinstance(segments, dict) or not segments:
        raise InputError(f"{of} has no segments: make the bundle with this version")
    return tuple(_read_segment(f"{name!r} in the segments of {of}", name, facts) for name, facts in segments.items())


def _read_segment(of: str, name: str, facts: Any) -> Segment:
    try:
        red, green, blue = bytes(map(index, facts["colour"]))  # bytes: from 0 to 255
        values = tuple(map(index, facts["values"])) if "values" in facts else None
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{of} must have colour, [red, green, blue], and may have values, [1, ...], got {shortened(facts)}"
        ) from None
    codes = {field.name: facts[field.name] for field in fields(SegmentCodes) if field.name in facts}
    return Segment(name, values, (red, green, blue), read_segment_codes(f"codes of {of}", codes) if codes else None)


def need_codes(segments: Sequence[Segment]) -> None:
    """Raise InputError, with what to do, where a segment has no code: a DICOM SEG names structures by codes."""
    if bare := [segment.name for segment in segments if segment.codes is None]:
        raise InputError(
            f"no code says what {', '.join(bare)} {'is' if len(bare) == 1 else 'are'}; give medmixers clinic segment "
            f"--codes FILE with a line for each, as {bare[0]}: {{type: ['10200004', SCT, Liver]}} (a scheme of your "
            "own begins with 99), or write them as codes in the task's YAML file and make the bundle again"
        )


@dataclass(frozen=True)
class Maker:
    """What found the segments: model, software with its version, digest of the weights; segments by number from 1."""

    name: str
    version: str
    software: str
    weights_sha256: str
    segments: Sequence[Segment]


class Series(NamedTuple):
    """A series that forms one volume.

    Args:
        slices: sorted along their normal.
        affine: from voxel (x, y, z) to RAS millimetres, (4, 4).
        modality: as DICOM names it: CT, MR, ...
    """

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]
    modality: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (x, y, z)."""
        rows, columns = self.slices[0].size
        return columns, rows, len(self.slices)

    def distance(self, affine: NDArray[np.float64]) -> float:
        """The farthest that a corner of this grid lies from its place by another affine, along an axis, in mm."""
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*self.shape, 1]
        return float(np.abs((affine - self.affine) @ corners.T).max())

    @property
    def files(self) -> list[Path]:
        """Each file once, in the order of the slices."""
        return list(dict.fromkeys(each.file for each in self.slices))


def need_highdicom() -> None:
    """Raise MissingPackageError where the extra ``dicom`` is not installed."""
    if find_spec("highdicom") is None:
        raise MissingPackageError("writing DICOM needs the package highdicom: pip install highdicom")


def write_segmentation(out: Path, labels: NDArray[Any], channels: Sequence[Series], maker: Maker) -> None:
    """Write the DICOM SEG of a case. Attributes of patient and study are those of the first series, and no others.

    Args:
        out: the file.
        labels: as :func:`numbered` returns them.
        channels: the series that were predicted; the first one is segmented, the others are referenced.
        maker: what found the structures, with a code for each.

    Raises:
        InputError: as :func:`source_headers` and :func:`need_codes`.
    """
    import highdicom as hd

    need_codes(maker.segments)
    sources, *others = [source_headers(series) for series in channels]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about segments without a voxel
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            further_source_images=[header for headers in others for header in headers] or None,
            pixel_array=_frames(labels, channels[0]),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_descriptions(maker),
            series_instance_uid=hd.UID(),
            series_number=(SERIES_NUMBER + int(sources[0].get("SeriesNumber") or 0)) % 2**31,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=maker.name[:LONGEST],
            software_versions=maker.software,
            device_serial_number=maker.weights_sha256,
            series_description=f"{maker.name[: LONGEST - 16]}, research only",
            content_description="Automatic segmentation, not for clinical use",
            specific_character_set="ISO_IR 192",
        )
        with written_whole(out) as partial:
            segmentation.save_as(partial)


def source_headers(series: Series) -> list[Any]:
    """The data sets that a segmentation refers to, in the order of the slices.

    Values of patient and study that DICOM does not allow are empty.

    Raises:
        InputError: as :func:`check_references`; several multi-frame files.
    """
    headers = referenced_headers(series.files, NEEDED_BY_SEG, "a DICOM SEG")
    if len(headers) > 1 and series.slices[0].frame is not None:
        raise InputError(f"the series has {len(headers)} multi-frame files; DICOM SEG is written for one")
    return headers


def referenced_headers(files: Sequence[Path], needed: Sequence[str], by: str) -> list[Any]:
    """Data sets that an object refers to. Values of patient and study that DICOM does not allow are empty.

    Args:
        files: of the images.
        needed: keywords of attributes that must be there.
        by: the object, for people.

    Raises:
        InputError: as :func:`check_references`.
    """
    headers = [read_header(file) for file in files]
    check_references(files, headers, needed, by)
    for header in headers:
        for name in MAY_BE_EMPTY:
            if name not in header or not _is_valid(name, str(header[name].value)):
                setattr(header, name, "")
    return headers


def check_references(files: Sequence[Path], headers: Sequence[Any], needed: Sequence[str], by: str) -> None:
    """Raise InputError unless ``needed`` is there, each image has its own SOPInstanceUID, and the rest agrees.

    The values of patients and studies are not printed.
    """
    seen: dict[str, Path] = {}
    for file, header in zip(files, headers, strict=True):
        missing = [name for name in needed if not header.get(name)]
        if missing:
            raise InputError(f"{file} has no {', '.join(missing)}, which {by} refers to")
        for name in needed:
            if name != "SOPInstanceUID" and header.get(name) != headers[0].get(name):
                raise InputError(f"{files[0]} and {file.name} have different {name}; {by} refers to one")
        if (other := seen.setdefault(header.SOPInstanceUID, file)) != file:
            raise InputError(f"{other} and {file.name} have the same SOPInstanceUID, by which {by} refers to an image")


def numbered(labels: NDArray[Any], segments: Sequence[Segment]) -> NDArray[Any]:
    """Values of a label file as numbers of segments.

    Args:
        labels: (x, y, z) of values; or, of segments without values, (x, y, z, K) of masks.
        segments: their K.

    Returns:
        (x, y, z) with the number of the segment, 0 for none; or (x, y, z, K) of 0 and 1 where segments may overlap.
    """
    if segments[0].values is None:
        return (labels > 0).astype(np.uint8)
    values = [segment.values or () for segment in segments]
    if any(len(each) != 1 for each in values):
        return np.stack([np.isin(labels, each) for each in values], axis=-1).astype(np.uint8)
    numbers = np.zeros(max(int(labels.max()), *(each[0] for each in values)) + 1, np.min_scalar_type(len(segments)))
    for number, (value,) in enumerate(values, start=1):
        numbers[value] = number
    found: NDArray[Any] = numbers[labels]
    return found


def _is_valid(name: str, value: str) -> bool:
    """Whether DICOM allows this value of a patient or a study; highdicom takes no others."""
    from pydicom.valuerep import DA, TM

    if name == "PatientSex":
        return value in SEXES
    try:
        return name not in (*DATES, *TIMES) or not value or (DA if name in DATES else TM)(value) is not None
    except ValueError:
        return False


def _frames(labels: NDArray[Any], series: Series) -> NDArray[Any]:
    """(slices, rows, columns[, K]) in the order of the source's frames."""
    frames = np.ascontiguousarray(np.swapaxes(np.moveaxis(labels, 2, 0), 1, 2))
    if series.slices[0].frame is not None:
        frames = frames[np.argsort([each.frame or 0 for each in series.slices])]
    return frames


def _descriptions(maker: Maker) -> list[Any]:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name=maker.name[:LONGEST], family=codes.cid7162.ArtificialIntelligence, version=maker.version
    )
    return [_description(number, segment, algorithm) for number, segment in enumerate(maker.segments, start=1)]


def _description(number: int, segment: Segment, algorithm: Any) -> Any:
    import highdicom as hd

    assert segment.codes is not None  # need_codes
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:LONGEST],
        segmented_property_category=_concept(segment.codes.category),
        segmented_property_type=_concept(segment.codes.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.codes.modifier is not None:
        of_type = described.SegmentedPropertyTypeCodeSequence[0]
        of_type.SegmentedPropertyTypeModifierCodeSequence = [_concept(segment.codes.modifier)]
    return described


def _concept(code: Code) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)
