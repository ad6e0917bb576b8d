"""Stored values of a DICOM image, the same in the modality's units, and on the scale of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

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


class Lookup(NamedTuple):
    """A look-up table.

    Args:
        first: the value that has the first entry; lower values have it too, and those above the last one have the last.
        entries: what each value becomes.
        white: the highest value that an entry can have.
    """

    first: int
    entries: NDArray[np.int64]
    white: int

    def of(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """What the values become. pydicom's own look-up ends at 256 entries where they have 8 bits."""
        places = np.clip(np.rint(values.astype(np.float64) - self.first), 0, len(self.entries) - 1)
        found: NDArray[np.int64] = self.entries[places.astype(np.intp)]
        return found


def lookup(file: Path, dataset: Any, item: Any, name: str = "LUT") -> Lookup:
    """A look-up table: ``item`` has its descriptor and data. A table that declares 16 bits may hold values of 8.

    Args:
        file: for the error.
        dataset: of the file, whose transfer syntax tells the order of bytes.
        item: of a sequence, or the data set itself.
        name: what the two attributes begin with.

    Raises:
        InputError: the descriptor or the data is missing, or has fewer entries than stated.
    """
    try:
        count, first, bits = (int(each) for each in item[f"{name}Descriptor"].value)
        entries = _entries(item[f"{name}Data"].value, count or 2**16, dataset)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{file} has no valid look-up table: {name}Descriptor or {name}Data is missing, or the data is shorter "
            "than stated"
        ) from None
    highest = int(entries.max())
    # as DCMTK and libtiff take it: an entry of 16 bits that is never above 255 has 8
    return Lookup(first, entries, 255 if highest < 256 else 2 ** max(bits, highest.bit_length()) - 1)


def _entries(data: Any, count: int, dataset: Any) -> NDArray[np.int64]:
    """The entries of a table, of 16 bits each, or of 8 bits with two in a word."""
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    if isinstance(data, bytes):
        words = np.frombuffer(data + b"\0" * (len(data) % 2), f"{order}u2")
    else:
        words = np.atleast_1d(np.asarray(data, np.int64))
    words = words.astype("<u2")
    entries = words.view(np.uint8) if len(words) == (count + 1) // 2 else words
    if len(entries) < count:
        raise ValueError
    return entries[:count].astype(np.int64)


def in_units(file: Path, stored: NDArray[Any], dataset: Any, rescale: tuple[float, float] | None) -> NDArray[Any]:
    """Stored values after the modality LUT, or else after slope and intercept. Raises as :func:`lookup`."""
    if dataset.get("ModalityLUTSequence"):
        return lookup(file, dataset, dataset.ModalityLUTSequence[0]).of(stored)
    return stored if rescale is None else stored.astype(np.float64) * rescale[0] + rescale[1]


def range_of_units(file: Path, dataset: Any, rescale: tuple[float, float] | None) -> tuple[float, float]:
    """The lowest and the highest value that :func:`in_units` can give."""
    if dataset.get("ModalityLUTSequence"):
        return 0, lookup(file, dataset, dataset.ModalityLUTSequence[0]).white
    slope, intercept = rescale or (1, 0)
    ends = [end * slope + intercept for end in stored_range(dataset)]
    return min(ends), max(ends)


def in_window(file: Path, values: NDArray[Any], dataset: Any, ends: tuple[float, float]) -> NDArray[np.float32]:
    """Values in units as a picture's, by the VOI LUT or else the window of the file; without both from end to end.

    Raises:
        InputError: as :func:`lookup`; a window without width, or of an unknown function.
    """
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_windowing

    if dataset.get("VOILUTSequence"):
        table = lookup(file, dataset, dataset.VOILUTSequence[0])
        return scaled(table.of(values), 0, table.white)
    stated = Dataset()
    stated.WindowCenter, stated.WindowWidth = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if stated.WindowCenter is None or stated.WindowWidth is None:
        return scaled(values, *ends)
    stated.VOILUTFunction = dataset.get("VOILUTFunction") or "LINEAR"
    stated.PhotometricInterpretation, stated.BitsStored, stated.PixelRepresentation = "MONOCHROME2", 8, 0  # to 0..255
    try:
        return apply_windowing(values, stated).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{file} has no valid window: {first_line(error)}") from None


def in_colour(file: Path, pixels: NDArray[Any], dataset: Any) -> NDArray[np.float32]:
    """Pixels of a palette as red, green and blue from 0 to 255. InputError: as :func:`lookup`."""
    from pydicom.pixels import apply_color_lut

    if "RedPaletteColorLookupTableData" in dataset or "SegmentedRedPaletteColorLookupTableData" not in dataset:
        names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
        tables = [lookup(file, dataset, dataset, name) for name in names]
        return scaled(np.stack([each.of(pixels) for each in tables], -1), 0, max(each.white for each in tables))
    try:
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        return scaled(apply_color_lut(pixels, dataset), 0, 2**bits - 1)
    except Exception as error:  # damaged segments may raise anything
        raise InputError(f"{file} has no valid palette: {first_line(error)}") from None


def stored_range(dataset: Any) -> tuple[int, int]:
    """The lowest and the highest value that BitsStored can hold."""
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Values from ``low`` to ``high`` as a picture's, from 0 to 255."""
    return ((values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))).astype(np.float32)
