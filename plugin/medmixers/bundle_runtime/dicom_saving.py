"""Labels of DICOM series as DICOM SEG, in place of NIfTI files: configs/dicom.json over configs/inference.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import MapTransform
from numpy.typing import NDArray

from medmixers.datasets.raw_format import stem_and_ending
from medmixers.errors import InputError
from medmixers.files import file_digest
from medmixers.images import dicom_seg
from medmixers.images.dicom import check_series, is_dicom, read_header, series_files, volume_affine
from medmixers.images.dicom_seg import Maker, Series

GRID_MM = 1e-2  # affines of tensors have single precision


class DicomSegmentationSaved(MapTransform):
    """Write the labels of each case as one DICOM SEG, OUTPUT_DIR/CASE.dcm, on the slices of its series.

    Args:
        keys: key of the labels, on the voxels of the series: (1, x, y, z) of values, or (K, x, y, z) of masks.
        bundle_root: of the bundle; its configs/metadata.json says what the segments are.
        output_dir: the folder.
        images: of all cases: a folder with a series or a multi-frame file; of several channels a list of them.
        weights: files of the weights that predict.
        series_uid: SeriesInstanceUID, where the folders hold several.

    Raises:
        InputError: highdicom is not installed; an image that is no DICOM series, or lacks what a DICOM SEG refers to;
            no file of weights; segments of another form, or one without a code.
    """

    def __init__(
        self,
        keys: str,
        *,
        bundle_root: str,
        output_dir: str,
        images: Sequence[str | Sequence[str]],
        weights: Sequence[str],
        series_uid: str | None = None,
    ) -> None:
        super().__init__(keys)
        dicom_seg.need_highdicom()
        self.output_dir, self.series_uid = Path(output_dir), series_uid
        cases = [[each] if isinstance(each, str) else list(each) for each in images]
        self.cases = {case[0]: [Path(channel) for channel in case] for case in cases}
        for path in (path for case in self.cases.values() for path in case):
            self._check(path)
        self.maker = bundle_maker(Path(bundle_root), [Path(file) for file in weights])

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Write, and hand on what came in."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key]
            first = str(labels.meta["filename_or_obj"])
            channels = [self._series(path) for path in self.cases.get(first, [Path(first)])]
            values = _on_series(labels, channels[0])
            file = self.output_dir / f"{stem_and_ending(first)[0]}.dcm"
            dicom_seg.write_segmentation(file, dicom_seg.numbered(values, self.maker.segments), channels, self.maker)
        return result

    def _files(self, path: Path) -> list[Path]:
        if not path.is_dir() and not (path.is_file() and is_dicom(path)):
            raise InputError(f"{path} is no DICOM series; a DICOM SEG refers to one")
        return series_files(path, series_uid=self.series_uid)

    def _check(self, path: Path) -> None:
        files, needed = self._files(path), dicom_seg.NEEDED_BY_SEG
        dicom_seg.check_references(files, [read_header(file, needed) for file in files], needed, "a DICOM SEG")

    def _series(self, path: Path) -> Series:
        slices = tuple(check_series(self._files(path)))
        return Series(slices, volume_affine(slices), "")


def bundle_maker(bundle: Path, weights: Sequence[Path]) -> Maker:
    """What a DICOM SEG says of a bundle, from its metadata and the files of its weights."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text("utf-8"))
    segments = dicom_seg.read_segments(bundle.resolve().name, metadata)
    dicom_seg.need_codes(segments)
    missing = [str(file) for file in weights if not file.is_file()]
    if missing:
        raise InputError(f"there are no weights {missing[0]!r}, which a DICOM SEG states")
    digests = [file_digest(file) for file in weights]
    return Maker(
        name=bundle.resolve().name,
        version=metadata["version"],
        software=f"medmixers {metadata['required_packages_version'].get('medmixers', 'of the bundle')}",
        weights_sha256=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        segments=segments,
    )


def _on_series(labels: Any, series: Series) -> NDArray[np.uint16]:
    """(x, y, z), or (x, y, z, K) of masks; the labels must lie on the slices."""
    values = np.asarray(labels).astype(np.uint16)
    if values.shape[1:] != series.shape or series.distance(np.asarray(labels.affine)) > GRID_MM:
        raise RuntimeError(f"labels of the shape {values.shape[1:]} do not lie on a series of {series.shape}")
    return values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
