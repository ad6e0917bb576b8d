"""Probabilities of a segmentation on disk: as nnU-Net writes them, and as NIfTI on the grid of the input.

``nnUNetv2_ensemble`` reads the files of the first kind: CASE.npz, CASE.pkl, and dataset.json and plans.json of the
folder (Isensee et al., nnunetv2/inference/export_prediction.py and ensembling/ensemble.py).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import Tensor

from medmixers.bundle_runtime.cases import case_name
from medmixers.datasets.raw_format import NIFTI, region_class_order, stem_and_ending
from medmixers.files import written_whole

NIFTI_FOLDER = "probabilities"  # a folder of its own: nnU-Net takes each NIfTI file next to label maps for one of them


class ProbabilitiesSaved(MapTransform):
    """Write the probabilities of a case to ``output_dir``, and hand on what came in.

    - CASE.npz: float32 array "probabilities", (K, Z, Y, X), of a picture (K, 1, rows, columns). CASE.pkl: its geometry.
    - probabilities/CASE.nii.gz: float32, (X, Y, Z, K), with the affine of the input.
    - dataset.json and plans.json, where ``labels`` are given: what nnU-Net needs to make a label map of an .npz file.

    Where the preprocessing cut voxels off, an exclusive background has probability 1, as in nnU-Net.

    Args:
        keys: of the probabilities, (K, *spatial) with the metadata of the input.
        output_dir: the folder.
        exclusive: the classes exclude each other, and class 0 is the background.
        file_ending: of the label maps.
        labels: name -> value, or values of a region, as nnU-Net's dataset.json has them. None where masks overlap
            freely: nnU-Net has no label map for those.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        output_dir: str,
        exclusive: bool,
        file_ending: str,
        labels: Mapping[str, int | Sequence[int]] | None = None,
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.exclusive = exclusive
        self.file_ending = file_ending
        self.labels = labels
        self.described = False

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write the files of a case."""
        result = dict(data)
        for key in self.key_iterator(result):
            probabilities = self._filled(result[key])
            case, _ = stem_and_ending(case_name(result[key].meta, self)["subject"])
            affine = np.asarray(result[key].affine, dtype=np.float64)
            write_npz(self.output_dir / case, _as_nnunet(probabilities), geometry(affine, probabilities.ndim - 1))
            write_nifti(self.output_dir / NIFTI_FOLDER / f"{case}.nii.gz", probabilities, affine)
            if self.labels is not None and not self.described:
                self.described = True
                write_description(self.output_dir, self.labels, self.file_ending)
        return result

    def _filled(self, tensor: Tensor) -> NDArray[np.float32]:
        values = torch.as_tensor(tensor).detach().cpu().numpy().astype(np.float32)
        if self.exclusive:
            values[0][values.sum(axis=0) == 0] = 1
        return values


def write_npz(target: Path, probabilities: NDArray[np.float32], properties: Mapping[str, Any]) -> None:
    """``target``.npz and ``target``.pkl, as nnU-Net's ``export_prediction_from_logits`` writes them.

    Args:
        target: path without ending.
        probabilities: (K, *spatial), axes as nnU-Net's readers give them.
        properties: of nnU-Net's reader.
    """
    with written_whole(target.with_name(f"{target.name}.npz")) as partial:
        np.savez_compressed(partial, probabilities=probabilities)
    with written_whole(target.with_name(f"{target.name}.pkl")) as partial:
        partial.write_bytes(pickle.dumps(dict(properties)))


def write_nifti(path: Path, probabilities: NDArray[np.float32], affine: NDArray[np.float64]) -> None:
    """probabilities: (K, *spatial) -> a NIfTI file of (X, Y, Z, K); a picture has one slice. affine: (4, 4), RAS."""
    volumes = probabilities if probabilities.ndim == 4 else probabilities[..., None]
    with written_whole(path) as partial:
        nib.save(nib.Nifti1Image(np.moveaxis(volumes, 0, -1), affine), partial)


def geometry(affine: NDArray[np.float64], spatial_dims: int) -> dict[str, Any]:
    """An image's properties as nnU-Net's readers give them: SimpleITKIO, NibabelIO, and NaturalImage2DIO for pictures.

    Args:
        affine: voxels to RAS millimetres, (4, 4).
        spatial_dims: 2 or 3.
    """
    if spatial_dims == 2:
        return {"spacing": (999, 1, 1)}
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    to_lps = np.array([-1, -1, 1])
    direction = to_lps[:, None] * affine[:3, :3] / spacing
    return {
        "sitk_stuff": {
            "spacing": tuple(spacing.tolist()),
            "origin": tuple((to_lps * affine[:3, 3]).tolist()),
            "direction": tuple(direction.ravel().tolist()),
        },
        "nibabel_stuff": {"original_affine": affine},
        "spacing": spacing[::-1].tolist(),
    }


def write_description(folder: Path, labels: Mapping[str, int | Sequence[int]], file_ending: str) -> None:
    """dataset.json and plans.json with the keys that ``nnUNetv2_ensemble`` reads.

    Args:
        folder: of the probabilities.
        labels: as :class:`ProbabilitiesSaved` has it.
        file_ending: of the label maps.
    """
    regions = [values for values in labels.values() if not isinstance(values, int)]
    order = {"regions_class_order": region_class_order(regions)} if regions else {}
    reader = "SimpleITKIO" if file_ending.lower() in NIFTI else "NaturalImage2DIO"
    write_nnunet_json(
        folder,
        {"labels": dict(labels), **order, "file_ending": file_ending},
        {"image_reader_writer": reader, "label_manager": "LabelManager"},
    )


def write_nnunet_json(folder: Path, dataset: Mapping[str, Any], plans: Mapping[str, Any]) -> None:
    """Write ``folder``/dataset.json and plans.json."""
    for name, content in (("dataset.json", dataset), ("plans.json", plans)):
        with written_whole(folder / name) as partial:
            partial.write_text(json.dumps(content, indent=4), encoding="utf-8")


def _as_nnunet(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, X, Y, Z) -> (K, Z, Y, X); a picture (K, columns, rows) -> (K, 1, rows, columns)."""
    flipped = probabilities.transpose(0, *range(probabilities.ndim - 1, 0, -1))
    return np.ascontiguousarray(flipped if flipped.ndim == 4 else flipped[:, None])
