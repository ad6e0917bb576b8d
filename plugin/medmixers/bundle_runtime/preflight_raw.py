"""Checks of cases with one label file of values each, before a start: nnU-Net's raw format.

The configs of bundles with such labels name this module. Zips of other bundles do not carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmixers.bundle_runtime.preflight_files import VOXELS_OF
from medmixers.datasets.image_files import check_geometry, read_any, read_image
from medmixers.datasets.label_values import check_label_values
from medmixers.datasets.raw_checks import check_raw_dataset
from medmixers.datasets.raw_format import NIFTI, label_names, read_description
from medmixers.errors import InputError
from medmixers.images.pictures import PICTURES

if TYPE_CHECKING:
    from medmixers.bundle_runtime.image_reader import BundleImageReader


class RawCases:
    """Checks of a folder in nnU-Net raw format, and of cases that a client lists."""

    def check_format(self, dataset_dir: str, label_values: Sequence[int], *, in_channels: int) -> None:
        """Raise InputError unless dataset.json names the channels and labels of the network.

        Args:
            dataset_dir: the data set.
            label_values: of the network.
            in_channels: of the network.
        """
        content = read_description(Path(dataset_dir))
        where = str(Path(dataset_dir) / "dataset.json")
        channels = content["channel_names"]
        if len(channels) != in_channels:
            raise InputError(f"{where!r} names {len(channels)} channels; the network takes {in_channels}")
        values = list(label_names(content))
        if values != list(label_values):
            raise InputError(f"{where!r} has the labels {values}; the network has {list(label_values)}")

    def check_folder(
        self,
        dataset_dir: str,
        images: Sequence[Sequence[Path]],
        part: str,
        reader: BundleImageReader,
        *,
        progress: Callable[[list[Any]], Iterable[Any]],
    ) -> None:
        """Check the files as nnU-Net reads them.

        Args:
            dataset_dir: the data set.
            images: files of the cases whose pictures are checked by the reader too.
            part: "training" or "test".
            reader: of the images.
            progress: gives cases back one by one, and may show a bar.
        """
        axes = check_raw_dataset(dataset_dir, parts=(part,), voxels_of=VOXELS_OF, progress=progress)
        if axes != reader.spatial_dims:
            dims = reader.spatial_dims
            raise InputError(f"the images of {dataset_dir!r} are {axes}D; the network takes {dims}D images")
        for files in images if axes == 2 else ():  # pictures: their depth and colour model too
            reader.check_case(files)

    def check_case(
        self, files: Sequence[Path], label: Path, label_values: Sequence[int], reader: BundleImageReader, *, whole: bool
    ) -> None:
        """Check an image and its label: readable, on one grid, and with values that the network has.

        Args:
            files: of the image.
            label: its file.
            label_values: of the network.
            reader: of the image.
            whole: look at the voxels too, not only at the headers.
        """
        reader.check_case(files, whole=whole)
        read = read_any(label, whole=whole)
        if files[0].name.lower().endswith((*NIFTI, *PICTURES)):
            check_geometry(label, read, files[0], read_image(files[0], whole=False))
        if whole:
            check_label_values(label, read.data, dict.fromkeys(label_values, ""))
