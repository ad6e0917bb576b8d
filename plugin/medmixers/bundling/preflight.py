"""What a bundle checks before it starts: bad input ends in one line, not in a traceback.

The configs call these functions in ``initialize``. MONAI wraps an exception that a config raises into others
and prints them all; SystemExit passes through, prints its message alone and gives the exit status 1. torch is
imported only where weights are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from medmixers.bundling.datalist import nnunet_datalist, nnunet_images, nnunet_split
from medmixers.datasets.audit import audit_nnunet_dataset, label_names, read_image
from medmixers.datasets.raw_format import read_description

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
def check_training(
    *, dataset_dir: str, validation_every: int, spatial_dims: int, in_channels: int, out_channels: int
) -> None:
    """End the process unless the training cases can be read, split, and fit the network. imagesTs is not read.

    Args:
        dataset_dir: a DatasetNNN_Name folder in nnU-Net raw format.
        validation_every: of the split.
        spatial_dims: of the network.
        in_channels: of the network.
        out_channels: of the network: background and labels.
    """
    _check_dataset(dataset_dir, in_channels=in_channels, out_channels=out_channels)
    nnunet_split(dataset_dir, part="training", validation_every=validation_every)
    _audit(dataset_dir, spatial_dims, part="training")


@one_line
def check_evaluation(
    *, dataset_dir: str, ckpt_path: str, network: Any, spatial_dims: int, in_channels: int, out_channels: int
) -> None:
    """End the process unless the held-out cases (imagesTs, labelsTs) can be read, and there are weights.

    Args:
        dataset_dir: a DatasetNNN_Name folder in nnU-Net raw format.
        ckpt_path: file of the weights.
        network: the module that will load them.
        spatial_dims: of the network.
        in_channels: of the network.
        out_channels: of the network: background and labels.
    """
    read_weights(ckpt_path, network)
    _check_dataset(dataset_dir, in_channels=in_channels, out_channels=out_channels)
    nnunet_datalist(dataset_dir, held_out=True)
    _audit(dataset_dir, spatial_dims, part="test")


@one_line
def check_inference(
    *,
    dataset_dir: str,
    images: Sequence[Any],
    ckpt_path: str,
    network: Any,
    load_pretrain: bool,
    spatial_dims: int,
    in_channels: int,
) -> None:
    """End the process unless there are weights and readable images.

    Args:
        dataset_dir: named in the message where ``images`` is empty.
        images: paths, or lists of the channels' paths.
        ckpt_path: file of the weights.
        network: the module that will load them.
        load_pretrain: False predicts with random weights, on purpose.
        spatial_dims: of the network.
        in_channels: of the network.
    """
    if load_pretrain:
        read_weights(ckpt_path, network, hint="; --load_pretrain False predicts with untrained weights")
    if not images:
        nnunet_images(dataset_dir)  # raises and says what is missing
        raise ValueError("the datalist is empty: there is no image to predict")
    for entry in images:
        files = [entry] if isinstance(entry, (str, Path)) else list(entry)
        if len(files) != in_channels:
            raise ValueError(f"{files[0]!r} has {len(files)} channel files; the network takes {in_channels}")
        for file in files:
            _check_image(file, spatial_dims)


def _audit(dataset_dir: str, spatial_dims: int, *, part: str) -> None:
    axes = len(audit_nnunet_dataset(dataset_dir, parts=(part,)).shapes[0])
    if axes != spatial_dims:
        raise ValueError(f"the images of {dataset_dir!r} are {axes}D; the network takes {spatial_dims}D images")


def _check_image(file: str | Path, spatial_dims: int) -> None:
    """A NIfTI file must have the network's dimensions and finite values; other formats are left to MONAI."""
    if not str(file).endswith((".nii", ".nii.gz")):
        return
    image = read_image(Path(file))
    if len(image.shape) != spatial_dims:
        raise ValueError(f"{str(file)!r} has the shape {image.shape}; the network takes {spatial_dims}D images")
    if not image.data.any():
        raise ValueError(f"{str(file)!r} is 0 in all of its {image.data.size} voxels")


def read_weights(ckpt_path: str, network: Any, *, hint: str = "") -> dict[str, Any]:
    """The tensors of a file: they must have the names and shapes of the network's, flat or as ``model`` of a state.

    Raises:
        FileNotFoundError: no such file; the message ends with ``hint``.
        ValueError: no weights, or not this network's.
    """
    if not Path(ckpt_path).is_file():
        raise FileNotFoundError(
            f"no weights at {ckpt_path!r}: this bundle is untrained; train it, or give --ckpt_path FILE{hint}"
        )
    import torch  # only here: rendering a bundle and reading its data lists do without

    try:
        content = torch.load(ckpt_path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything: torch's unpickler runs what the bytes say
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{ckpt_path!r} cannot be read as weights: {reason}") from error
    weights = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{ckpt_path!r} holds no weights: a dict of tensors is needed, or one under 'model'")
    expected = network.state_dict()
    wrong = expected.keys() ^ weights.keys()
    wrong |= {name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape}
    if wrong:
        raise ValueError(
            f"{ckpt_path!r} holds the weights of another network, or of other options: {len(wrong)} tensors are "
            f"missing, unknown or of another shape, {min(wrong)!r} for example"
        )
    return {name: weights[name] for name in expected}


def _check_dataset(dataset_dir: str, *, in_channels: int, out_channels: int) -> None:
    content = read_description(Path(dataset_dir))
    where = str(Path(dataset_dir) / "dataset.json")
    channels = content["channel_names"]
    if len(channels) != in_channels:
        raise ValueError(f"{where!r} names {len(channels)} channels; the network takes {in_channels}")
    values = list(label_names(content))
    if values != list(range(out_channels)):
        raise ValueError(f"{where!r} has the labels {values}; the network has {list(range(out_channels))}")
