"""docs/README.md of a bundle, from its row. No torch here."""

from __future__ import annotations

import textwrap

from medmixers.bundles.catalog import TUMOR_NETWORKS, BundleRow
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.parts import size_key
from medmixers.variants import NETWORKS

TEMPLATE = """\
# {title}

Bundle `{name}`, version {version}. **It ships without weights: it is untrained** and refuses \
to predict until it has been trained (`--allow_untrained True` predicts with random weights).

{intended_use}

## What it is
- Task: {task} of {spatial_dims}D {modality} images; channels: {channels}; {labels}.
- Network: {summary} (`medmixers.create_network("{network}", ...)`{options}).
- Input: {grid}; intensity: {intensity}. {note}
- Output: {output}
- Data: {data_source}.
  {licence}. {citation}

## Training
Recipe `{recipe}`: {optimizer}, learning rate {learning_rate} ({schedule}), weight decay {weight_decay}, {epochs} \
epochs, {batch}, {loss}{augmentation}. {notes}

{split} `models/model.pt` holds the weights of the best validation {best_of}, \
`models/resume_checkpoint_epoch=N.pt` the states of training: each start keeps its last two.

## Commands
Install medmixers, set `BUNDLE` to this folder and `DATA` to the data set: {format}

```bash
# train
python -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "$BUNDLE/configs/train.json" --dataset_dir "$DATA"

# {evaluates}
python -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "['$BUNDLE/configs/train.json','$BUNDLE/configs/evaluate.json']" --dataset_dir "$DATA"

# {predicts}
python -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "$BUNDLE/configs/inference.json" --dataset_dir "$DATA"

# train on 2 GPUs
torchrun --standalone --nproc_per_node 2 -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "['$BUNDLE/configs/train.json','$BUNDLE/configs/multi_gpu_train.json']" --dataset_dir "$DATA"
```

A training or an evaluation first checks the files, shapes and geometry of all its cases and the voxels of the first \
few; `medmixers dataset check DATA` reads them all.

`DATA` of a prediction may also be a folder of NIfTI{channel_files}, PNG or DICOM files, of folders that hold one \
DICOM series each, or one series.

Every top-level key of a config is an option: `--epochs 100`, `--learning_rate 0.0005`, `--batch_size 2`, \
`--{size_key} "{size}"`{kernel_option}, `--ckpt_dir FOLDER`, `--output_dir FOLDER`, `--num_workers 4`{fold_option}. \
A training goes on with `--resume_ckpt FILE` and the same `--epochs`, to the weights that it would have reached \
uninterrupted (only the patience of `--early_stop` begins anew), starts from other weights with `--pretrained_ckpt \
FILE`, stops early with `--early_stop True --patience 10`. An option of the network given for training must be given \
for evaluation and inference too. `--evaluated_part {other_part}` scores the {other_part} cases instead of the \
{evaluated_part} cases.{family_option}
MONAI checks no option's name: one that is misspelled is added to the config without a word, and nothing \
uses it. Compare the spelling with the keys of the config.

On several GPUs the cases are shared out evenly, so one may count twice.

## Limits
{limits}
"""


def readme(row: BundleRow) -> str:
    """docs/README.md."""
    task, recipe, kind = row.task_spec, row.training, kind_of(row)
    options = ", ".join(f"`{key}={value!r}`" for key, value in row.network_options.items())
    text = TEMPLATE.format(
        title=task.title,
        name=row.name,
        version=row.version,
        intended_use=task.intended_use,
        task=task.task,
        spatial_dims=task.spatial_dims,
        modality=task.modality,
        channels=", ".join(task.channels),
        labels=_labels(row),
        summary=NETWORKS[row.network].summary,
        network=row.network,
        options=f" with {options}" if options else "",
        grid=_grid(row),
        intensity=f"{task.intensity} {list(task.window)}" if task.window else task.intensity,
        note=row.note,
        output=_output(row),
        data_source=task.data_source.rstrip("."),
        licence=task.licence.rstrip("."),
        citation=task.citation,
        recipe=row.recipe,
        optimizer=recipe.optimizer,
        learning_rate=f"{recipe.learning_rate:g}",
        schedule=_schedule(row),
        weight_decay=f"{recipe.weight_decay:g}",
        epochs=row.epochs,
        batch=_batch(row),
        loss=_loss(row),
        augmentation=_augmentation(row),
        notes=recipe.notes,
        split=_split(row),
        best_of=kind.BEST_OF,
        format=_format(row),
        evaluates=_evaluates(row),
        predicts=_predicts(row),
        size_key=size_key(row),
        size=list(row.size),
        kernel_option=", `--kernel_size 5`" if "kernel_size" in row.network_options else "",
        fold_option=", `--fold 1`" if row.task_spec.has_raw_format else "",
        channel_files=_channel_files(row),
        evaluated_part=row.evaluated_part,
        other_part="test" if row.evaluated_part == "validation" else "validation",
        family_option=_family_option(row),
        limits=task.limits,
    )
    return "\n".join(_wrap(line.rstrip()) for line in text.splitlines()) + "\n"


def _labels(row: BundleRow) -> str:
    task = row.task_spec
    listed = ", ".join(f"{key} {name}" for key, name in task.label_names.items())
    if task.regions is not None:
        values = "; ".join(f"{name} = {', '.join(map(str, ids))}" for name, ids in task.regions.items())
        return f"overlapping regions of the label values: {values}"
    if task.multi_label:
        return f"overlapping labels, a sigmoid channel each: {listed}"
    ignored = "" if task.ignore_label is None else f"; value {task.ignore_label} counts neither in loss nor in score"
    return f"labels: {listed}{ignored}"


def _grid(row: BundleRow) -> str:
    task, size = row.task_spec, " x ".join(map(str, row.size))
    oriented = "reoriented to RAS, " if task.spatial_dims == 3 else ""
    if row.roi_size is None:
        return f"whole images, {oriented}resized to {size} (x, y{', z' if task.spatial_dims == 3 else ''})"
    spacing = task.spacing and " x ".join(f"{value:g}" for value in task.spacing)
    grid = f"resampled to {spacing} mm" if spacing else "in their own pixels"
    seen = (
        f"the 2D network sees slices across the third axis, {size} at a time"
        if row.sees_slices
        else f"patches of {size}"
    )
    return f"any size, {oriented}{grid}; {seen}"


def _output(row: BundleRow) -> str:
    task = row.task_spec
    if task.task == "classification":
        return "a CSV file with the probability of each class and the most probable one, a row a case."
    what = "one label map a case"
    if task.multi_label and task.regions is None:
        what = "one mask a label and case, CASE_LABEL"
    elif task.regions is not None:
        what = "one map of the data set's label values a case"
    return f"{what}, on the voxel grid of the input file, with its affine."


def _schedule(row: BundleRow) -> str:
    recipe = row.training
    warmup = f"linear warm-up of {recipe.warmup_epochs} epochs, " if recipe.warmup_epochs else ""
    return f"{warmup}one cosine cycle to {recipe.min_learning_rate:g}"


def _batch(row: BundleRow) -> str:
    recipe = row.training
    patches = "" if row.roi_size is None else f" of {recipe.patches_per_image} patch(es) each"
    images = recipe.batch_size * recipe.accumulate_batches
    steps = (
        f", {recipe.accumulate_batches} of them to a step (an epoch of fewer than {images} images is one step; "
        "`--accumulate_batches 4` makes more)"
    )
    steps = steps if recipe.accumulate_batches > 1 else ""
    return f"batches of {recipe.batch_size} image(s){patches}{steps}"


def _loss(row: BundleRow) -> str:
    recipe = row.training
    if row.task_spec.task == "classification":
        smoothing = f" with label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else ""
        ceiling = f", classes weighted by min({recipe.class_weight_ceiling:g}, frequency ** -0.5)"
        return f"cross-entropy{smoothing}{ceiling if recipe.class_weight_ceiling else ''}"
    if row.task_spec.multi_label:
        return "soft Dice + binary cross-entropy"
    background = "neither counts the background" if recipe.ignore_background else "Dice does not count the background"
    return f"soft Dice + cross-entropy ({background})"


def _augmentation(row: BundleRow) -> str:
    recipe = row.training
    affine = f", random affine matrices (identity + noise of standard deviation {recipe.affine_std:g})"
    return (affine if recipe.affine_std else "") + (", random crops and flips" if recipe.crop_and_flip else "")


def _split(row: BundleRow) -> str:
    task = row.task_spec
    unit = "case" if row.task_spec.has_raw_format else task.group_by or "case"
    rule = f"of the sorted {unit}s the first and every {task.validation_every}th after it validate"
    if row.task_spec.has_raw_format:
        return f"Where the data set has no splits_final.json, {rule} (`--fold 0`)."
    return f"Where datalist.json names no validation part, {rule}."


def _format(row: BundleRow) -> str:
    if row.task_spec.has_raw_format:
        return (
            "nnU-Net raw format, `DatasetNNN_Name` with `dataset.json`, `imagesTr`, `labelsTr`; `imagesTs`, `labelsTs` "
            "to evaluate and predict."
        )
    label = "a class id" if row.task_spec.task == "classification" else "a list of mask files, one a label"
    return (
        'a folder with `datalist.json`, `{"training": [{"image": FILE, "label": ...}, ...], "validation": [...], '
        f'"test": [...]}}`, where the label is {label}.'
    )


def _evaluates(row: BundleRow) -> str:
    if row.task_spec.task == "classification":
        return "score the test cases: eval/metrics.csv, and each case in eval/probabilities.csv"
    return (
        f"score the {row.evaluated_part} cases, by case and class: eval/val_mean_dice_raw.csv, eval/val_hd95_mm_raw.csv"
    )


def _predicts(row: BundleRow) -> str:
    task = row.task_spec
    if task.task == "classification":
        return "predict the test part: predictions/predictions.csv"
    ending = ".nii.gz" if task.spatial_dims == 3 else ".png"
    if task.multi_label and task.regions is None:
        return f"predict the test part: predictions/CASE_LABEL{ending}"
    there = ", which `--test_every` of the converter sets apart" if row.evaluated_part == "validation" else ""
    return f"predict imagesTs{there}: predictions/CASE{ending}"


def _channel_files(row: BundleRow) -> str:
    """How NIfTI files of several channels are to be named."""
    last = len(row.task_spec.channels) - 1
    return (
        f" (a case being `CASE_0000.nii.gz` to `CASE_{last:04d}.nii.gz`)"
        if row.task_spec.spatial_dims == 3 and last
        else ""
    )


def _family_option(row: BundleRow) -> str:
    """Which networks ``--network_name`` can put in: those that take the options that the configs give."""
    if row.network in TUMOR_NETWORKS:
        names = sorted(name for name in NETWORKS if name.startswith("token_unet") or name == "unet_star_star")
    else:
        family = row.network.rpartition("_")[0]
        names = sorted(name for name in NETWORKS if name.rpartition("_")[0] == family)
    if row.network.startswith("med_"):
        return ""
    return (
        f"\n`--network_name NAME` takes {', '.join(f'`{name}`' for name in names)}: the other options of "
        "`network_def` are theirs, and any other network refuses them."
    )


def _wrap(line: str) -> str:
    """A long line of text in lines of 110 characters; those of an item stay indented below it."""
    if len(line) <= 110:
        return line
    return textwrap.fill(
        line,
        width=110,
        subsequent_indent="  " if line.startswith(("- ", "  ")) else "",
        break_long_words=False,
        break_on_hyphens=False,
    )
