"""A bundle of a user's own task, network and token mixer."""

from __future__ import annotations

import re
from importlib.metadata import distribution, version
from pathlib import Path

from medmixers.bundles.catalog import BundleRow, study_row
from medmixers.bundles.render.bundle import render_bundle
from medmixers.errors import ExistingFileError, InputError, MissingFileError
from medmixers.factory import list_mixers
from medmixers.files import written_whole
from medmixers.tasks import TASKS, TaskSpec
from medmixers.tasks.from_yaml import load_task
from medmixers.variants import NETWORKS

ROI_SIZES = {2: (256, 256), 3: (96, 96, 96)}
ROI_SIZES_OF = {2: {}, 3: {"random_mixing": (64, 64, 64), "spatial_fc": (64, 64, 64)}}  # memory: positions squared

RAD_DINO = "medmixers.networks.rad_dino."


def new_bundle(
    task: str, *, network: str, mixer: str | None = None, recipe: str | None = None, out: str | Path = "."
) -> Path:
    """Write the bundle of a task to ``out/TASK_MIXER`` or ``out/TASK_NETWORK``.

    Args:
        task: a YAML file (:func:`medmixers.tasks.from_yaml.load_task`), or a name in ``TASKS``.
        network: name in ``NETWORKS``.
        mixer: name in ``TOKEN_MIXERS``, for a MetaFormer with one token mixer.
        recipe: name in ``RECIPES``; by default that of Keuth et al. 2025 for the kind of task.
        out: an existing folder, or one to make.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: an unknown name, or parts that do not fit; FileNotFoundError: no such YAML file;
            FileExistsError: the bundle's folder exists.
    """
    spec = load_task(task) if str(task).endswith((".yaml", ".yml")) else TASKS[task]
    row = _row(spec, network, mixer, recipe or default_recipe(spec))
    return write_bundle(row, Path(out))


def write_bundle(row: BundleRow, out: Path) -> Path:
    """Write a row's files to ``out/NAME``, whole or not at all. Raises FileExistsError where that exists."""
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
    return target


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
