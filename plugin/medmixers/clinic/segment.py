"""``medmixers clinic segment``: a DICOM series in, a DICOM SEG back."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.model import SegmentationModel, open_model, with_codes
from medmixers.clinic.prediction import check_runtime, predict
from medmixers.clinic.secondary_capture import check_folder, write_secondary_capture
from medmixers.clinic.series import find_series
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs
from medmixers.images.dicom_seg import Series, need_highdicom, source_headers, write_segmentation
from medmixers.progress import Announce, note, silent
from medmixers.tasks.from_yaml import load_codes


def segment_series(
    model: str | Path,
    series: str | Path,
    out: str | Path,
    *,
    series_uid: Sequence[str] = (),
    codes: str | Path | None = None,
    secondary_capture: str | Path | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    runtime: str = "torch",
    announce: Announce = silent,
) -> str:
    """Segment a series and write one DICOM SEG that refers to it.

    Args:
        model: folder or zip of a bundle, or folder of a model that nnU-Net trained.
        series: folder with the series, searched with its folders, or a multi-frame file.
        out: the DICOM file.
        series_uid: SeriesInstanceUID of each channel, where the folder holds several series.
        codes: YAML file with codes of the labels, over those of the bundle.
        secondary_capture: new or empty folder for pictures of the slices with outlines; None writes none.
        checkpoint: file name of the weights in each fold of nnU-Net's, or a bundle's file of weights.
        device: as torch names it; None takes a GPU where there is one.
        runtime: a name in :data:`medmixers.clinic.prediction.RUNTIMES`.
        announce: called with the name of each step.

    Returns:
        What was written, in words.

    Raises:
        InputError: a model, a series or codes that do not fit; one line that names the fault.
    """
    series, out = Path(series), Path(out)
    check_command(out, runtime)
    pictures = None if secondary_capture is None else Path(secondary_capture)
    if pictures is not None:
        check_folder(pictures)
    with no_values_in_logs(), tempfile.TemporaryDirectory(prefix="medmixers-") as folder:
        opened = open_model(Path(model), Path(folder), checkpoint=checkpoint, announce=announce)
        opened = with_codes(opened, {} if codes is None else load_codes(codes))
        announce("find the series")
        channels = find_series(series, channels=opened.channels, series_uid=series_uid)
        refuse_overwriting_inputs(out, [series, *(file for each in channels for file in each.files)])
        _check_modalities(channels, opened)
        for each in channels:
            source_headers(each)  # before the prediction, which takes minutes
        announce("predict")
        labels = predict(opened, channels, Path(folder) / "prediction", device=device, runtime=runtime)
        announce("write the DICOM SEG")
        write_segmentation(out, labels, channels, opened.maker)
        if pictures is not None:
            announce("write the secondary capture")
            write_secondary_capture(pictures, labels, channels[0], opened)
    written = str(out) if pictures is None else f"{out} and {pictures}"
    return f"{written}: {_sizes(labels, channels[0], opened)}"


def check_command(out: Path, runtime: str) -> None:
    """Raise InputError, before anything is read, unless a DICOM file ``out`` can be written and ``runtime`` exists."""
    need_highdicom()
    check_runtime(runtime)
    if out.is_dir() or out.suffix.lower() != ".dcm":
        raise InputError(f"{out} must be a DICOM file to write, .dcm")


@contextmanager
def no_values_in_logs() -> Iterator[None]:
    """pydicom quotes the values that break DICOM's rules in warnings, and so a patient's name: here it is silent."""
    from pydicom.config import disable_value_validation

    logger = logging.getLogger("pydicom")
    before = logger.disabled
    try:
        logger.disabled = True
        with disable_value_validation(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom")
            yield
    finally:
        logger.disabled = before


def _check_modalities(channels: Sequence[Series], model: SegmentationModel) -> None:
    for series, channel, modality in zip(channels, model.channels, model.modalities, strict=True):
        if modality is None:
            stated = channel if model.is_of_nnunet else model.modality
            note(
                f"medmixers: note: the model takes {stated!r} and the series is {series.modality or 'of no modality'}: "
                "whether they are the same is not known"
            )
        elif series.modality != modality:
            raise InputError(
                f"channel {channel} of the model is {modality}, the series is {series.modality or 'of no modality'}"
            )


def _sizes(labels: NDArray[Any], series: Series, model: SegmentationModel) -> str:
    """Millilitres of each segment; square centimetres in a single slice, whose thickness is not read."""
    edges = series.affine[:3, :3]
    if series.shape[2] > 1:
        size, unit = abs(float(np.linalg.det(edges))) / 1000, "ml"
    else:
        size, unit = float(np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]))) / 100, "cm2"
    counts = (
        [int((labels == number).sum()) for number in range(1, len(model.segments) + 1)]
        if labels.ndim == 3
        else [int(count) for count in labels.sum(axis=(0, 1, 2), dtype=np.int64)]
    )
    named = zip(model.segments, counts, strict=True)
    return ", ".join(f"{segment.name} {count * size:.1f} {unit}" for segment, count in named)
