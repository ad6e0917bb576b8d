"""The reader of every label file that a bundle trains on, for MONAI's ``LoadImaged``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import ImageReader
from numpy.typing import NDArray

from medmixers.bundle_runtime.volumes import load_by_monai, metadata, read_paths, stacked
from medmixers.datasets.image_files import read_any
from medmixers.datasets.label_values import check_label_values, check_mask_values
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError
from medmixers.images.pictures import PICTURES


class BundleLabelReader(ImageReader):
    """Read label files as `medmixers dataset check` does, with its checks: a fault ends a training in one line.

    Args:
        values: what label files may hold; empty for masks, which hold 0 and 1 or 0 and 255.

    Raises:
        InputError: when a label is read: a damaged file, or one with other values.
    """

    def __init__(self, *, values: Sequence[int] = ()) -> None:
        super().__init__()
        self.names = dict.fromkeys(values, "")

    def verify_suffix(self, filename: Any) -> bool:
        """True: this reader takes every file, so that MONAI tries no other one after an error."""
        return True

    def read(self, data: Any, **_: Any) -> list[Path]:
        """The paths. Files are opened by :meth:`get_data`: MONAI would try other readers after an error here."""
        return read_paths(data)

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Values and metadata of one label: one file, or one mask file per channel."""
        return stacked(img, [self._load(path) for path in img])

    def _load(self, path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
        if path.name.lower().endswith((*NIFTI, *PICTURES)):
            label = read_any(path)
            if label.components != 1:
                raise InputError(f"{path} has {label.components} components per voxel; a label has one")
            data, meta = label.data, metadata(label.shape, label.world)
        else:
            data, meta = load_by_monai(path)
        if self.names:
            check_label_values(path, data, self.names)
        else:
            check_mask_values(path, data)
        return data, meta
