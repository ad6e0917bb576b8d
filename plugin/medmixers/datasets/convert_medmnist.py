"""MedMNIST+: ``pathmnist_224.npz`` and its like, with ``{train,val,test}_{images,labels}``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.reading import existing
from medmixers.datasets.split_rule import PARTS
from medmixers.datasets.writers import DatalistWriter
from medmixers.errors import InputError, joined_lines
from medmixers.tasks import TaskSpec

FLAGS = {
    "colon_pathology_classification": "pathmnist",
    "skin_lesion_classification": "dermamnist",
    "chest_xray_pneumonia_classification": "pneumoniamnist",
    "abdominal_organ_classification": "organsmnist",
    "lung_nodule_classification": "nodulemnist3d",
    "chest_xray_findings_classification": "chestmnist",
}


def convert(writer: DatalistWriter, source: Path, *, size: int | None = None) -> None:
    """Write every image as a file. The parts are the data set's own.

    Args:
        writer: of one of these tasks.
        source: the .npz file, or the folder that holds it.
        size: edge of the images, as in the file's name; None: the task's own.
    """
    task = writer.task
    edge = size or (task.image_size or ())[0]
    name = FLAGS[task.name] + ("" if edge == 28 else f"_{edge}")  # the first release had 28 pixels and no suffix
    path = source if source.is_file() else existing(source / f"{name}.npz", f"the file of {task.name} at {edge} pixels")
    try:
        with zipfile.ZipFile(path) as archive:
            for part, ours in zip(("train", "val", "test"), PARTS, strict=True):
                pairs = zip(_rows(archive, f"{part}_images"), _rows(archive, f"{part}_labels"), strict=True)
                for index, (image, label) in enumerate(pairs):
                    _check(image, label, task)
                    case = (ours, f"{ours}_{index:06d}", image)
                    if task.multi_label:
                        writer.add_labels(*case, np.flatnonzero(label).tolist())
                    else:
                        writer.add_class(*case, int(label[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise InputError(f"{path}: {joined_lines(error)}") from None
    if task.spatial_dims == 3:
        writer.notes.append("MedMNIST states no voxel size and no orientation: the files say 1 mm and RAS")


def _rows(archive: zipfile.ZipFile, key: str) -> Iterator[NDArray[Any]]:
    """The rows of one array, one after another: PathMNIST at 224 pixels is 13.5 GB, more than many memories hold."""
    with archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if fortran or len(shape) < 2 or dtype.hasobject:
            raise InputError(f"{key} must be an array of rows in C order, got {shape=}, {dtype=}, {fortran=}")
        for _ in range(shape[0]):
            yield np.frombuffer(_read(stream, key, int(np.prod(shape[1:])) * dtype.itemsize), dtype).reshape(shape[1:])


def _read(stream: IO[bytes], key: str, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise InputError(f"{key} ends too early")
    return data


def _check(image: NDArray[Any], label: NDArray[Any], task: TaskSpec) -> None:
    channels = len(task.channels)
    expected = task.spatial_dims + (channels > 1)  # a grey image has no channel axis
    if image.dtype != np.uint8 or image.ndim != expected or (channels > 1 and image.shape[-1] != channels):
        raise InputError(f"images must be uint8 of {task.spatial_dims}D and {channels} channel(s), got {image.shape}")
    if task.multi_label and (label.size != len(task.labels) or not np.isin(label, (0, 1)).all()):
        raise InputError(f"each image must have 0 or 1 for each of {len(task.labels)} labels, got {label.tolist()}")
    if not task.multi_label and label.size != 1:
        raise InputError(f"each image must have one class, got {label.size}: is it a multi-label set?")
