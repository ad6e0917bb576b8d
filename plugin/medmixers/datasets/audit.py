"""Check a data set in nnU-Net raw format before hours are spent on it. Needs neither torch nor nnU-Net.

Format: nnU-Net's documentation/dataset_format.md. What nnU-Net 2.8 only warns about (a label whose affine is
not its image's) or finds late (a label value it does not know, after planning) is an error here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from medmixers.datasets.raw_format import NIFTI, Case, held_out_cases, read_description, training_cases
from medmixers.errors import InputError, MissingFileError, MissingPackageError, first_line, joined_lines

PARTS = ("training", "test")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
# Grids may differ by rounding in their headers: by this part of a voxel's edge, at the volume's corners.
GEOMETRY_TOLERANCE = 0.1


@dataclass(frozen=True)
class AuditReport:
    """What a sound data set holds.

    Args:
        folder: the data set.
        channels: channel names in order.
        labels: every label value and its name; where regions share a value, the smallest one's.
        regions: name -> its label values, more than one for a region.
        training, test: identifiers of the cases that were read; ``test`` is empty without imagesTs.
        voxels: label value -> voxels in all training labels.
        shapes: smallest and largest extent per axis over all cases.
        notes: what is legal and yet unlikely to be meant, one line each.
    """

    folder: Path
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    training: tuple[str, ...]
    test: tuple[str, ...]
    voxels: Mapping[int, int]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        total = max(sum(self.voxels.values()), 1)
        shares = [
            f"{name} ({', '.join(map(str, values))}): {100 * sum(self.voxels[v] for v in values) / total:.2f} %"
            for name, values in self.regions.items()
        ]
        return "\n".join(
            [
                f"{self.folder}: no error found",
                f"cases: {len(self.training)} training, {len(self.test)} test",
                f"channels: {', '.join(self.channels)}",
                voxels_line(self.shapes),
                f"labels: {', '.join(shares)}",
                *(f"note: {note}" for note in self.notes),
            ]
        )


class Volume(NamedTuple):
    """One image file."""

    shape: tuple[int, ...]  # of the grid
    affine: NDArray[np.float64]  # voxels to millimetres, (D + 1, D + 1)
    components: int = 1
    data: NDArray[Any] = np.empty(0)  # (*shape), or (*shape, components) where components > 1; empty: only the header


def audit_nnunet_dataset(
    folder: str | Path,
    *,
    parts: Collection[str] = PARTS,
    voxels_of: int | None = None,
    progress: Callable[[list[Case]], Iterable[Case]] = iter,
) -> AuditReport:
    """Read every image and label of a data set and check them against its dataset.json.

    Args:
        folder: the data set.
        parts: what to read: "training", and "test", which is imagesTs and labelsTs where they exist. The
            other part's images stay unopened.
        voxels_of: read the voxels of that many cases only, the first, and the headers of the others; None: of all.
            The report's ``voxels`` and ``notes`` are of what was read.
        progress: gives the cases back one by one, and may show how far it is (tqdm).

    Raises:
        FileNotFoundError: the folder, dataset.json, a channel of a case or a training label is missing.
        ValueError: anything else; the first fault found, in one line with the file and the values.
    """
    if not parts or not set(parts) <= set(PARTS):
        raise InputError(f"parts must be of {', '.join(PARTS)}, got {tuple(parts)}")
    folder = Path(folder)
    description = read_description(folder)
    labels = label_names(description)
    named = {name: tuple(np.atleast_1d(value).tolist()) for name, value in description["labels"].items()}
    channels = tuple(str(name) for name in description["channel_names"].values())
    training = _counted_training_cases(folder, description) if "training" in parts else []
    test = held_out_cases(folder, description) if "test" in parts else []
    if not training + test:
        raise MissingFileError(f"{folder / 'imagesTs'} holds no image")
    voxels: dict[int, int] = dict.fromkeys(labels, 0)
    empty: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for index, case in enumerate(progress(training + test)):
        whole = voxels_of is None or index < voxels_of
        image = _check_images(case, channels, description["file_ending"], whole=whole)
        shapes.append(image.shape)
        if len(shapes[0]) != len(image.shape):
            raise InputError(f"{case.images[0]} has {len(image.shape)} axes, the first case has {len(shapes[0])}")
        if case.label is None:
            continue
        counts = _check_label(case.label, image, case.images[0], labels, whole=whole)
        if case in training and whole:
            voxels = {value: voxels[value] + counts.get(value, 0) for value in labels}
            empty += [case.name] if set(counts) <= {0} else []
    return AuditReport(
        folder,
        channels,
        labels,
        dict(sorted(named.items(), key=lambda item: item[1])),
        tuple(case.name for case in training),
        tuple(case.name for case in test),
        voxels,
        extremes(shapes),
        tuple(_notes(folder, description, labels, voxels, empty, training) if training else ()),
    )


def extremes(shapes: Collection[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest extent per axis."""
    known = np.array(list(shapes))
    return tuple(known.min(0).tolist()), tuple(known.max(0).tolist())


def voxels_line(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    """The extremes, as a report says them."""
    smallest, largest = (" x ".join(map(str, shape)) for shape in shapes)
    return f"voxels: {smallest}" + (f" to {largest}" if largest != smallest else "")


def label_names(description: Mapping[str, Any]) -> dict[int, str]:
    """Label value -> name, ascending, from the ``labels`` of a dataset.json, after nnU-Net's rules.

    Of several regions, lists of values, with a value in common the smallest gives it its name. The ignore label is the
    highest.
    """
    labels = description["labels"]
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise InputError(f'dataset.json: labels must name "background" as 0, got {labels}')
    names: dict[int, str] = {}
    for name, value in sorted(labels.items(), key=lambda item: len(item[1]) if isinstance(item[1], list) else 0):
        values = value if isinstance(value, list) else [value]
        if not values or not all(type(entry) is int for entry in values):
            raise InputError(f"dataset.json: label {name!r} must be an integer or a list of them, got {value!r}")
        for entry in values:
            names.setdefault(entry, name)
    if "ignore" in labels and labels["ignore"] != max(names):
        raise InputError(f"dataset.json: the ignore label must be the highest value, got {labels['ignore']!r}")
    if sorted(names) != list(range(len(names))):
        raise InputError(f"dataset.json: label values must be consecutive from 0, got {sorted(names)}")
    regions = [name for name, value in labels.items() if name != "ignore" and value not in (0, [0])]
    order = description.get("regions_class_order")
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()) and (
        not isinstance(order, list) or len(order) != len(regions)
    ):
        raise InputError(f"dataset.json: regions_class_order must have {len(regions)} values, got {order}")
    return dict(sorted(names.items()))


def _counted_training_cases(folder: Path, description: dict[str, Any]) -> list[Case]:
    cases, expected = training_cases(folder, description), description["numTraining"]
    if len(cases) != expected or not cases:
        raise InputError(f"{folder}: dataset.json says numTraining {expected}, found {len(cases)} cases")
    return cases


def _check_images(case: Case, channels: tuple[str, ...], ending: str, *, whole: bool) -> Volume:
    """The first channel of a case, after all are found whole, finite and in one geometry."""
    first: Volume | None = None
    count = 0
    for path in case.images:
        if not path.is_file():
            name = channels[count] if count < len(channels) else f"channel {count}"
            raise MissingFileError(f"case {case.name!r} lacks channel {count} ({name}): {path}")
        volume = read_image(path, whole=whole)
        first = first or volume
        check_geometry(path, volume, case.images[0], first)
        count += volume.components
    if count < len(channels):
        missing = case.images[0].parent / f"{case.name}_{len(case.images):04d}{ending}"
        raise MissingFileError(f"case {case.name!r} lacks channel {count} ({channels[count]}): {missing}")
    if first is None or count > len(channels):
        raise InputError(f"case {case.name!r} has {count} channels, dataset.json names {len(channels)}")
    return first


def _check_label(
    path: Path, image: Volume, image_path: Path, labels: Mapping[int, str], *, whole: bool
) -> dict[int, int]:
    """Voxels per label value, after geometry and values are found right; none where the header alone is read."""
    if not path.is_file():
        raise MissingFileError(f"{image_path.name} has no label: {path}")
    label = _read(path, whole=whole)
    if label.components != 1:
        raise InputError(f"{path} has {label.components} components a voxel; a label has one")
    check_geometry(path, label, image_path, image)
    values, counts = np.unique(label.data, return_counts=True)
    unknown = [f"{value:g}" for value in values.tolist() if value not in labels]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        valid = ", ".join(f"{value} {name}" for value, name in labels.items())
        raise InputError(f"{path} holds label {shown}, which dataset.json does not know; valid: {valid}")
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def check_geometry(path: Path, volume: Volume, other_path: Path, other: Volume) -> None:
    """Raises ValueError where two images do not lie on one voxel grid."""
    if volume.shape != other.shape:
        raise InputError(f"{path} has shape {volume.shape}, {other_path.name} has {other.shape}")
    corners = np.array(list(product(*((0, extent - 1) for extent in volume.shape), (1,))))
    distance = np.linalg.norm(corners @ (volume.affine - other.affine).T, axis=1).max()
    edge = np.linalg.norm(other.affine[:-1, :-1], axis=0).min()
    if not distance <= GEOMETRY_TOLERANCE * edge:  # written so that a NaN fails
        raise InputError(
            f"{path} lies elsewhere than {other_path.name}: a corner is {distance:.3g} mm away by the affines"
        )


def read_image(path: Path, *, whole: bool = True) -> Volume:
    """One image file, its values finite, or only its header; ValueError says what is wrong with it."""
    volume = _read(path, whole=whole)
    if not np.isfinite(volume.data).all():
        bad = int((~np.isfinite(volume.data)).sum())
        raise InputError(f"{path} holds NaN or infinity in {bad} of {volume.data.size} voxels")
    return volume


def _read(path: Path, *, whole: bool) -> Volume:
    """One file. NIfTI through nibabel, which reads sheared affines too; pictures through Pillow, others through ITK."""
    try:
        if path.name.lower().endswith(NIFTI):
            volume = _read_nifti(path, whole=whole)
        else:
            read = _read_picture if path.suffix.lower() in PICTURES else _read_itk
            volume = read(path, whole=whole)
    except (OSError, EOFError, RuntimeError, SyntaxError, zlib.error, ImageFileError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    if len(volume.shape) not in (2, 3):
        raise InputError(f"{path} has {len(volume.shape)} axes {volume.shape}; each file is one 2D or 3D channel")
    return volume


def _read_nifti(path: Path, *, whole: bool) -> Volume:
    image = nib.load(path)
    axes = min(len(image.shape), 3)
    kept = [*range(axes), 3]
    header = Volume(image.shape, image.affine[np.ix_(kept, kept)])
    return header._replace(data=np.asanyarray(image.dataobj)) if whole else header


def _read_picture(path: Path, *, whole: bool) -> Volume:
    from PIL import Image  # only here, as SimpleITK: a packed bundle of volumes reads NIfTI without them

    with Image.open(path) as image:
        picture = image.convert("RGB") if image.mode == "P" else image  # a palette's colours, as nnU-Net reads them
        header = Volume(picture.size, np.eye(3), len(picture.getbands()))
        return header._replace(data=np.asarray(picture).swapaxes(0, 1)) if whole else header


def _read_itk(path: Path, *, whole: bool) -> Volume:
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise MissingPackageError(f"reading {path} needs the package SimpleITK: {joined_lines(error)}") from error

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = reader.GetDimension()
    affine = np.eye(axes + 1)
    affine[:-1, :-1] = np.reshape(reader.GetDirection(), (axes, axes)) * reader.GetSpacing()
    affine[:-1, -1] = reader.GetOrigin()
    header = Volume(reader.GetSize(), affine, reader.GetNumberOfComponents())
    if not whole:
        return header
    data = np.moveaxis(sitk.GetArrayViewFromImage(reader.Execute()), range(axes), range(axes)[::-1])  # to x, y, z
    return header._replace(data=data.copy())


def _notes(
    folder: Path,
    description: dict[str, Any],
    labels: Mapping[int, str],
    voxels: Mapping[int, int],
    empty: list[str],
    training: list[Case],
) -> Iterator[str]:
    absent = [f"{value} {name}" for value, name in labels.items() if name != "ignore" and not voxels[value]]
    if absent:
        yield f"no training label holds {', '.join(absent)}"
    if empty:
        yield f"only background in {len(empty)} training labels, {empty[0]} for example"
    if "dataset" not in description:
        files = {path.name for path in (folder / "labelsTr").glob(f"*{description['file_ending']}")}
        orphans = sorted(files - {case.label.name for case in training if case.label})
        if orphans:
            yield f"{len(orphans)} files in labelsTr have no image, {orphans[0]} for example"
