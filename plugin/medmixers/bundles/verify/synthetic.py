"""Make a tiny data set in the format of a bundle's task, from its configs: for checks, not for training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.raw_format import region_class_order

SHAPES = {2: (44, 36), 3: (24, 20, 22)}
CASES = {"training": 4, "test": 2}
Array = NDArray[Any]


def write_synthetic(
    folder: Path, metadata: dict[str, Any], expected: Mapping[str, Any], *, regions: Sequence[Sequence[int]] = ()
) -> Path:
    """Write four training cases and two held out, in nnU-Net's raw format or with datalist.json, as the task has it.

    Labels are levels of a coarse random field; images are the label with noise. Volumes are oblique and anisotropic.

    Args:
        folder: does not exist.
        metadata: of the bundle; it names channels and labels.
        expected: ``spatial_dims`` of the images, and the preflight's ``label_values``, ``classes``, ``masks`` or
            ``labels``.
        regions: label values of each region, where labels are regions.
    """
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    names, channels = list(pred["channel_def"].values()), list(image["channel_def"].values())
    dims, values, rng = expected["spatial_dims"], expected.get("label_values"), np.random.default_rng(0)
    if values:
        described = _described_regions(names, regions) if regions else {"labels": _described_labels(names, values)}
        _write_raw(folder, rng, channels, values, described, dims)
    else:
        kind = next(key for key in ("classes", "masks", "labels") if key in expected)
        _write_datalist(folder, rng, channels, names, dims, kind)
    return folder


def _described_labels(names: Sequence[str], values: Sequence[int]) -> dict[str, int]:
    """Exclusive labels as dataset.json has them; a value without a channel of the network is ignored."""
    return dict(zip([*names, "ignore"], values, strict=False))


def _described_regions(names: Sequence[str], regions: Sequence[Sequence[int]]) -> dict[str, Any]:
    labels = {"background": 0, **dict(zip(names, map(list, regions), strict=True))}
    return {"labels": labels, "regions_class_order": region_class_order(regions)}


def is_classification(metadata: dict[str, Any]) -> bool:
    """Whether the network gives one vector per image."""
    return bool(metadata["network_data_format"]["outputs"]["pred"]["format"] != "segmentation")


def oblique_affine() -> Array:
    """Voxels of 1.5 x 2 x 3 mm, axes left, posterior and superior, turned by 20 and 15 degrees."""
    a, b = np.deg2rad([20, 15])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-1.5, -2.0, 3.0])
    affine[:3, 3] = [11.0, -7.0, 5.0]
    return affine


def _write_raw(
    folder: Path,
    rng: np.random.Generator,
    channels: Sequence[str],
    values: Sequence[int],
    described: Mapping[str, Any],
    dims: int,
) -> None:
    rgb = dims == 2 and len(channels) == 3
    ending = ".nii.gz" if dims == 3 else ".png"
    for index, suffix in enumerate(["Tr"] * CASES["training"] + ["Ts"] * CASES["test"]):
        label = np.asarray(values)[_levels(rng, dims, len(values))].astype(np.uint8)
        images = [_picture(rng, label) for _ in channels]
        files = [np.stack(images, axis=-1)] if rgb else images
        for channel, data in enumerate(files):
            _save(folder / f"images{suffix}" / f"case_{index}_{channel:04d}{ending}", data)
        _save(folder / f"labels{suffix}" / f"case_{index}{ending}", label)
    description = {
        "channel_names": {str(key): name for key, name in enumerate(channels)},
        "numTraining": CASES["training"],
        "file_ending": ending,
        **described,
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def _write_datalist(
    folder: Path, rng: np.random.Generator, channels: Sequence[str], names: Sequence[str], dims: int, kind: str
) -> None:
    masks = kind == "masks"
    entries: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    ending = ".nii.gz" if dims == 3 else ".png"
    # Every class occurs in every part, or metrics of it would not be defined.
    parts = [(part, index) for part, count in CASES.items() for index in range(count if masks else len(names) * 2)]
    for number, (part, index) in enumerate([*parts, *(("validation", i) for i in range(2 if masks else len(names)))]):
        label = _levels(rng, dims, 2 if masks else len(names))
        images = [_picture(rng, label + index % len(names)) for _ in channels]
        file = f"images/case_{number}{ending}"
        _save(folder / file, np.stack(images, axis=-1) if len(images) > 1 else images[0])
        entry: dict[str, Any] = {"image": file, "label": index % len(names), "group": f"patient {number}"}
        if kind == "labels":
            entry["label"] = sorted({index % len(names), index % 2})
        if masks:
            entry["label"] = [f"masks/case_{number}_{key}{ending}" for key in range(len(names))]
            for path in entry["label"]:
                _save(folder / path, _levels(rng, dims, 2) * 255)
        entries[part].append(entry)
    (folder / "datalist.json").write_text(json.dumps(entries))


def _levels(rng: np.random.Generator, dims: int, count: int) -> Array:
    """Integers 0..count-1 in blobs; each of them occurs."""
    shape = SHAPES[dims]
    coarse = rng.permutation(np.arange(6**dims) % count).reshape((6,) * dims)
    index = np.ix_(*(np.arange(extent) * 6 // extent for extent in shape))
    return np.asarray(coarse[index], np.uint8)


def _picture(rng: np.random.Generator, label: Array) -> Array:
    noisy = 40.0 + 30 * label + rng.normal(scale=8, size=label.shape)
    return np.clip(noisy, 1, 255).astype(np.uint8 if label.ndim == 2 else np.float32)


def _save(path: Path, data: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        from PIL import Image

        Image.fromarray(data.astype(np.uint8)).save(path)
    else:
        import nibabel as nib

        nib.save(nib.Nifti1Image(data, oblique_affine()), path)
