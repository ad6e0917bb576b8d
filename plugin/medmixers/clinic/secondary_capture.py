"""Write a segmentation as pictures for any viewer: DICOM Secondary Capture (PS3.3, A.8.1) with highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medmixers.clinic.grey import Window, percentile_window
from medmixers.clinic.model import SegmentationModel
from medmixers.errors import InputError
from medmixers.files import written_whole
from medmixers.images.dicom import Slice, read_slices
from medmixers.images.dicom_seg import LONGEST, MANUFACTURER, SERIES_NUMBER, Segment, Series, source_headers

STAMP = "RESEARCH ONLY"
READABLE = 512  # pixels of the longest side at least: each pixel of a smaller image becomes a square of pixels
LINE = 14  # pixels of a line of the legend, which stands below the image
GAP = 8  # pixels between the words of the legend
WHITE = (255, 255, 255)
DERIVED = ("113076", "DCM", "Segmentation")  # DICOM's code of how the picture was made

Pixels = NDArray[np.uint8]


def check_folder(folder: Path) -> None:
    """Raise InputError unless ``folder`` is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} must be a new or an empty folder: the secondary capture is written there")


def write_secondary_capture(folder: Path, labels: NDArray[Any], series: Series, model: SegmentationModel) -> None:
    """Write an RGB picture per slice: the windowed image, outlines, and a legend that says "research only".

    The pictures are a new series in the study of their source. Each states its place and its source. Attributes of
    patient and study are those of the source, and no others.

    Args:
        folder: new or empty; it gets a file per slice.
        labels: as :func:`medmixers.clinic.prediction.predict` returns them.
        series: that was segmented.
        model: what found the structures.

    Raises:
        InputError: the folder holds files; what :func:`medmixers.images.dicom_seg.source_headers` refuses.
    """
    import highdicom as hd

    check_folder(folder)
    sources = dict(zip(series.files, source_headers(series), strict=True))
    voxels = read_slices(series.slices)
    middle = series.slices[len(series.slices) // 2]
    source = sources[middle.file]
    window = stated_window(source, middle.frame) or percentile_window(voxels)
    if source.get("PhotometricInterpretation") == "MONOCHROME1":  # its lowest value is white
        window = Window(window.white, window.black)
    factor = -(-READABLE // max(voxels.shape[:2]))
    made_by = {
        "ManufacturerModelName": model.name[:LONGEST],
        "SoftwareVersions": model.software,
        "DeviceSerialNumber": model.weights_sha256,
        "SeriesDescription": f"{model.name[: LONGEST - 26]}, outlines, research only",
        "BurnedInAnnotation": "NO",  # DICOM means text that identifies the patient
    }
    series_uid = hd.UID()
    with written_whole(folder) as partial:
        partial.mkdir()
        for number, slice_ in enumerate(series.slices):
            masks = masks_of_slice(labels, number, len(model.segments))
            pixels = picture(voxels[:, :, number].T, masks, model.segments, window, factor)
            image = _image(pixels, slice_, sources[slice_.file], factor, series_uid, number + 1)
            for name, value in made_by.items():
                setattr(image, name, value)
            image.save_as(partial / f"{number + 1:05d}.dcm")


def _image(pixels: Pixels, slice_: Slice, source: Any, factor: int, series_uid: str, number: int) -> Any:
    """The DICOM object of a picture: in the study of its source, at the place of its slice."""
    import highdicom as hd

    image = hd.sc.SCImage.from_ref_dataset(
        source,
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=[_letter(direction) for direction in slice_.directions],
        pixel_spacing=[step / factor for step in slice_.spacing],
        series_instance_uid=series_uid,
        series_number=(SERIES_NUMBER + 1 + int(source.get("SeriesNumber") or 0)) % 2**31,
        sop_instance_uid=hd.UID(),
        instance_number=number,
        manufacturer=MANUFACTURER,
        transfer_syntax_uid="1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    )
    image.Laterality = source.get("Laterality") or ""  # of a paired part of the body
    _set_place(image, slice_, source, factor)
    return image


def stated_window(header: Any, frame: int | None = None) -> Window | None:
    """The first window that a DICOM file, or one of its frames, states (PS3.3, C.11.2.1.2)."""
    groups, of_frames = [header], header.get("PerFrameFunctionalGroupsSequence", [])
    own = [] if frame is None or frame >= len(of_frames) else [of_frames[frame]]
    for functional in [*header.get("SharedFunctionalGroupsSequence", []), *own]:
        groups += functional.get("FrameVOILUTSequence", [])
    for group in groups:
        centre, width = (_values(group, name) for name in ("WindowCenter", "WindowWidth"))
        if len(centre) and len(width) and float(width[0]) > 1:
            low = float(centre[0]) - 0.5 - (float(width[0]) - 1) / 2
            return Window(low, low + float(width[0]) - 1)
    return None


def _values(group: Any, name: str) -> NDArray[Any]:
    value = group.get(name)
    return np.atleast_1d([] if value in (None, "") else value)


def masks_of_slice(labels: NDArray[Any], number: int, count: int) -> list[NDArray[np.bool_]]:
    """(rows, columns) of each segment in a slice."""
    plane = labels[:, :, number]
    if labels.ndim == 3:
        return [(plane == segment).T for segment in range(1, count + 1)]
    return [(plane[..., segment] > 0).T for segment in range(count)]


def picture(
    plane: NDArray[np.float32],
    masks: Sequence[NDArray[np.bool_]],
    segments: Sequence[Segment],
    window: Window,
    factor: int,
) -> Pixels:
    """A slice with the outlines of its structures, and the legend below it.

    Args:
        plane: (rows, columns) in the units of the window.
        masks: of each segment, (rows, columns). Later outlines cover earlier ones.
        segments: names and colours.
        window: of the grey values; its black may be above its white.
        factor: pixels of the picture per pixel of the slice, along each axis.

    Returns:
        (factor x rows + legend, factor x columns, 3).
    """
    grey = np.clip((plane.astype(np.float64) - window.black) / (window.white - window.black or 1e-12), 0, 1)
    pixels = np.repeat(_enlarged(np.rint(255 * grey).astype(np.uint8), factor)[..., None], 3, axis=2)
    for mask, segment in zip(masks, segments, strict=True):
        large = _enlarged(mask, factor)
        pixels[large & ~ndimage.binary_erosion(large, border_value=1)] = segment.colour
    return np.concatenate([pixels, legend(segments, pixels.shape[1])])


def legend(segments: Sequence[Segment], width: int) -> Pixels:
    """(lines, ``width``, 3): the stamp, and the name of each segment in its colour."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    words = [(STAMP, WHITE), *((segment.name.replace("_", " "), segment.colour) for segment in segments)]
    left, line = 0, 0
    placed: list[tuple[tuple[int, int], str, tuple[int, int, int]]] = []
    for word, colour in words:
        length = int(font.getlength(word)) + GAP
        if left and left + length > width:
            left, line = 0, line + 1
        placed.append(((left, line * LINE), word, colour))
        left += length
    strip = Image.new("RGB", (width, (line + 1) * LINE))
    draw = ImageDraw.Draw(strip)
    draw.fontmode = "1"  # no shades: the colours of the names are those of the outlines
    for place, word, colour in placed:
        draw.text(place, word, fill=colour, font=font)
    return np.asarray(strip)


def _enlarged(plane: NDArray[Any], factor: int) -> NDArray[Any]:
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)


def _letter(direction: NDArray[np.float64]) -> str:
    """Where a direction in LPS points: the side of the patient that is nearest to it."""
    axis = int(np.abs(direction).argmax())
    return ("LR", "PA", "HF")[axis][int(direction[axis] < 0)]


def _set_place(image: Any, slice_: Slice, source: Any, factor: int) -> None:
    """The place of the picture's first pixel, and the image that it shows."""
    import highdicom as hd
    from pydicom.dataset import Dataset

    shift = (1 / factor - 1) / 2  # from the centre of a pixel to that of its first square
    along_row, along_column = slice_.directions
    place = slice_.position + shift * (along_row * slice_.spacing[1] + along_column * slice_.spacing[0])
    image.FrameOfReferenceUID = source.FrameOfReferenceUID
    image.PositionReferenceIndicator = ""
    image.ImagePositionPatient = [f"{value:.10g}" for value in place]
    image.ImageOrientationPatient = [f"{value:.10g}" for value in slice_.directions.ravel()]
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if slice_.frame is not None:
        reference.ReferencedFrameNumber = slice_.frame + 1
    reference.PurposeOfReferenceCodeSequence = [
        hd.sr.CodedConcept("121322", "DCM", "Source image for image processing operation")
    ]
    image.SourceImageSequence = [reference]
    image.DerivationCodeSequence = [hd.sr.CodedConcept(*DERIVED)]
