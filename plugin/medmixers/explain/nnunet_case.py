"""Cases of a model that nnU-Net trained, on the voxels of the image file.

nnU-Net's own reader and preprocessor prepare the case. The network is rebuilt from the plans that are saved with the
weights, so neither its trainer nor ``nnUNet_extTrainer`` is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray
from torch import Tensor, nn

from medmixers.checkpoints import read_checkpoint, read_weights
from medmixers.errors import InputError, MissingFileError
from medmixers.explain.bundle_case import parsed_bundle
from medmixers.explain.case import Case, check_voxel
from medmixers.explain.source import channel_names, is_picture, read_source
from medmixers.progress import Announce, silent

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


class NnunetModel:
    """A trained model, without code from its checkpoint being run.

    Args:
        folder: of nnU-Net's results, ``.../TRAINER__PLANS__CONFIGURATION`` with plans.json and fold_X.
        fold: fold of the weights; the first found by default.
        checkpoint: file name of the weights.
        device: as torch names it.

    Raises:
        MissingFileError: a folder or file is missing.
        InputError: the second stage of a cascade.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        fold: int | str | None = None,
        checkpoint: str = "checkpoint_final.pth",
        device: str = "cpu",
    ) -> None:
        self.folder, self.device = Path(folder), device
        weights = _weights_file(self.folder, fold, checkpoint)
        self.plans, self.configuration, self.dataset_json, network = _load_model(self.folder, weights)
        self.network = network.to(device).eval()

    def case(self, files: Sequence[Path], *, announce: Announce = silent) -> NnunetCase:
        """A case, of one file per channel in the order of dataset.json, or a picture with all of them.

        Raises:
            InputError: a wrong number of files, or one with a shape or values that the model cannot take.
        """
        channels = len(channel_names(self.dataset_json))
        if len(files) != channels and not (is_picture(files[0]) and len(files) == 1):
            raise InputError(f"the model in {self.folder} takes {channels} image files, got {len(files)}")
        spatial_dims = len(self.configuration.patch_size)
        if is_picture(files[0]):
            self._check_picture(files[0])
        else:
            _check_images(files, spatial_dims)
        announce("preprocess the image")
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        paths = [str(path) for path in files]
        data, _, properties = preprocessor.run_case(paths, None, self.plans, self.configuration, self.dataset_json)
        if len(data) != channels:
            raise InputError(f"{files[0]} has {len(data)} channels; the model in {self.folder} takes {channels}")
        image = torch.from_numpy(data).float().to(self.device)
        return NnunetCase(self, image[None] if spatial_dims == 3 else image.transpose(0, 1), properties, files[0])

    def _check_picture(self, file: Path) -> None:
        """Raise InputError for a picture of another kind than the data set's: nnU-Net's reader may misread it."""
        ending = self.dataset_json["file_ending"]
        if not file.name.lower().endswith(ending.lower()):
            raise InputError(f"{file} must end in {ending}, as the images of the model in {self.folder}")


class NnunetBundleModel(NnunetModel):
    """A bundle that was made of an nnU-Net model; one of its folds.

    The configs of a bundle are code that runs: load bundles of people you trust.

    Args:
        bundle: its folder.
        fold: the first one by default.
        checkpoint: file of the weights; None takes models/model.pt of the bundle.
        device: as torch names it.

    Raises:
        MissingFileError: there are no weights.
        InputError: weights of another network, or no such fold.
    """

    def __init__(
        self, bundle: Path, *, fold: int | str | None = None, checkpoint: str | None = None, device: str = "cpu"
    ) -> None:
        _, (network, plans) = parsed_bundle(bundle, ("network", "plans"), device=device)
        network.load_state_dict(read_weights(checkpoint or str(bundle / "models" / "model.pt"), network))
        folds = list(network.folds)
        if fold is not None and str(fold) not in folds:
            raise InputError(f"{bundle} has no fold {fold}; valid: {', '.join(folds)}")
        self.folder, self.device = bundle, device
        self.plans, self.configuration, self.dataset_json = plans.manager, plans.configuration, plans.dataset
        self.network = network.folds[folds[0] if fold is None else str(fold)].eval()


class NnunetCase(Case):
    """A case of an nnU-Net model; of a 2D model, its slices are the batch."""

    def __init__(self, model: NnunetModel, image: Tensor, properties: dict[str, Any], file: Path) -> None:
        self.source = read_source(file)
        spacing = () if self.source.is_picture else model.configuration.spacing
        super().__init__(model.network, image, model.configuration.patch_size, spacing)
        self.plans, self.configuration, self.properties = model.plans, model.configuration, properties
        if self.source.is_picture and properties["shape_before_cropping"][:0:-1] != self.source.shape:
            raise InputError(
                f"{file} is rotated by its EXIF orientation, which nnU-Net does not apply; save it upright"
            )

    def place(self, voxel: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        affine = self.source.affine
        check_voxel(voxel, self.source.shape)
        point = affine @ [*voxel, *[0] * (3 - len(voxel)), 1]
        read = np.rint(np.linalg.solve(_read_affine(self.properties, affine), point)).astype(int)[2::-1]
        box = np.array(self.properties["bbox_used_for_cropping"])
        cropped = read[list(self.plans.transpose_forward)] - box[:, 0]
        before = np.array(self.properties["shape_after_cropping_and_before_resampling"])
        if not ((cropped >= 0) & (cropped < before)).all():
            raise InputError(f"voxel {','.join(map(str, voxel))} is in the border of zeros that nnU-Net crops away")
        sizes = self.image.shape[2:]
        is_2d = len(sizes) == 2
        now = np.array([before[0], *sizes] if is_2d else sizes)
        place = tuple(map(int, (cropped + 0.5) * now / before))
        return (place[0], place[1:]) if is_2d else (0, place)

    def on_file(self, maps: Tensor) -> nib.Nifti1Image:
        on_case = maps[0] if maps.ndim == 5 else maps.transpose(0, 1)
        read = _undo_preprocessing(on_case.cpu(), self.properties, self.plans, self.configuration)
        return _in_file_geometry(read, self.properties, self.source.affine)


def _check_images(paths: Sequence[Path], spatial_dims: int) -> None:
    """Refuse what nnU-Net would accept: it reads a time series as channels, and computes with NaN."""
    shapes = []
    for path in paths:
        try:
            voxels = np.asanyarray(nib.load(path).dataobj)
        except (ImageFileError, EOFError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        if voxels.ndim != 3 and not (voxels.ndim == 2 and spatial_dims == 2):
            raise InputError(f"{path} must be one {spatial_dims}D image without time or channels, got {voxels.shape}")
        if spatial_dims == 3 and 1 in voxels.shape:
            raise InputError(f"{path} is a single slice, shape {voxels.shape}; the model takes 3D images")
        if not np.isfinite(voxels).all():
            raise InputError(f"{path} holds {np.count_nonzero(~np.isfinite(voxels))} values that are NaN or infinite")
        shapes.append(voxels.shape)
    if len(set(shapes)) > 1:
        raise InputError(f"the channels of a case must have one shape, got {', '.join(map(str, shapes))}")


def _weights_file(model_folder: Path, fold: int | str | None, checkpoint: str) -> Path:
    for name in ("plans.json", "dataset.json"):
        if not (model_folder / name).is_file():
            raise MissingFileError(f"{model_folder} is not a trained nnU-Net model: it has no {name}")
    found = sorted(model_folder.glob(f"fold_*/{checkpoint}"))
    wanted = [path for path in found if fold is None or path.parent.name == f"fold_{fold}"]
    if not wanted:
        which = "any fold" if fold is None else f"fold_{fold}"
        if found:
            there = f"folds that have: {', '.join(path.parent.name for path in found)}"
        else:  # such as a training that did not end
            others = sorted({path.name for path in model_folder.glob("fold_*/*.pth")})
            there = f"there are: {', '.join(f'--checkpoint {name}' for name in others) or 'no weights'}"
        raise MissingFileError(f"{model_folder} has no {checkpoint} of {which}; {there}")
    return wanted[0]


def _load_model(
    model_folder: Path, weights_file: Path
) -> tuple[PlansManager, ConfigurationManager, dict[str, Any], nn.Module]:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset_json = json.loads((model_folder / "dataset.json").read_text())
    saved = read_checkpoint(weights_file)
    own_plans = saved["init_args"].get("plans")  # of this fold; a portable model has plans.json alone
    plans = PlansManager(own_plans or json.loads((model_folder / "plans.json").read_text()))
    configuration = plans.get_configuration(saved["init_args"]["configuration"])
    if configuration.previous_stage_name is not None:
        raise InputError(f"{model_folder} is the second stage of a cascade; attention of those is not supported")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(channel_names(dataset_json)),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        allow_init=False,
        deep_supervision=False,
    )
    network.load_state_dict(saved["network_weights"])
    return plans, configuration, dataset_json, network


def _undo_preprocessing(
    maps: Tensor, properties: dict[str, Any], plans: PlansManager, configuration: ConfigurationManager
) -> NDArray[np.float32]:
    """maps: (N, *preprocessed) -> (N, *as read), by the steps of nnU-Net's export of probabilities."""
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    cropped_shape = properties["shape_after_cropping_and_before_resampling"]
    current = configuration.spacing
    if len(current) < len(cropped_shape):  # a 2D configuration leaves the slices as they are
        current = [spacing[0], *current]
    resampled = np.asarray(configuration.resampling_fn_probabilities(maps, cropped_shape, current, spacing))
    whole = np.zeros((len(resampled), *properties["shape_before_cropping"]), dtype=np.float32)
    box = tuple(slice(start, end) for start, end in properties["bbox_used_for_cropping"])
    for target, source in zip(whole, resampled, strict=True):
        target[box] = source
    return whole.transpose([0, *(axis + 1 for axis in plans.transpose_backward)])


def _in_file_geometry(
    maps: NDArray[np.float32], properties: dict[str, Any], affine: NDArray[np.float64]
) -> nib.Nifti1Image:
    """maps: (N, Z, Y, X) as nnU-Net's reader orders axes -> a 4D image (X, Y, Z, N) on the file's voxels."""
    read_affine = _read_affine(properties, affine)
    image = nib.Nifti1Image(np.ascontiguousarray(maps.transpose(3, 2, 1, 0)), read_affine)
    back = ornt_transform(io_orientation(read_affine), io_orientation(affine))
    return image.as_reoriented(back)


def _read_affine(properties: dict[str, Any], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine of the voxels as nnU-Net's reader ordered them, given the file's."""
    found: NDArray[np.float64] = properties.get("nibabel_stuff", {}).get("reoriented_affine", affine)
    return found
