"""What runs a bundle of an nnU-Net model: nnU-Net's own steps behind MONAI's interfaces.

``medmixers.nnunet.bundle`` writes configs that name these. Reading, cropping, normalising, resampling, tiling,
mirroring and writing are nnU-Net's functions, called as ``nnUNetv2_predict`` calls them: the segmentation is the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from torch import Tensor, nn

from medmixers.bundle_runtime.openvino_inference import openvino_compile
from medmixers.bundle_runtime.saved_probabilities import write_nnunet_json, write_npz
from medmixers.errors import InputError
from medmixers.files import written_whole

PROPERTIES = "nnunet_properties"  # batch key of the properties that undo the preprocessing


class FoldEnsemble(nn.Module):
    """The networks of a model's folds; the state dict has ``folds.FOLD.`` before each of nnU-Net's keys.

    Args:
        architecture: as nnU-Net's plans hold it: network_class_name, arch_kwargs, _kw_requires_import.
        in_channels: of the preprocessed image.
        out_channels: of the logits.
        folds: their names, as nnU-Net's folders have them.
    """

    def __init__(
        self, *, architecture: Mapping[str, Any], in_channels: int, out_channels: int, folds: Sequence[str]
    ) -> None:
        super().__init__()
        networks = {
            fold: get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                in_channels,
                out_channels,
                allow_init=False,
                deep_supervision=False,
            )
            for fold in folds
        }
        self.folds = nn.ModuleDict(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits of one tile: (B, in_channels, *patch_size) -> (B, out_channels, *patch_size)."""
        return torch.stack([fold(x) for fold in self.folds.values()]).mean(0)


class Plans:
    """plans.json and dataset.json of a model, and one configuration of them, as nnU-Net's functions take them."""

    def __init__(self, folder: str, *, configuration: str) -> None:
        self.dataset: dict[str, Any] = json.loads((Path(folder) / "dataset.json").read_text("utf-8"))
        self.manager = PlansManager(json.loads((Path(folder) / "plans.json").read_text("utf-8")))
        self.configuration = self.manager.get_configuration(configuration)
        self.labels = self.manager.get_label_manager(self.dataset)
        self.dims = len(self.configuration.patch_size)  # 2 takes volumes too, slice by slice

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.dataset.get("channel_names") or self.dataset["modality"])

    def case_name(self, properties: Mapping[str, Any]) -> str:
        """Name of the case whose first file the properties name."""
        # The ending is the data set's, perhaps a compound one. 0000 is the first channel; IXI_0001 may be a case's own.
        name = Path(properties["file"]).name.removesuffix(self.dataset["file_ending"])
        return name.removesuffix("_0000") or name


def openvino_compile_folds(network: FoldEnsemble, *, precision: str = "f32") -> FoldEnsemble:
    """:func:`medmixers.bundle_runtime.openvino_inference.openvino_compile` of the network of each fold."""
    for fold in network.folds.values():
        openvino_compile(fold, precision=precision)
    return network


class PlansTransform(MapTransform):
    """Base of the transforms that do as a model's plans say."""

    def __init__(self, keys: KeysCollection, *, plans: Plans) -> None:
        super().__init__(keys)
        self.plans = plans


class NnUNetPreprocessd(PlansTransform):
    """The files of a case -> nnU-Net's preprocessed image (C, *spatial), and under "nnunet_properties" how to undo it.

    The properties are JSON text, the one form that MONAI's collation keeps as it is.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Read and preprocess; a single path stands for a case of one channel."""
        result = dict(data)
        for key in self.key_iterator(result):
            files = [result[key]] if isinstance(result[key], str | Path) else list(result[key])
            preprocessor = self.plans.configuration.preprocessor_class(verbose=False)
            image, _, properties = preprocessor.run_case(
                list(map(str, files)), None, self.plans.manager, self.plans.configuration, self.plans.dataset
            )
            result[key] = torch.from_numpy(image).to(dtype=torch.float32, memory_format=torch.contiguous_format)
            properties["file"] = str(files[0])
            result[PROPERTIES] = json.dumps(properties, default=lambda value: value.tolist())  # of NumPy's arrays
        return result


class NnUNetInferer(Inferer):
    """nnU-Net's sliding window and mirroring with each fold of a :class:`FoldEnsemble`, and their mean.

    Args:
        plans: of the model.
        mirror_axes: spatial axes that may be mirrored; None for none.
        device: as torch names it.
        tile_step_size: in parts of the patch.
        use_mirroring: predict mirrored images too; eight times as long in 3D, and what nnU-Net does.
    """

    def __init__(
        self,
        *,
        plans: Plans,
        mirror_axes: Sequence[int] | None,
        device: str | torch.device,
        tile_step_size: float = 0.5,
        use_mirroring: bool = True,
    ) -> None:
        super().__init__()
        device = torch.device(device)
        self.plans = plans
        self.mirror_axes = None if mirror_axes is None else tuple(mirror_axes)
        self.predictor = nnUNetPredictor(
            tile_step_size=tile_step_size,
            use_mirroring=use_mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """inputs: preprocessed images (B, C, *spatial) -> half-precision logits (B, classes, *spatial) on the CPU."""
        if not isinstance(network, FoldEnsemble):
            raise InputError(f"network must be a FoldEnsemble, got {type(network).__name__}")
        each = [self._logits(image, network) for image in inputs]
        return each[0][None] if len(each) == 1 else torch.stack(each)  # no copy of one image's

    @torch.inference_mode()
    def _logits(self, image: Tensor, network: FoldEnsemble) -> Tensor:
        """The folds' sum in half precision, then its mean: the order of nnU-Net's additions, to the last bit."""
        total: Tensor | None = None
        for fold in network.folds.values():
            self.predictor.manual_initialization(
                fold,
                self.plans.manager,
                self.plans.configuration,
                [fold.state_dict()],
                self.plans.dataset,
                "nnUNetTrainer",
                self.mirror_axes,
            )
            logits = self.predictor.predict_logits_from_preprocessed_data(image)
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise InputError("the network has no folds")
        return total.div_(len(network.folds)) if len(network.folds) > 1 else total


class NnUNetSegmentationd(PlansTransform):
    """Logits -> segmentation (1, *as read), on the voxels of the files in the order of nnU-Net's reader (Z, Y, X).

    Args:
        keys: of the logits.
        plans: of the model.
        save_probabilities: write CASE.npz and CASE.pkl, dataset.json and plans.json to ``output_dir``, as
            ``nnUNetv2_predict --save_probabilities`` does.
        output_dir: the folder.
    """

    def __init__(
        self, keys: KeysCollection, *, plans: Plans, save_probabilities: bool = False, output_dir: str = "."
    ) -> None:
        super().__init__(keys, plans=plans)
        self.save_probabilities = save_probabilities
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Undo the preprocessing that ``nnunet_properties`` tells."""
        result = dict(data)
        for key in self.key_iterator(result):
            properties = json.loads(result[PROPERTIES])
            if not self.save_probabilities:
                result[key] = torch.from_numpy(segmented(np.asarray(result[key]), self.plans, properties))[None]
                continue
            segmentation, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
                np.asarray(result[key]),
                self.plans.manager,
                self.plans.configuration,
                self.plans.labels,
                properties,
                return_probabilities=True,
            )
            write_npz(self.output_dir / self.plans.case_name(properties), probabilities, properties)
            write_nnunet_json(self.output_dir, self.plans.dataset, self.plans.manager.plans)
            result[key] = torch.from_numpy(segmentation)[None]
        return result


def segmented(logits: NDArray[Any], plans: Plans, properties: Mapping[str, Any]) -> NDArray[Any]:
    """nnU-Net's segmentation of logits, on the voxels of the files, with one channel at a time at their size.

    nnU-Net resamples all channels before it compares them. Its resampling of a channel does not depend on the others.

    Args:
        logits: (K, *spatial), as nnU-Net's predictor returns them.
        plans: of the model.
        properties: that undo the preprocessing.
    """

    def resampled_and_decided(channels: NDArray[Any], *geometry: Any) -> NDArray[np.uint16]:
        resampled = (
            np.asarray(plans.configuration.resampling_fn_probabilities(channels[channel : channel + 1], *geometry))[0]
            for channel in range(len(channels))
        )
        return most_likely(resampled) if not plans.labels.has_regions else last_region(resampled, plans.labels)

    configuration = SimpleNamespace(
        spacing=plans.configuration.spacing, resampling_fn_probabilities=resampled_and_decided
    )
    labels = SimpleNamespace(
        foreground_labels=plans.labels.foreground_labels, convert_logits_to_segmentation=lambda decided: decided
    )
    segmentation: NDArray[Any] = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans.manager, configuration, labels, properties
    )
    return segmentation


def most_likely(channels: Iterator[NDArray[Any]]) -> NDArray[np.uint16]:
    """Number of the highest of the channels in each voxel; of equal ones the first, as NumPy's ``argmax``."""
    highest = next(channels).copy()
    segmentation = np.zeros(highest.shape, np.uint16)
    for number, logits in enumerate(channels, start=1):
        is_higher = logits > highest
        segmentation[is_higher] = number
        np.maximum(highest, logits, out=highest)
    return segmentation


def last_region(channels: Iterator[NDArray[Any]], labels: Any) -> NDArray[np.uint16]:
    """Value of the last region, in nnU-Net's order, that a voxel lies in. ``labels``: nnU-Net's manager of them."""
    segmentation: NDArray[np.uint16] | None = None
    for value, logits in zip(labels.regions_class_order, channels, strict=True):
        if segmentation is None:
            segmentation = np.zeros(logits.shape, np.uint16)
        segmentation[labels.apply_inference_nonlin(logits).numpy() > 0.5] = value
    if segmentation is None:
        raise InputError("the model has no regions")
    return segmentation


class NnUNetSaved(PlansTransform):
    """Write the segmentation with nnU-Net's writer to ``output_dir``/CASE, in the files' geometry and format."""

    def __init__(self, keys: KeysCollection, *, plans: Plans, output_dir: str) -> None:
        super().__init__(keys, plans=plans)
        self.output_dir = output_dir

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write, and hand on what came in."""
        result = dict(data)
        for key in self.key_iterator(result):
            properties, ending = json.loads(result[PROPERTIES]), self.plans.dataset["file_ending"]
            with written_whole(Path(self.output_dir) / f"{self.plans.case_name(properties)}{ending}") as partial:
                writer = self.plans.manager.image_reader_writer_class()
                writer.write_seg(np.asarray(result[key][0]), str(partial), properties)
                for other in partial.parent.iterdir():  # nnU-Net's Tiff3DIO writes the spacing to CASE.json
                    if other != partial:
                        os.replace(other, Path(self.output_dir) / other.name)
        return result
