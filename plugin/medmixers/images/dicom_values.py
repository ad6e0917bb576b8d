"""Stored values of a DICOM image, the same in the modality's units, and on the scale of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError, first_line

RESCALE = ("RescaleSlope", "RescaleIntercept")


def with_syntax(dataset: Any) -> Any:
    """A file without preamble may lack the transfer syntax: it has the one that pydicom found."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not dataset.file_meta.get("TransferSyntaxUID"):
        is_implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
    return dataset


def decoded(file: Path) -> NDArray[Any]:
    """Stored pixels, YBR as RGB. InputError: they cannot be decoded."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    try:
        return np.asarray(pixel_array(with_syntax(dcmread(file, force=True))))
    except Exception as error:  # missing plug-ins, truncated pixels, damaged frames
        raise InputError(f"the pixels of {file} cannot be decoded: {first_line(error)}") from None


def rescale_of(file: Path, dataset: Any) -> tuple[float, float] | None:
    """Slope and intercept; None where the data set has neither. InputError: one is missing, empty or no number."""
    if not any(name in dataset for name in RESCALE):
        return None
    try:
        slope, intercept = (float(dataset.get(name)) for name in RESCALE)
    except (TypeError, ValueError):
        slope = intercept = np.nan
    if not slope or not np.isfinite([slope, intercept]).all():
        raise InputError(
            f"{file} has no valid {' and '.join(RESCALE)}: both must be numbers, and the slope not 0; its values are "
            "in an unknown unit"
        )
    return slope, intercept


def in_units(stored: NDArray[Any], dataset: Any, rescale: tuple[float, float] | None) -> NDArray[Any]:
    """Stored values after the modality LUT, or else after slope and intercept."""
    from pydicom.pixels import apply_modality_lut

    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset)
    return stored if rescale is None else stored.astype(np.float64) * rescale[0] + rescale[1]


def range_of_units(dataset: Any, rescale: tuple[float, float] | None) -> tuple[float, float]:
    """The lowest and the highest value that :func:`in_units` can give."""
    if dataset.get("ModalityLUTSequence"):
        return 0, 2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    slope, intercept = rescale or (1, 0)
    ends = [end * slope + intercept for end in stored_range(dataset)]
    return min(ends), max(ends)


def stored_range(dataset: Any) -> tuple[int, int]:
    """The lowest and the highest value that BitsStored can hold."""
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Values from ``low`` to ``high`` as a picture's, from 0 to 255."""
    return ((values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))).astype(np.float32)
