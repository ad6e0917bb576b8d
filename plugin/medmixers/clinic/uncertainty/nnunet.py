"""Probabilities of a model of nnU-Net for a case, and how much its folds and mirrored copies disagree.

Preprocessing, sliding window, the way back to the voxels of the files and the writer are nnU-Net's. Labels are those of
``nnUNetv2_predict``: of the mean logits of the folds. With mirrored copies they are so up to the rounding of nnU-Net's
half precision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from medmixers.clinic.uncertainty.bundle import own_input_errors
from medmixers.clinic.uncertainty.measures import Array, entropy, normalised
from medmixers.clinic.uncertainty.predictor import Case, Entry, Predictor, same_path
from medmixers.clinic.uncertainty.training_images import ImageFacts, intensity_statistics
from medmixers.datasets.image_files import read_image
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError
from medmixers.images.pictures import PICTURES

if TYPE_CHECKING:
    from torch import Tensor, nn

PROPERTIES = "nnunet_properties"  # of the bundle's transforms: how to undo the preprocessing, as JSON


def mirrored(network: nn.Module, axes: tuple[int, ...]) -> nn.Module:
    """A network that sees mirrored tiles, and mirrors its logits back.

    Args:
        network: of one fold.
        axes: of the tiles (B, C, *patch_size).
    """
    from torch import nn

    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x.flip(axes))
            return logits.flip(axes)

    return Mirrored()


class FoldsPredictor(Predictor):
    """The folds of a model of nnU-Net, loaded. Each fold and each of its mirrored copies is a member."""

    @property
    def members(self) -> int:
        """Folds times mirrored copies."""
        return self.folds * len(self.mirrored)

    @property
    def folds(self) -> int:
        """Number of folds that it averages."""
        return len(self.network.folds)

    @contextmanager
    def held_out(self, fold: str) -> Iterator[None]:
        """Predict with one fold alone. Raises InputError: the model does not have it."""
        from torch import nn

        whole = self.network.folds
        if fold not in whole:
            raise InputError(f"{self.bundle.source} has no fold {fold}; it has {', '.join(whole)}")
        self.network.folds = nn.ModuleDict({fold: whole[fold]})
        try:
            yield
        finally:
            self.network.folds = whole

    def choose_layer(self, entry: Entry) -> None:
        """None: networks of folds have different features, and their mean has no statistics."""

    def facts(self, entry: Entry) -> ImageFacts:
        """Of an image."""
        return self._image_facts(*self.load(entry))

    def _image_facts(self, item: Mapping[str, Any], image: Tensor) -> ImageFacts:
        spacing = json.loads(item[PROPERTIES])["spacing"]
        return ImageFacts(np.array(spacing[::-1], float), intensity_statistics(image[0].numpy()), None)

    def load(self, entry: Entry) -> tuple[dict[str, Any], Tensor]:
        """The preprocessed case, and its image, (1, C, *spatial)."""
        files = [entry] if isinstance(entry, str) else entry
        with own_input_errors():
            self.reader.check_case([Path(file) for file in files])
            item = dict(self.preprocessing({"image": entry}))
        return {**item, "file": files[0]}, item["image"][None]

    def predict(self, entry: Entry) -> Case:
        """Predict a case. Raises InputError: an image that the checks refuse, or values that are not finite."""
        import torch
        from monai.data import MetaTensor

        item, image = self.load(entry)
        total: Tensor | None = None
        copies: Array = np.zeros(1, np.float32)
        inner: Array = np.zeros(1, np.float32)
        for fold in self.network.folds:
            of_fold: Array = np.zeros(1, np.float32)
            for flip in self.mirrored:
                logits = self._member(image, fold, flip)
                of_fold = of_fold + logits / len(self.mirrored)
                if self.members > 1:
                    p = self._activated(logits)
                    copies = copies + p / self.members
                    inner = inner + entropy(p, exclusive=self.bundle.exclusive) / self.members
            half = torch.from_numpy(of_fold).half()  # nnU-Net adds folds in half precision
            total = half if total is None else total.add_(half)
        assert total is not None
        mean = np.asarray(total.div_(len(self.network.folds)) if len(self.network.folds) > 1 else total)
        properties = json.loads(item[PROPERTIES])
        facts = self._image_facts(item, image)
        probabilities = self._probabilities(mean, properties)
        item["pred"] = MetaTensor(torch.from_numpy(probabilities.copy()), affine=_affine(item["file"]))
        if self.members == 1:
            return Case(probabilities, probabilities, None, item, facts)
        disagreement = np.maximum(entropy(copies, exclusive=self.bundle.exclusive) - inner, 0)
        back = self._way_back_of(np.concatenate([copies, disagreement[None]]), properties)
        return Case(probabilities, self._whole(back[:-1]), np.maximum(back[-1], 0), item, facts)

    def decide(self, case: Case) -> dict[str, Any]:
        """Write the label file of ``case.item`` with nnU-Net's writer."""
        import torch

        p = np.asarray(case.item["pred"])
        if self.bundle.exclusive:
            labels = p.argmax(axis=0)
        else:
            labels = np.zeros(p.shape[1:], np.int64)
            for value, probability in zip(self.plans.labels.regions_class_order, p, strict=True):
                labels[probability > 0.5] = value
        properties = json.loads(case.item[PROPERTIES])
        item = {**case.item, "pred": torch.from_numpy(_as_read(labels, properties)[None])}
        with own_input_errors():
            saved: dict[str, Any] = self.postprocessing[-1](item)
        return saved

    def _member(self, image: Tensor, fold: str, flip: tuple[int, ...]) -> Array:
        """Logits (K, *spatial) of one fold for one mirrored copy of each tile."""
        from torch import nn

        whole = self.network.folds
        self.network.folds = nn.ModuleDict({fold: mirrored(whole[fold], flip) if flip else whole[fold]})
        try:
            logits: Array = self.inferer(image, self.network)[0].float().cpu().numpy()
        finally:
            self.network.folds = whole
        if not np.isfinite(logits).all():
            raise InputError(f"the network of {self.bundle.source} gives values that are not finite for this image")
        return logits

    def _probabilities(self, logits: Array, properties: Mapping[str, Any]) -> Array:
        """(K, *spatial) on the voxels of the files, by nnU-Net."""
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

        plans = self.plans
        _, found = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans.manager, plans.configuration, plans.labels, properties, return_probabilities=True
        )
        return _as_stored(np.asarray(found, np.float32), properties)

    def _way_back_of(self, maps: Array, properties: Mapping[str, Any]) -> Array:
        """Maps (N, *preprocessed) on the voxels of the files; 0 where nnU-Net cropped."""
        plans = self.plans
        after = [properties["spacing"][axis] for axis in plans.manager.transpose_forward]
        before = list(plans.configuration.spacing)
        shape = properties["shape_after_cropping_and_before_resampling"]
        resampled = plans.configuration.resampling_fn_probabilities(
            maps, shape, before if len(before) == len(shape) else [after[0], *before], after
        )
        whole = np.zeros((len(maps), *properties["shape_before_cropping"]), np.float32)
        box = (slice(None), *(slice(*ends) for ends in properties["bbox_used_for_cropping"]))
        whole[box] = resampled
        return _as_stored(whole.transpose(0, *(axis + 1 for axis in plans.manager.transpose_backward)), properties)

    def _whole(self, p: Array) -> Array:
        return normalised(p) if self.bundle.exclusive else np.clip(p, 0, 1)

    @cached_property
    def plans(self) -> Any:
        """The bundle's ``Plans``: nnU-Net's managers of plans, configuration and labels."""
        with own_input_errors(), same_path():
            return self.parser.get_parsed_content("plans")


def _turn(properties: Mapping[str, Any]) -> Array | None:
    """nibabel's turn from the voxels that NibabelIOWithReorient reads to those of the file; None for other readers."""
    known = properties.get("nibabel_stuff", {})
    if "reoriented_affine" not in known:
        return None
    stored = nib.io_orientation(np.array(known["original_affine"]))
    turn: Array = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored)
    return turn


def _as_stored(maps: Array, properties: Mapping[str, Any]) -> Array:
    """Maps (N, Z, Y, X), as nnU-Net reads, in the file's order (N, X, Y, Z); of a picture (N, X, Y)."""
    stored, turn = maps.transpose(0, 3, 2, 1), _turn(properties)
    if turn is not None:
        stored = np.stack([nib.orientations.apply_orientation(each, turn) for each in stored])
    return np.ascontiguousarray(stored[..., 0] if _is_picture(properties) else stored)


def _as_read(labels: Array, properties: Mapping[str, Any]) -> Array:
    """Labels in the file's order, (X, Y, Z) or (X, Y), as nnU-Net reads: (Z, Y, X)."""
    volume, turn = labels[..., None] if _is_picture(properties) else labels, _turn(properties)
    if turn is not None:
        back = nib.orientations.ornt_transform(turn, nib.orientations.axcodes2ornt("RAS"))
        volume = nib.orientations.apply_orientation(volume, back)
    return np.ascontiguousarray(volume.transpose(2, 1, 0))


def _is_picture(properties: Mapping[str, Any]) -> bool:
    return str(properties["file"]).lower().endswith(PICTURES)


def _affine(file: str) -> Array:
    """From voxel (x, y, z) to RAS millimetres; the identity for a picture."""
    if file.lower().endswith(NIFTI):
        affine: Array = nib.load(file).affine
        return affine
    stated = read_image(Path(file), whole=False).affine
    return np.diag([-1, -1, 1, 1]) @ stated if stated.shape == (4, 4) else np.eye(4)  # ITK counts to the left
