"""A bundle's row that follows a data set: spacing, patch, batch and updates per epoch as nnU-Net plans them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medmixers.bundles.catalog import BundleRow
from medmixers.tasks import TaskSpec
from medmixers.variants import NETWORKS

# Positions per axis that mixers at a cost of positions squared get at most, by the number of axes.
MOST_POSITIONS = {"global_attention": {2: 96, 3: 24}, "random_mixing": {2: 64, 3: 16}, "spatial_fc": {2: 64, 3: 16}}
STEM_STRIDE = 4  # of a MetaFormer, where no option says otherwise
ITERATIONS_PER_EPOCH = 250  # nnU-Net's, of random patches
MOST_CACHED_GIB = 8.0


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """What nnU-Net's planner takes for a data set. Axes are the bundle's: x, y, z.

    Args:
        cases: number of training cases, those that validate among them.
        batch_size: of nnU-Net's plan; for whole images by its rule for batches, see ``batch_rule``.
        batch_rule: where the batch comes from, in words.
        spacing: target voxel size in mm; None for pictures and whole images.
        median_spacing: of the cases, per axis; None where ``spacing`` is None.
        patch_size: in voxels; None for whole images.
        median_size: voxels of the median case at the spacing of the task, or at ``spacing``; None for whole images.
        cached_gib: memory of all preprocessed images and labels; 0 for whole images, which are not planned.
    """

    cases: int
    batch_size: int
    batch_rule: str
    spacing: tuple[float, ...] | None = None
    median_spacing: tuple[float, ...] | None = None
    patch_size: tuple[int, ...] | None = None
    median_size: tuple[int, ...] | None = None
    cached_gib: float = 0.0


def planned_task(task: TaskSpec, plan: DataPlan) -> tuple[TaskSpec, list[str]]:
    """The task with nnU-Net's spacing, unless it has one of its own; and a line on it."""
    if plan.spacing is None:
        return task, []
    theirs = f"{_by(plan.spacing)} mm"
    if task.spacing is not None:
        return task, [f"spacing {_by(task.spacing)} mm: of the task (nnU-Net would take {theirs})"]
    longer = [
        axis for axis, pair in enumerate(zip(plan.spacing, plan.median_spacing or (), strict=True)) if _differ(*pair)
    ]
    reason = "median of the cases"
    if longer:
        axis = "xyz"[longer[0]]
        reason += f", along {axis} their 10 % percentile, since voxels are more than 3 times longer there"
    return replace(task, spacing=plan.spacing), [f"spacing {theirs}: {reason}"]


def planned_row(
    row: BundleRow, plan: DataPlan, *, keeps_size: bool, lines: Sequence[str] = ()
) -> tuple[BundleRow, list[str]]:
    """The row with the plan's patch, batch and updates per epoch; and a line with the reason for each.

    Args:
        row: of :func:`planned_task`'s task.
        plan: of its data set.
        keeps_size: the row's ``roi_size`` was given by the user.
        lines: of :func:`planned_task`.
    """
    lines = list(lines)
    if plan.patch_size is not None and row.roi_size is not None:
        if keeps_size:
            lines.append(f"roi_size {_by(row.roi_size)}: as given (nnU-Net would take {_by(plan.patch_size)})")
        else:
            size, reason = _patch(row, plan)
            row = replace(row, roi_size=size, note=row.note if size == row.roi_size else "")
            lines.append(f"roi_size {_by(size)}: {reason}")
    if (
        NETWORKS[row.network].encoder
        and row.task_spec.task == "segmentation"
        and "stem_stride" not in row.network_options
    ):
        lines.append(f"stem_stride {STEM_STRIDE}: of the network; 2 draws finer structures and takes more memory")
    row, of_batch = _with_batch(row, plan)
    lines += of_batch
    if plan.cached_gib > 0:
        fits = plan.cached_gib <= MOST_CACHED_GIB
        rule = f"at most {MOST_CACHED_GIB:g} GiB are kept in memory"
        row = replace(row, cache_rate=1.0 if fits else 0.0)
        lines.append(f"cache_rate {row.cache_rate:g}: all cases take {plan.cached_gib:.2g} GiB, {rule}")
    text = f"Chosen for {plan.cases} training cases by nnU-Net's rules: {'; '.join(lines)}."
    return replace(row, note=f"{row.note} {text}".strip()), lines


def positions_limit(network: str, options: Mapping[str, Any], axes: int) -> tuple[int, str] | None:
    """The most voxels per axis of a patch, and the token mixer that asks for it; None where none does."""
    chosen = {**NETWORKS[network].arguments, **options}
    mixer, stem = chosen.get("mixer", ()), int(chosen.get("stem_stride", STEM_STRIDE))
    stages = [mixer] if isinstance(mixer, str) else list(mixer)
    limits = [
        (MOST_POSITIONS[name][axes] * stem * 2**stage, name)
        for stage, name in enumerate(stages)
        if name in MOST_POSITIONS
    ]
    return min(limits, default=None)


def _patch(row: BundleRow, plan: DataPlan) -> tuple[tuple[int, ...], str]:
    patch = plan.patch_size or ()
    reason = f"nnU-Net's patch for its own network in 8 GB, for a median case of {_by(plan.median_size or ())} voxels"
    limit = positions_limit(row.network, row.network_options, len(patch))
    if limit is None or max(patch) <= limit[0]:
        return patch, reason
    cut = tuple(min(edge, limit[0]) for edge in patch)
    return (
        cut,
        f"{reason}, {_by(patch)}, cut to {limit[0]} per axis: {limit[1]} costs memory or time by positions squared",
    )


def _with_batch(row: BundleRow, plan: DataPlan) -> tuple[BundleRow, list[str]]:
    """A recipe with a larger batch than nnU-Net's gets nnU-Net's; of patches, also its iterations per epoch."""
    recipe = row.training
    batch = recipe.batch_size * recipe.accumulate_batches * recipe.patches_per_image
    if batch <= plan.batch_size:
        return row, [f"batch_size {recipe.batch_size}: of the recipe (nnU-Net would take {plan.batch_size})"]
    updates = -(-plan.cases // (recipe.batch_size * recipe.accumulate_batches))
    reason = f"{plan.batch_rule}; updates per epoch with the recipe's batch of {batch}: {updates}"
    lines = [f"batch_size {plan.batch_size}, accumulate_batches 1: {reason}"]
    iterations = None
    if row.roi_size is not None:
        iterations = ITERATIONS_PER_EPOCH
        once = -(-plan.cases // plan.batch_size)
        lines.append(f"num_iterations_per_epoch {iterations}: nnU-Net's; one pass over the cases would be about {once}")
    return replace(row, batch_size=plan.batch_size, num_iterations_per_epoch=iterations), lines


def _by(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > 1e-4 * max(one, other)
