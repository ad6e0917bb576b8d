"""Token attention of a model that nnU-Net trained, in the geometry of the image file.

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

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import InputError, MissingFileError
from medmixers.explain.token_attention import attention_on_image, record_token_attention
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.progress import Announce, silent

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


def nnunet_token_attention(
    model_folder: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    fold: int | str | None = None,
    checkpoint: str = "checkpoint_final.pth",
    device: str = "cpu",
    announce: Announce = silent,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Token attention maps of one case, on the voxels of its image file.

    The whole case goes through the network at once, not in patches: attention is a softmax over all positions, so the
    maps of patches could not be stitched together. No code from the checkpoint is run.

    Args:
        model_folder: of nnU-Net's results, ``.../TRAINER__PLANS__CONFIGURATION`` with plans.json and fold_X.
        images: NIfTI file of the case, or one per channel in the order of dataset.json.
        out: 4D NIfTI file for the maps (.nii or .nii.gz), its last axis the tokens; None writes no file.
        fold: fold of the weights; the first found by default.
        checkpoint: file name of the weights.
        device: as torch names it.
        announce: called with the name of each step.

    Returns:
        Maps (N, X, Y, Z) in multiples of uniform attention, 0 outside nnU-Net's crop, and the image's affine.

    Raises:
        MissingFileError: a folder or file is missing.
        InputError: a file that is not NIfTI, or with a shape or values that the model cannot take; a wrong number of
            channels, a cascade, a network without tokens; an output that would replace an input.
    """
    model_folder = Path(model_folder)
    paths = [Path(path) for path in ([images] if isinstance(images, str | Path) else images)]
    _check_paths(paths, Path(out) if out is not None else None)
    weights_file = _weights_file(model_folder, fold, checkpoint)
    announce("load the model")
    plans, configuration, dataset_json, network = _load_model(model_folder, weights_file)
    channels = len(dataset_json["channel_names"])
    if len(paths) != channels:
        raise InputError(f"the model in {model_folder} takes {channels} image files, got {len(paths)}")
    _check_images(paths, len(configuration.patch_size))

    announce("preprocess the image")
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case([str(path) for path in paths], None, plans, configuration, dataset_json)
    announce("run the network")
    case = torch.from_numpy(data).float().to(device)
    maps = _forward(network.to(device).eval(), case, len(configuration.patch_size))
    announce("resample the maps")
    read = _undo_preprocessing(maps, properties, plans, configuration)
    image = _in_file_geometry(read, properties, paths[0])
    if out is not None:
        with written_whole(Path(out)) as partial:
            nib.save(image, partial)
    return np.moveaxis(np.asarray(image.dataobj), -1, 0), image.affine


def _check_paths(paths: list[Path], out: Path | None) -> None:
    for path in [*paths, *([out] if out else [])]:
        if not path.name.endswith((".nii", ".nii.gz")):
            raise InputError(f"{path} must be a NIfTI file, .nii or .nii.gz")
    for path in paths:
        if not path.is_file():
            raise MissingFileError(f"there is no image {path}")
    if out is not None:
        refuse_overwriting_inputs(out, paths)


def _check_images(paths: list[Path], spatial_dims: int) -> None:
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
        folds = ", ".join(path.parent.name for path in found) or "none"
        which = "any fold" if fold is None else f"fold_{fold}"
        raise MissingFileError(f"{model_folder} has no {checkpoint} of {which}; folds that have: {folds}")
    return wanted[0]


def _load_model(
    model_folder: Path, weights_file: Path
) -> tuple[PlansManager, ConfigurationManager, dict[str, Any], nn.Module]:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset_json = json.loads((model_folder / "dataset.json").read_text())
    plans = PlansManager(json.loads((model_folder / "plans.json").read_text()))
    saved = read_checkpoint(weights_file)
    configuration = plans.get_configuration(saved["init_args"]["configuration"])
    if configuration.previous_stage_name is not None:
        raise InputError(f"{model_folder} is the second stage of a cascade; attention of those is not supported")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(dataset_json["channel_names"]),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        allow_init=False,
        deep_supervision=False,
    )
    network.load_state_dict(saved["network_weights"])
    return plans, configuration, dataset_json, network


@torch.inference_mode()
def _forward(network: nn.Module, data: Tensor, spatial_dims: int) -> Tensor:
    """data: preprocessed case, (C, *spatial) -> (N, *spatial). A 2D network gets the slices as a batch."""
    x = data[None] if spatial_dims == 3 else data.transpose(0, 1)
    with record_token_attention(network) as recorded:
        network(x)
    stride = getattr(network, "stride", 8)
    maps = attention_on_image(recorded[-1], x.shape[2:], stride=stride).cpu()
    return maps[0] if spatial_dims == 3 else maps.transpose(0, 1)


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


def _in_file_geometry(maps: NDArray[np.float32], properties: dict[str, Any], image_file: Path) -> nib.Nifti1Image:
    """maps: (N, Z, Y, X) as nnU-Net's reader orders axes -> a 4D image (X, Y, Z, N) on the file's voxels."""
    affine = nib.load(image_file).affine
    read_affine = properties.get("nibabel_stuff", {}).get("reoriented_affine", affine)
    image = nib.Nifti1Image(np.ascontiguousarray(maps.transpose(3, 2, 1, 0)), read_affine)
    back = ornt_transform(io_orientation(read_affine), io_orientation(affine))
    return image.as_reoriented(back)
