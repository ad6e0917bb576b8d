"""docs/README.md of a bundle, from its row. No torch here."""

from __future__ import annotations

import textwrap

from medmixers.bundling.catalog import BundleRow
from medmixers.variants import NETWORKS

TEMPLATE = """\
# {title}

Bundle `{name}`, version {version}. **It ships without weights: it is untrained** and refuses \
to predict until it has been trained (`--load_pretrain False` predicts with random weights).

{intended_use}

## What it is
- Task: {task} of {modality} images; channels: {channels}; labels: {labels}.
- Network: {summary} (`medmixers.create_network("{network}", ...)` with {options}).
- Input: any size; images are reoriented to RAS, resampled to {spacing} mm and normalised ({intensity}).
  Predictions come back on the voxel grid of the input file, with its affine.
- Data: {data_source}.
  {licence}. {citation}

## Training
Recipe `{recipe}`: {optimizer}, learning rate {learning_rate} (linear warm-up of \
{warmup_epochs} epochs, one cosine cycle to {min_learning_rate}), weight decay {weight_decay}, {epochs} \
epochs of {patches_per_image} patch(es) of {roi} voxels from each training image, {patches} in a step, \
cross-entropy + Dice{affine}. {notes}

Of the sorted training cases the first and every {validation_every}th after it validate. `models/model.pt` \
holds the weights of the best validation Dice, `models/resume_checkpoint_epoch=N.pt` the last state of training.

## Commands
Install medmixers, set `BUNDLE` to this folder and `DATA` to a data set in nnU-Net raw format \
(`DatasetNNN_Name` with `dataset.json`, `imagesTr`, `labelsTr`; `imagesTs`, `labelsTs` to evaluate and predict).

```bash
# train
python -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "$BUNDLE/configs/train.json" --dataset_dir "$DATA"

# Dice of the held-out cases, by case and class: eval/val_mean_dice_raw.csv
python -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "['$BUNDLE/configs/train.json','$BUNDLE/configs/evaluate.json']" --dataset_dir "$DATA"

# predict imagesTs: predictions/CASE.nii.gz
python -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "$BUNDLE/configs/inference.json" --dataset_dir "$DATA"

# train on 2 GPUs
torchrun --standalone --nproc_per_node 2 -m monai.bundle run --bundle_root "$BUNDLE" \\
  --config_file "['$BUNDLE/configs/train.json','$BUNDLE/configs/multi_gpu_train.json']" --dataset_dir "$DATA"
```

Every top-level key of a config is an option: `--epochs 100`, `--learning_rate 0.0005`, `--batch_size 2`, \
`--roi_size "[64,64,64]"`{kernel_option}, `--ckpt_dir FOLDER`, `--output_dir FOLDER`, \
`--num_workers 4`. A training goes on with `--resume_ckpt FILE` and the same `--epochs` (the best validation \
is counted anew), \
starts from other weights with `--pretrained_ckpt FILE`, stops early with `--early_stop True --patience 10`. \
A network option given for training must be given for evaluation and inference too.
{family_option}
MONAI checks no option's name: one that is misspelled is added to the config without a word, and nothing \
uses it. Compare the spelling with the keys of the config.

In `val_mean_dice_raw.csv` the columns are {class_columns}; `mean` is over them. \
On several GPUs the validation cases are shared out evenly, so one may count twice.

## Limits
{limits}
"""


def readme(row: BundleRow) -> str:
    """docs/README.md."""
    task, recipe = row.task_spec, row.training
    names = task.label_names
    affine = f", random affine matrices (identity + noise of standard deviation {recipe.affine_std})"
    text = TEMPLATE.format(
        title=task.title,
        name=row.name,
        version=row.version,
        intended_use=task.intended_use,
        task=task.task,
        modality=task.modality,
        channels=", ".join(task.channels),
        labels=", ".join(f"{key} {name}" for key, name in names.items()),
        summary=NETWORKS[row.network].summary,
        network=row.network,
        options=", ".join(f"`{key}={value!r}`" for key, value in row.network_options.items()),
        spacing=" x ".join(f"{value:g}" for value in task.spacing or ()),
        intensity=task.intensity,
        data_source=task.data_source,
        licence=task.licence,
        citation=task.citation,
        recipe=row.recipe,
        optimizer=recipe.optimizer,
        learning_rate=f"{recipe.learning_rate:g}",
        min_learning_rate=f"{recipe.min_learning_rate:g}",
        warmup_epochs=recipe.warmup_epochs,
        weight_decay=f"{recipe.weight_decay:g}",
        epochs=recipe.epochs,
        patches_per_image=recipe.patches_per_image,
        patches=recipe.batch_size * recipe.patches_per_image,
        roi=" x ".join(map(str, row.roi_size)),
        affine=affine if recipe.affine_std else "",
        notes=recipe.notes,
        validation_every=task.validation_every,
        kernel_option=", `--kernel_size 5`" if "kernel_size" in row.network_options else "",
        family_option=_family_option(row),
        class_columns=", ".join(f"`class{key - 1}` = {name}" for key, name in names.items() if key),
        limits=task.limits,
    )
    return "\n".join(_wrap(line) for line in text.splitlines()) + "\n"


def _family_option(row: BundleRow) -> str:
    """Which networks ``--network_name`` can put in: those that take the options that the configs give."""
    family = row.network.rpartition("_")[0]
    names = sorted(name for name in NETWORKS if name.rpartition("_")[0] == family)
    return (
        f"`--network_name NAME` takes {', '.join(f'`{name}`' for name in names)}: the other options of "
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
