"""What a bundle checks before it starts: bad input ends in one line, not in a traceback. No torch here.

The configs call these functions in ``initialize``. MONAI wraps an exception that a config raises into others
and prints them all; SystemExit passes through, prints its message alone and gives the exit status 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from medmixers.bundling.datalist import nnunet_datalist, nnunet_images, read_dataset_json
from medmixers.datasets.audit import audit_nnunet_dataset

P = ParamSpec("P")


def one_line(check: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors that name bad input into SystemExit, which prints one line."""

    @wraps(check)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            check(*args, **kwargs)
        except (ValueError, OSError, LookupError) as error:
            raise SystemExit(f"medmixers: error: {error}") from error

    return wrapped


@one_line
def check_training(*, dataset_dir: str, spatial_dims: int, in_channels: int, out_channels: int) -> None:
    """End the process unless the training cases (imagesTr, labelsTr) can be read and fit the network.

    Args:
        dataset_dir: a DatasetNNN_Name folder in nnU-Net raw format.
        spatial_dims: of the network.
        in_channels: of the network.
        out_channels: of the network: background and labels.
    """
    _check_dataset(dataset_dir, in_channels=in_channels, out_channels=out_channels)
    nnunet_datalist(dataset_dir)
    _audit(dataset_dir, spatial_dims)


@one_line
def check_evaluation(
    *, dataset_dir: str, ckpt_path: str, spatial_dims: int, in_channels: int, out_channels: int
) -> None:
    """End the process unless the held-out cases (imagesTs, labelsTs) can be read, and there are weights."""
    _check_weights(ckpt_path)
    _check_dataset(dataset_dir, in_channels=in_channels, out_channels=out_channels)
    nnunet_datalist(dataset_dir, images="imagesTs", labels="labelsTs")
    _audit(dataset_dir, spatial_dims)


@one_line
def check_inference(
    *,
    dataset_dir: str,
    images: Sequence[Any],
    ckpt_path: str,
    load_pretrain: bool,
    spatial_dims: int,
    in_channels: int,
) -> None:
    """End the process unless there are weights and readable images.

    Args:
        dataset_dir: named in the message where ``images`` is empty.
        images: paths, or lists of the channels' paths.
        ckpt_path: file of the weights.
        load_pretrain: False predicts with random weights, on purpose.
        spatial_dims: of the network.
        in_channels: of the network.
    """
    if load_pretrain:
        _check_weights(ckpt_path, hint="; --load_pretrain False predicts with untrained weights")
    if not images:
        nnunet_images(dataset_dir)  # raises and says what is missing
    for entry in images:
        files = [entry] if isinstance(entry, (str, Path)) else list(entry)
        if len(files) != in_channels:
            raise ValueError(f"{files[0]!r} has {len(files)} channel files; the network takes {in_channels}")
        for file in files:
            _check_image(file, spatial_dims)


def _audit(dataset_dir: str, spatial_dims: int) -> None:
    axes = len(audit_nnunet_dataset(dataset_dir).shapes[0])
    if axes != spatial_dims:
        raise ValueError(f"the images of {dataset_dir!r} are {axes}D; the network takes {spatial_dims}D images")


def _check_image(file: str | Path, spatial_dims: int) -> None:
    """A NIfTI file must have the network's dimensions and finite values; other formats are left to MONAI."""
    if not str(file).endswith((".nii", ".nii.gz")):
        return
    try:
        image = nib.load(file)
        values = np.asanyarray(image.dataobj)
    except (ImageFileError, EOFError, zlib.error) as error:
        raise ValueError(f"{str(file)!r} cannot be read: {error}") from error
    if len(image.shape) != spatial_dims:
        raise ValueError(f"{str(file)!r} has the shape {image.shape}; the network takes {spatial_dims}D images")
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{str(file)!r} holds NaN or infinity in {bad} of {values.size} voxels")
    if not values.any():
        raise ValueError(f"{str(file)!r} is 0 in all of its {values.size} voxels")


def _check_weights(ckpt_path: str, *, hint: str = "") -> None:
    if not Path(ckpt_path).is_file():
        raise FileNotFoundError(
            f"no weights at {ckpt_path!r}: this bundle is untrained; train it, or give --ckpt_path FILE{hint}"
        )


def _check_dataset(dataset_dir: str, *, in_channels: int, out_channels: int) -> None:
    content = read_dataset_json(dataset_dir)
    where = str(Path(dataset_dir) / "dataset.json")
    channels = content["channel_names"]
    if len(channels) != in_channels:
        raise ValueError(f"{where!r} names {len(channels)} channels; the network takes {in_channels}")
    values = sorted(content["labels"].values(), key=str)
    if values != list(range(out_channels)):
        raise ValueError(f"{where!r} has the labels {values}; the network has {list(range(out_channels))}")
