"""How all entries of a comparison train: recipe, length, patch and batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from medmixers.recipes import RECIPES
from medmixers.study.engine.lines import Reader

TRAIN_KEYS = ("recipe", "epochs", "iterations", "batch_size", "patch_size", "gpu_memory_gb", "gradient_norms")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Equal for all entries on a data set. None keeps the recipe's or nnU-Net's own value.

    Args:
        recipe: name in ``RECIPES``.
        epochs: length of the training.
        iterations: batches per epoch in nnU-Net; a bundle's epoch takes each training image once.
        batch_size: patches per update of a bundle's batch; nnU-Net's batch.
        patch_size: in voxels, of a bundle; nnU-Net plans its own, which all entries then take.
        gpu_memory_gb: for nnU-Net's planner.
        gradient_norms: record the norm of each layer's gradient.
    """

    recipe: str | None = None
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int | None = None
    patch_size: tuple[int, ...] | None = None
    gpu_memory_gb: float | None = None
    gradient_norms: bool = False


def read_training(reader: Reader, default: Training) -> Training:
    """The keys of ``train``; those that are absent come from ``default``."""
    reader.known(*TRAIN_KEYS)
    patch = reader.content.get("patch_size")
    if patch is not None:
        sizes = patch if isinstance(patch, list) else []
        if len(sizes) not in (2, 3) or not all(type(size) is int and size > 0 for size in sizes):
            reader.fault("patch_size", f"patch_size must be a list of 2 or 3 whole numbers, got {patch!r}")
            patch = None
    return replace(
        default,
        recipe=reader.choice("recipe", RECIPES) or default.recipe,
        epochs=reader.whole("epochs", default.epochs),
        iterations=reader.whole("iterations", default.iterations),
        batch_size=reader.whole("batch_size", default.batch_size),
        patch_size=tuple(patch) if patch is not None else default.patch_size,
        gpu_memory_gb=reader.number("gpu_memory_gb", default.gpu_memory_gb),
        gradient_norms=reader.flag("gradient_norms", default.gradient_norms),
    )
