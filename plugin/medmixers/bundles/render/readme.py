"""docs/README.md of a bundle, from its row."""

from __future__ import annotations

from medmixers.bundles.catalog import TUMOR_NETWORKS, BundleRow
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.overlays import writes_dicom
from medmixers.bundles.render.parts import averaging_options, flips, network_options, size_key
from medmixers.bundles.render.text import render_markdown
from medmixers.variants import NETWORKS


def readme(row: BundleRow) -> str:
    """docs/README.md. It is true with and without weights, so a packed bundle keeps it."""
    task = row.task_spec
    return render_markdown(
        "readme.md.j2",
        row=row,
        task=task,
        recipe=row.training,
        network=NETWORKS[row.network],
        classifies=task.task == "classification",
        volumes=task.spatial_dims == 3,
        writes_dicom=writes_dicom(row),
        writes_masks=task.multi_label and task.regions is None,
        labels=_labels(row),
        grid=_grid(row),
        loss=_loss(row),
        best_of=kind_of(row).best_of,
        options=list(row.network_options.items()),
        size_key=size_key(row),
        chosen=network_options(row),
        mirror_axes=averaging_options(row)["mirror_axes"],
        flips=flips(row),
        other_part="test" if row.evaluated_part == "validation" else "validation",
        family=_family(row),
    )


def _labels(row: BundleRow) -> str:
    task = row.task_spec
    listed = ", ".join(f"{key} {name}" for key, name in task.label_names.items())
    if task.regions is not None:
        values = "; ".join(f"{name} = {', '.join(map(str, ids))}" for name, ids in task.regions.items())
        return f"overlapping regions of the label values: {values}"
    if task.multi_label:
        return f"overlapping labels, one sigmoid channel each: {listed}"
    ignored = "" if task.ignore_label is None else f"; value {task.ignore_label} is ignored in loss and score"
    return f"labels: {listed}{ignored}"


def _grid(row: BundleRow) -> str:
    task, size = row.task_spec, " x ".join(map(str, row.size))
    oriented = "reoriented to RAS, " if task.spatial_dims == 3 else ""
    if row.roi_size is None:
        return f"whole images, {oriented}resized to {size} (x, y{', z' if task.spatial_dims == 3 else ''})"
    spacing = task.spacing and " x ".join(f"{value:g}" for value in task.spacing)
    grid = f"resampled to {spacing} mm" if spacing else "at their own resolution"
    seen = f"patches of {size}"
    if row.sees_slices:
        seen = f"the 2D network sees slices across the third axis, {size} at a time"
    return f"any size, {oriented}{grid}; {seen}"


def _loss(row: BundleRow) -> str:
    recipe = row.training
    if row.task_spec.task == "classification":
        if row.task_spec.multi_label:
            rule = "(negative / positive cases) ** 0.5"
            weighted = f", positive cases weighted by {rule}, at most {recipe.class_weight_ceiling:g}"
            return f"binary cross-entropy of each label{weighted if recipe.class_weight_ceiling else ''}"
        smoothing = f" with label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else ""
        ceiling = f", classes weighted by min({recipe.class_weight_ceiling:g}, frequency ** -0.5)"
        return f"cross-entropy{smoothing}{ceiling if recipe.class_weight_ceiling else ''}"
    if row.task_spec.multi_label:
        return "soft Dice + binary cross-entropy"
    if recipe.ignore_background:
        return "soft Dice + cross-entropy (both leave the background out)"
    return "soft Dice + cross-entropy (Dice leaves the background out)"


def _family(row: BundleRow) -> list[str]:
    """Networks that ``--network_name`` can take: those with the options that the configs give."""
    if row.network.startswith("med_"):
        return []
    if row.network in TUMOR_NETWORKS:
        return sorted(name for name in NETWORKS if name.startswith("token_unet") or name == "unet_star_star")
    family = row.network.rpartition("_")[0]
    return sorted(name for name in NETWORKS if name.rpartition("_")[0] == family)
