"""A bundle of a user's own task, network and token mixer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from medmixers.bundles.catalog import BundleRow, label_of, study_row
from medmixers.bundles.planned import DataPlan, planned_row, planned_task, positions_limit
from medmixers.bundles.render.bundle import render_bundle
from medmixers.errors import ExistingFileError, InputError, MissingFileError
from medmixers.factory import create_network, list_mixers, network_of_weights
from medmixers.files import written_whole
from medmixers.progress import Announce, silent
from medmixers.recipes import RECIPES
from medmixers.tasks import TASKS, TaskSpec
from medmixers.tasks.from_yaml import load_task
from medmixers.variants import NETWORKS

ROI_SIZES = {2: (256, 256), 3: (96, 96, 96)}

RAD_DINO = "medmixers.networks.rad_dino."


def read_task(task: str) -> TaskSpec:
    """A task by its name in ``TASKS`` or of a YAML file."""
    return load_task(task) if str(task).endswith((".yaml", ".yml")) else TASKS[task]


def new_bundle(
    task: str | TaskSpec,
    *,
    network: str | None = None,
    mixer: str | None = None,
    recipe: str | None = None,
    out: str | Path = ".",
    weights: str | Path | None = None,
    kernel_size: int | None = None,
    stem_stride: int | None = None,
    roi_size: tuple[int, ...] | None = None,
    plan: DataPlan | None = None,
    announce: Announce = silent,
    **network_options: Any,
) -> Path:
    """Write the bundle of a task to ``out/TASK_MIXER`` or ``out/TASK_NETWORK``.

    Args:
        task: a YAML file (:func:`medmixers.tasks.from_yaml.load_task`), a name in ``TASKS``, or the task.
        network: name in ``NETWORKS``; needed unless ``weights`` tells it.
        mixer: name in ``TOKEN_MIXERS``, for a MetaFormer; or one per stage, separated by commas.
        recipe: name in ``RECIPES``, or the end of one name; by default that of Keuth et al. 2025 for the kind of task.
        out: an existing folder, or one to make.
        weights: checkpoint of the code of Keuth et al. or of the released Token-UNet; it decides the network, and the
            bundle gets its weights as models/model.pt.
        kernel_size: kernel of the token mixer; with ``weights``, of a checkpoint that does not tell it.
        stem_stride: downsampling of a MetaFormer's stem, 4 by default.
        roi_size: patch in voxels, x, y, z; two values for a 3D task give a 2D network that sees slices.
        plan: of the data set that spacing, patch, batch and updates per epoch follow, where nothing else sets them.
        announce: called with each value that follows the plan, and its reason.
        network_options: further options of the network, as ``medmixers list options NETWORK`` lists them.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: an unknown name, or parts that do not fit; FileNotFoundError: no such YAML file;
            FileExistsError: the bundle's folder exists.
    """
    spec = task if isinstance(task, TaskSpec) else read_task(task)
    lines: list[str] = []
    if plan is not None:
        spec, lines = planned_task(spec, plan)
    recipe = default_recipe(spec) if recipe is None else recipe_name(recipe)
    if weights is not None:
        given = {"network": network, "stem_stride": stem_stride, "roi_size": roi_size, **network_options}
        if wrong := [f"--{name}" for name, value in given.items() if value is not None]:
            raise InputError(
                f"--weights decides the network: leave {', '.join(wrong)} out; for weights of another code than "
                "the authors' leave --weights out, and train with --pretrained_ckpt FILE"
            )
        row = _row_of_weights(spec, weights, mixer, kernel_size, recipe)
    elif network is None:
        raise InputError("give --network NAME, or --weights FILE of the authors' code")
    else:
        options = {"kernel_size": kernel_size, "stem_stride": stem_stride}
        options = {name: value for name, value in options.items() if value is not None} | network_options
        row = _row(spec, network, mixer, recipe, roi_size, options)
    if plan is not None:
        row, lines = planned_row(row, plan, keeps_size=roi_size is not None or weights is not None, lines=lines)
    if weights is None:
        _check_network(row)
    folder = write_bundle(row, Path(out), weights=weights)
    for line in lines:
        announce(line)
    return folder


def recipe_name(name: str) -> str:
    """A name in ``RECIPES``, given whole or by its end: "short" for "keuth2025_segmentation_short"."""
    ends = [each for each in RECIPES if each.endswith(f"_{name}")]
    return ends[0] if name not in RECIPES and len(ends) == 1 else name


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


def _build(row: BundleRow, **more: Any) -> Any:
    """The row's network. InputError: it has no such option, value or number of axes."""
    options: dict[str, Any] = {**row.network_options, **({"input_size": row.size} if row.is_bound_to_size else {})}
    channels, classes = len(row.task_spec.channels), row.task_spec.out_channels
    dims = len(row.size)
    return create_network(row.network, spatial_dims=dims, in_channels=channels, out_channels=classes, **options, **more)


def _check_network(row: BundleRow) -> None:
    """Build the row's network without memory: a wrong option is said before anything is written."""
    import torch

    with torch.device("meta"):
        _build(row)


def _write_weights(row: BundleRow, weights: str | Path, file: Path) -> None:
    """Load a checkpoint into the row's network, exactly, and save the network's tensors."""
    import torch

    network = _build(row, pretrained=weights)
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


def _row(
    task: TaskSpec,
    network: str,
    mixer: str | None,
    recipe: str,
    roi_size: tuple[int, ...] | None,
    options: Mapping[str, Any],
) -> BundleRow:
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
    names = [] if mixer is None else mixer.split(",")
    if unknown := [name for name in names if name not in list_mixers()]:
        raise InputError(f"unknown token mixer {unknown[0]!r}; valid: {', '.join(list_mixers())}")
    if len(names) > 1:
        mixer, options = None, {**options, "mixer": names}
    size = roi_size
    if roi_size is None and task.image_size is None and task.task != "classification":
        size = _default_size(network, mixer, options, task.spatial_dims)
    if mixer is not None:
        return study_row(task, mixer, network=network, recipe=recipe, roi_size=size, options=options)
    return BundleRow(
        task_spec=task, network=network, recipe=recipe, label=label_of(network), roi_size=size, network_options=options
    )


def _default_size(network: str, mixer: str | None, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
    mixing = {} if mixer is None else {"mixer": mixer}
    limit = positions_limit(network, {**mixing, **options}, dims)
    return tuple(edge if limit is None else min(edge, limit[0]) for edge in ROI_SIZES[dims])
