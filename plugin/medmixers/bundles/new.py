"""A bundle of a user's own task, network and token mixer."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from medmixers.bundles.catalog import BundleRow, study_row
from medmixers.bundles.render.bundle import render_bundle
from medmixers.errors import ExistingFileError, InputError, MissingFileError
from medmixers.factory import create_network, list_mixers, network_of_weights
from medmixers.files import written_whole
from medmixers.tasks import TASKS, TaskSpec
from medmixers.tasks.from_yaml import load_task
from medmixers.variants import NETWORKS

ROI_SIZES = {2: (256, 256), 3: (96, 96, 96)}
ROI_SIZES_OF = {2: {}, 3: {"random_mixing": (64, 64, 64), "spatial_fc": (64, 64, 64)}}  # memory: positions squared

RAD_DINO = "medmixers.networks.rad_dino."


def new_bundle(
    task: str,
    *,
    network: str | None = None,
    mixer: str | None = None,
    recipe: str | None = None,
    out: str | Path = ".",
    weights: str | Path | None = None,
    kernel_size: int | None = None,
) -> Path:
    """Write the bundle of a task to ``out/TASK_MIXER`` or ``out/TASK_NETWORK``.

    Args:
        task: a YAML file (:func:`medmixers.tasks.from_yaml.load_task`), or a name in ``TASKS``.
        network: name in ``NETWORKS``; needed unless ``weights`` tells it.
        mixer: name in ``TOKEN_MIXERS``, for a MetaFormer with one token mixer.
        recipe: name in ``RECIPES``; by default that of Keuth et al. 2025 for the kind of task.
        out: an existing folder, or one to make.
        weights: checkpoint of the code of Keuth et al. or of the released Token-UNet; it decides the network, and the
            bundle gets its weights as models/model.pt.
        kernel_size: kernel of the token mixer; with ``weights``, of a checkpoint that does not tell it.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: an unknown name, or parts that do not fit; FileNotFoundError: no such YAML file;
            FileExistsError: the bundle's folder exists.
    """
    spec = load_task(task) if str(task).endswith((".yaml", ".yml")) else TASKS[task]
    if weights is not None:
        if network is not None:
            raise InputError("--weights decides the network: leave --network out")
        row = _row_of_weights(spec, weights, mixer, kernel_size, recipe or default_recipe(spec))
        return write_bundle(row, Path(out), weights=weights)
    if network is None:
        raise InputError("give --network NAME, or --weights FILE of the authors' code")
    row = _row(spec, network, mixer, recipe or default_recipe(spec))
    if kernel_size is not None:
        row = replace(row, network_options={**row.network_options, "kernel_size": kernel_size})
    return write_bundle(row, Path(out))


def write_bundle(row: BundleRow, out: Path, *, weights: str | Path | None = None) -> Path:
    """Write a row's files to ``out/NAME``, whole or not at all. Raises FileExistsError where that exists.

    Args:
        row: the bundle.
        out: folder of the bundle's folder.
        weights: checkpoint that fits the row's network, for models/model.pt.
    """
    target = out / row.name
    if target.exists():
        raise ExistingFileError(f"{target} exists; remove it, or give another --out")
    licence = distribution("medmixers").read_text("licenses/LICENSE")
    if licence is None:
        raise MissingFileError("this installation of medmixers has no LICENSE; install it again")
    with written_whole(target) as partial:
        for path, text in render_bundle(row, package_version=version("medmixers"), licence=licence).items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_text(text, encoding="utf-8")
        if weights is not None:
            _write_weights(row, weights, partial / "models" / "model.pt")
    return target


def _write_weights(row: BundleRow, weights: str | Path, file: Path) -> None:
    """Load a checkpoint into the row's network, exactly, and save the network's tensors."""
    import torch

    options: dict[str, Any] = {**row.network_options, **({"input_size": row.size} if row.is_bound_to_size else {})}
    channels = {"in_channels": len(row.task_spec.channels), "out_channels": row.task_spec.out_channels}
    options |= channels
    network = create_network(row.network, spatial_dims=len(row.size), **options, pretrained=weights)
    file.parent.mkdir(exist_ok=True)
    torch.save(network.state_dict(), file)


def _row_of_weights(
    task: TaskSpec, weights: str | Path, mixer: str | None, kernel_size: int | None, recipe: str
) -> BundleRow:
    """The bundle of an author's checkpoint. Raises InputError if its channels, classes or size are not the task's."""
    saved = network_of_weights(weights, mixer=mixer, kernel_size=kernel_size)
    channels, classes = len(task.channels), task.out_channels
    if (saved.in_channels, saved.out_channels) != (channels, classes):
        raise InputError(
            f"the checkpoint has {saved.in_channels} input and {saved.out_channels} output channels, task "
            f"{task.name!r} {channels} and {classes}"
        )
    whole = task.image_size is not None or task.task == "classification"
    size = task.image_size if whole else saved.input_size or ROI_SIZES[saved.spatial_dims]
    if size is None or len(size) != saved.spatial_dims or saved.input_size not in (None, tuple(size)):
        of = f"{saved.spatial_dims}D images of {saved.input_size or 'any size'}"
        raise InputError(f"the checkpoint is of {of}, task {task.name!r} has {size}")
    mixers = saved.options.get("mixer")
    return BundleRow(
        task_spec=task,
        network=saved.name,
        recipe=recipe,
        label=mixers if isinstance(mixers, str) else saved.name,
        network_options=saved.options,
        roi_size=None if whole else size,
        changelog={"0.1.0": f"Weights of a checkpoint of format {saved.format}."},
        note="The checkpoint does not hold how images were preprocessed: compare the intensities here with those of "
        "its training.",
    )


def default_recipe(task: TaskSpec) -> str:
    """The recipe of a task's bundles where none is given."""
    if task.task == "classification":
        return "keuth2025_classification"
    if task.image_size is not None:
        return "keuth2025_segmentation"
    return "tshimanga2026" if task.multi_label else "keuth2025_segmentation_volumes"  # random patches, or by label


def _row(task: TaskSpec, network: str, mixer: str | None, recipe: str) -> BundleRow:
    if not re.fullmatch(r"[a-z0-9_]+", task.name):
        raise InputError(f"the name of a task is a folder's: of a-z, 0-9 and '_' only, got {task.name!r}")
    if NETWORKS[network].target.startswith(RAD_DINO):
        raise InputError(f"network {network!r} is 2D and loads an encoder from a hub, which no bundle carries")
    takes_mixer = NETWORKS[network].encoder is not None and "mixer" not in NETWORKS[network].arguments
    if mixer is not None and not takes_mixer:
        valid = ", ".join(
            sorted(name for name, row in NETWORKS.items() if row.encoder and "mixer" not in row.arguments)
        )
        raise InputError(f"network {network!r} has no token mixer to choose; those that have: {valid}")
    roi_size = None if task.image_size is not None or task.task == "classification" else ROI_SIZES[task.spatial_dims]
    if mixer is None:
        return BundleRow(task_spec=task, network=network, recipe=recipe, label=network, roi_size=roi_size)
    if mixer not in list_mixers():
        raise InputError(f"unknown token mixer {mixer!r}; valid: {', '.join(list_mixers())}")
    smaller = ROI_SIZES_OF[task.spatial_dims] if roi_size else None
    return study_row(task, mixer, network=network, recipe=recipe, roi_size=roi_size, roi_size_of=smaller)
