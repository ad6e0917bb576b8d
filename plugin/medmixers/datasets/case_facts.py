"""What a person compares between cases: spacing, size, intensity, label volume, and a hash that copies share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.image_files import Volume
from medmixers.datasets.raw_format import NIFTI
from medmixers.datasets.thumbnails import Thumbnail, thumbnail
from medmixers.images.dicom import DICOM_ENDINGS, patient_id
from medmixers.images.pictures import PICTURES

Array = NDArray[Any]
SAMPLE = 1_000_000  # voxels per channel that the intensities are estimated from
HASH_SIZE, RESIZED = 8, 32  # of pHash: low frequencies per axis, of a picture of this size in pixels
SMALL = 16  # pixels per axis of the small version of a picture
BLOCKS = 8  # per axis of a volume
LEAST = 4  # pixels or voxels per axis, below which cases are not compared by a hash
CUBIC_MM_PER_ML = 1000

# A case's name says whose it is: "patient001_frame01", "sub-01_ses-02", "TCGA-AB-1234-01", "BraTS-GLI-00012-100"
NAMED = re.compile(r"(?:patient|subject|subj|sub|pat|pid)(?:[-_ ]?\d+|[-_ ][a-z]*\d[a-z0-9]*)", re.IGNORECASE)
KNOWN = re.compile(r"TCGA-\w\w-\w{4}|BraTS[-\w]*\d{4,}(?=-\d{3}(?!\d))", re.IGNORECASE)
VISIT = re.compile(
    r"(.*\d.*)[-_](?:frame|slice|session|ses|visit|scan|series|study|timepoint|time|tp|img|image|view|day|week|month|"
    r"year|left|right|baseline|followup|pre|post|[tslrv])[-_]?\d*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CaseFacts:
    """Facts of one case.

    Args:
        name: of the case.
        part: "training", "validation" or "test".
        unit: cases of one part with the same unit are never divided by a split.
        patient: whose case it is, as its name or its DICOM header says; None where neither does.
        size: voxels per axis of the file.
        spacing: millimetres per axis of the file; empty for pictures.
        intensity: channel -> (mean, 99.5 % percentile).
        share: hash that copies share: pHash bits of a picture, standardised means of blocks of a volume; None where
            the image is constant or tiny.
        pixels: of a picture, its small version (256,), standardised; empty for a volume.
        labels: name -> volume in ml, or % of a picture; without those that the case does not hold.
        thumbnail: None where none is wanted.
    """

    name: str
    part: str
    unit: str
    patient: str | None
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    intensity: Mapping[str, tuple[float, float]]
    share: Array | None
    pixels: Array = field(default_factory=lambda: np.empty(0))
    labels: Mapping[str, float] = field(default_factory=dict)
    thumbnail: Thumbnail | None = None


def patient_of(name: str, file: Path) -> str | None:
    """Whose case it is, by PatientID of a DICOM file or by the case's name; None where neither says so."""
    if file.suffix.lower() in ("", *DICOM_ENDINGS) and (patient := patient_id(file)):
        return patient
    if found := NAMED.search(name) or KNOWN.search(name):
        return found[0].lower()
    ending = next((each for each in (*NIFTI, *PICTURES, *DICOM_ENDINGS) if name.lower().endswith(each)), "")
    name = stem = name[: len(name) - len(ending)]
    while match := VISIT.fullmatch(stem):
        stem = match[1]
    return stem.lower() if stem != name else None


def upright(data: Array, turned: NDArray[np.float64], spacing: tuple[float, ...]) -> tuple[Array, tuple[float, ...]]:
    """A volume's voxels with axes from left, posterior and inferior, (X, Y, Z), and its spacing in that order.

    Copies that were saved in another orientation become equal. Nothing is copied.
    """
    return turn(data, turned), tuple(spacing[int(axis)] for axis in np.argsort(turned[:, 0]))


def orientation(path: Path, volume: Volume) -> NDArray[np.float64]:
    """nibabel's orientation of a volume: for each axis, its axis in space and its direction."""
    import nibabel as nib

    sign = 1 if path.name.lower().endswith(NIFTI) else -1  # ITK counts to the left and to posterior
    return np.asarray(nib.io_orientation(np.diag([sign, sign, 1, 1]) @ volume.affine))


def turn(data: Array, turned: NDArray[np.float64]) -> Array:
    """Voxels in a standard orientation, as a view."""
    import nibabel as nib

    return np.asarray(nib.apply_orientation(data, turned))


def spacing_of(volume: Volume) -> tuple[float, ...]:
    """Millimetres per axis of the file."""
    return tuple(float(edge) for edge in np.linalg.norm(volume.affine[:-1, :-1], axis=0))


def intensity_of(data: Array) -> tuple[float, float]:
    """Mean and 99.5 % percentile of at most a million voxels, evenly spaced."""
    flat = data.reshape(-1)[:: max(1, data.size // SAMPLE)].astype(np.float64)
    return float(flat.mean()), float(np.percentile(flat, 99.5))


def grey_of(image: Volume) -> Array:
    """Voxels of an image of one component; of several, the ITU-R 601 luma of the first three, or the first one."""
    if image.components == 1:
        return image.data
    if image.components == 2:
        return np.asarray(image.data[..., 0])
    return np.asarray(image.data[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32))


def block_means(data: Array) -> Array | None:
    """Means of at most 8 x 8 x 8 blocks of a volume, with mean 0 and standard deviation 1.

    They stay equal to a few digits where a volume is saved again: with other bits, compressed, or scaled.
    """
    if min(data.shape) < LEAST:
        return None
    means = data
    for axis in range(data.ndim):
        parts = np.array_split(means, min(BLOCKS, data.shape[axis]), axis=axis)
        means = np.stack([part.mean(axis=axis, dtype=np.float64) for part in parts], axis=axis)
    return standardised(means.ravel())


def perceptual_hash(grey: Array) -> tuple[Array | None, Array]:
    """pHash of a picture (H, W) and its small version.

    As of the package ImageHash, with 64 bits: which low frequencies of the cosine transform are above their median.
    Returns None for a constant or tiny picture.
    """
    from PIL import Image
    from scipy.fft import dctn

    low, high = float(grey.min()), float(grey.max())
    if high <= low or min(grey.shape) < LEAST:
        return None, np.empty(0)
    picture = Image.fromarray(np.rint((grey - low) * (255 / (high - low))).astype(np.uint8))
    wave = dctn(np.asarray(picture.resize((RESIZED, RESIZED), Image.Resampling.LANCZOS), np.float64))
    wave = wave[:HASH_SIZE, :HASH_SIZE]
    small = np.asarray(picture.resize((SMALL, SMALL), Image.Resampling.LANCZOS), np.float64)
    return (wave > np.median(wave)).ravel(), np.empty(0) if (found := standardised(small.ravel())) is None else found


def standardised(values: Array) -> Array | None:
    """Values with mean 0 and standard deviation 1 in single precision; None where they are constant."""
    spread = values.std()
    return ((values - values.mean()) / spread).astype(np.float32) if spread > 0 else None


def label_volumes(counts: Mapping[str, int], size: Sequence[int], spacing: Sequence[float]) -> dict[str, float]:
    """Label -> millilitres of a volume, or % of a picture, of the labels that are there."""
    unit = np.prod(spacing) / CUBIC_MM_PER_ML if len(size) == 3 else 100 / np.prod(size)
    return {name: float(count * unit) for name, count in counts.items() if count}


def facts_of(
    name: str,
    part: str,
    unit: str,
    path: Path,
    image: Volume,
    channels: Mapping[str, Array],
    labels: Sequence[Array],
    counts: Mapping[str, int],
    *,
    with_thumbnail: bool,
    white: float | None = None,
) -> CaseFacts:
    """Facts of a case while its voxels are in memory.

    Args:
        name, part, unit: as of :class:`CaseFacts`.
        path: of the image that is hashed and shown.
        image: its voxels (*shape) or (*shape, components).
        channels: name -> voxels of one channel.
        labels: one map of label values, or several masks.
        counts: label name -> voxels.
        with_thumbnail: draw one.
        white: value of white that it shows, as of :func:`~medmixers.datasets.thumbnails.thumbnail`.
    """
    is_volume = len(image.shape) == 3
    spacing = () if path.name.lower().endswith(PICTURES) else spacing_of(image)
    is_colour = image.components >= 3 and not is_volume
    shown, shown_spacing, drawn = image.data[..., :3] if is_colour else grey_of(image), spacing, list(labels)
    plane = grey_of(image) if is_colour else shown
    if is_volume:
        turned = orientation(path, image)
        shown, shown_spacing = upright(shown, turned, spacing)
        drawn = [turn(label, turned) for label in labels]
        plane = shown.squeeze()  # of one slice, as nnU-Net's 2D NIfTI files
    share, pixels = perceptual_hash(plane) if plane.ndim == 2 else (block_means(shown), np.empty(0))
    return CaseFacts(
        name,
        part,
        unit,
        patient_of(name, path),
        tuple(int(extent) for extent in image.shape),
        spacing,
        {channel: intensity_of(values) for channel, values in channels.items()},
        share,
        pixels,
        label_volumes(counts, image.shape, spacing),
        thumbnail(shown, shown_spacing, drawn, white=white) if with_thumbnail else None,
    )
