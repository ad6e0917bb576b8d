"""Small data in each public data set's own format, for converters and for the bundles of their tasks.

``write_source(task, folder)`` writes what a person would have downloaded, ``convert_tiny(task, folder)`` what bundles
read. Images show their labels, so that a network can learn a little from them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from medmixers.datasets.convert_imagewoof import FOLDERS as IMAGEWOOF
from medmixers.datasets.converters import convert
from medmixers.tasks import TASKS

Array = np.ndarray
MEDMNIST = {
    "colon_pathology_classification": "pathmnist",
    "skin_lesion_classification": "dermamnist",
    "chest_xray_pneumonia_classification": "pneumoniamnist",
    "abdominal_organ_classification": "organsmnist",
    "lung_nodule_classification": "nodulemnist3d",
}
# what a tiny data set needs to be told: its small images, a test part from few slides
OPTIONS: dict[str, dict[str, Any]] = {
    **{task: {"size": 28} for task in MEDMNIST},
    "breast_tissue_segmentation": {"test_every": 4},
    "chest_xray_findings_classification": {"size": 28},
}
# JSRT: structure -> centre (x, y) and half axes of its ellipse at 1024 x 1024
ELLIPSES = {
    "right_lung": ((300, 480), (150, 280)),
    "left_lung": ((720, 500), (140, 260)),
    "heart": ((560, 640), (170, 130)),
    "right_clavicle": ((300, 180), (130, 25)),
    "left_clavicle": ((700, 190), (120, 30)),
}
LANDMARKS = dict(zip(ELLIPSES, ("RL", "LL", "H", "RCLA", "LCLA"), strict=True))
OBLIQUE = np.array([[-1.9, 0.3, 0, 11], [0.3, 1.9, 0, -7], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def convert_tiny(task: str, folder: Path, **options: Any) -> Path:
    """The task's tiny data set as its bundle reads it, ``folder/converted``; its source lies in ``folder/source``."""
    source = write_source(task, folder / "source")
    convert(task, source, folder / "converted", **{**OPTIONS.get(task, {}), **options})
    return folder / "converted"


def write_source(task: str, folder: Path) -> Path:
    """The task's tiny data set in its own format."""
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[task](folder) if task not in MEDMNIST else write_medmnist(task, folder)
    return folder


def write_medmnist(task: str, folder: Path, *, edge: int = 28, counts: tuple[int, int, int] = (18, 9, 9)) -> Path:
    """``pathmnist.npz`` and its like: brightness tells the class."""
    spec, rng = TASKS[task], np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        labels = np.arange(count).reshape(-1, 1) % len(spec.labels)
        shape = (edge,) * spec.spatial_dims + ((3,) if len(spec.channels) == 3 else ())
        images = rng.integers(0, 60, (count, *shape)) + labels.reshape(-1, *(1,) * len(shape)) * (
            180 // len(spec.labels)
        )
        arrays |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels.astype(np.uint8)}
    path = folder / (MEDMNIST[task] + ("" if edge == 28 else f"_{edge}") + ".npz")
    np.savez_compressed(path, **arrays)
    return path


def write_chestmnist(folder: Path, *, counts: tuple[int, int, int] = (12, 9, 9)) -> None:
    """``chestmnist.npz``: 0 or 1 for each of 14 labels, the last one in no image. Brightness tells label 0."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        labels = (np.arange(count)[:, None] % np.arange(2, 16) == 1).astype(np.uint8)
        labels[:, -1] = 0
        images = rng.integers(0, 60, (count, 28, 28)) + 120 * labels[:, :1, None]
        arrays |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels}
    np.savez_compressed(folder / "chestmnist.npz", **arrays)


def write_jsrt(folder: Path, *, nodules: int = 3, others: int = 2) -> None:
    """Raw .IMG files and landmarks. Structures shift by 10 pixels from case to case."""
    (folder / "All247images").mkdir()
    names = [f"JPCLN{i + 1:03d}" for i in range(nodules)] + [f"JPCNN{i + 1:03d}" for i in range(others)]
    y, x = np.mgrid[:1024, :1024] + 0.5
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for index, name in enumerate(names):
        bright = np.full((1024, 1024), 600)
        for label, ((cx, cy), (a, b)) in ELLIPSES.items():
            cx = cx + 10 * index
            bright[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] += 700
            place = folder / "landmarks" / LANDMARKS[label]
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{name}.npy", np.stack([cx + a * np.cos(turn), cy + b * np.sin(turn)], axis=1))
        (4095 - bright).repeat(2, 0).repeat(2, 1).astype(">u2").tofile(folder / "All247images" / f"{name}.IMG")


def write_grazpedwri(folder: Path, *, images: int = 8) -> None:
    """PNG, dataset.csv and CVAT XML; each patient has two images, the first a left and the second a right hand."""
    bones = ["Radius", "Ulna", "Os scaphoideum", "Ossa metacarpalia I"]
    (folder / "images").mkdir()
    rows, elements = [], []
    for index in range(images):
        side, patient = "LR"[index % 2], f"{index // 2:010d}"
        stem = f"{index:04d}_{patient}_01_WRI-{side}1_F012"
        picture = np.full((96, 56), 30, np.uint8)
        polygons = []
        for bone, name in enumerate(bones):
            left, top, right, bottom = 5 + 3 * bone, 8 + 20 * bone, 25 + 3 * bone, 30 + 20 * bone  # off the middle
            picture[top:bottom, left:right] += 50
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            points = ";".join(f"{px:.2f},{py:.2f}" for px, py in corners)
            polygons.append(f'<polygon label="{name}" points="{points}" z_order="0"/>')
        Image.fromarray(picture).save(folder / "images" / f"{stem}.png")
        rows.append({"filestem": stem, "patient_id": patient, "laterality": side, "age": "9"})
        inner = "".join(polygons)
        elements.append(f'<image id="{index}" name="{stem}.png" width="56" height="96">{inner}</image>')
    with (folder / "dataset.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    cut = images // 2 + 1  # the third patient has an image in both files
    for name, part in (("train1", elements[:cut]), ("val", elements[cut:])):
        (folder / f"annotations_{name}.xml").write_text(f"<annotations>{''.join(part)}</annotations>")


def write_tiger(folder: Path, *, slides: int = 4) -> None:
    """Two regions a slide, one in each folder; stripes of the eight mask values, the colour tells the value."""
    for index in range(slides):
        for kind, corner in (("tissue-bcss", 0), ("tissue-cells", 400)):
            base = folder / "wsirois" / "roi-level-annotations" / kind
            mask = (np.indices((64, 48 + 8 * index)).sum(0) // 8 % 8).astype(np.uint8)
            colours = np.stack([mask * 30, 255 - mask * 30, np.full_like(mask, 90)], axis=-1)
            name = f"TCGA-A1-A0S{index}_[{corner}, 10, {corner + mask.shape[1]}, 74].png"
            for folder_name, data in (("images", colours), ("masks", mask)):
                (base / folder_name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(data).save(base / folder_name / name)


def blobs(shape: tuple[int, int, int], ids: list[int], seed: int) -> Array:
    """Every id in a box of its own, in slabs along the first axis."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    edges = np.linspace(0, shape[0], len(ids) + 1).astype(int)
    for start, stop, value in zip(edges[:-1], edges[1:], ids, strict=True):
        low = rng.integers(1, 4, 2)
        label[start:stop, low[0] : shape[1] - 2, low[1] : shape[2] - 1] = value
    return label


def save(path: Path, data: Array, affine: Array = OBLIQUE) -> None:
    """A NIfTI file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def like(label: Array, seed: int, *, low: float = -100, step: float = 40) -> Array:
    """An image that shows the label, with noise; int16."""
    return (low + step * label.astype(float) + np.random.default_rng(seed).normal(0, 5, label.shape)).astype(np.int16)


def write_abdomen_atlas(folder: Path, *, cases: int = 10) -> None:
    for index in range(cases):
        label = blobs((27, 20, 16), list(range(1, 10)), index)
        case = folder / f"BDMAP_{index + 1:08d}"
        save(case / "ct.nii.gz", like(label, index))
        save(case / "combined_labels.nii.gz", label)


def write_fets(folder: Path, *, cases: int = 5) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    rows = ["Partition_ID,Subject_ID"]
    for index in range(cases):
        name = f"FeTS2022_{index:05d}"
        label = np.zeros((24, 24, 20), np.uint8)
        label[4:20, 4:20, 4:16], label[7:17, 7:17, 6:14], label[10:14, 10:14, 8:12] = 2, 4, 1
        for channel, suffix in enumerate(("t1", "t1ce", "t2", "flair")):
            image = like(label, 10 * index + channel, low=100)
            image[0] = 0  # outside the brain
            save(folder / name / f"{name}_{suffix}.nii.gz", image, affine)
        save(folder / name / f"{name}_seg.nii.gz", label, affine)
        rows.append(f"{1 + index % 2},{name}")
    (folder / "partitioning_1.csv").write_text("\n".join(rows) + "\n")


def write_synapse(folder: Path, *, numbers: tuple[str, ...] = ("0001", "0005", "0006", "0007", "0008")) -> None:
    for number in numbers:
        label = blobs((39, 18, 8), list(range(1, 14)), int(number))
        save(folder / "RawData/Training/img" / f"img{number}.nii.gz", like(label, int(number)))
        save(folder / "RawData/Training/label" / f"label{number}.nii.gz", label)
    save(folder / "RawData/Testing/img/img0061.nii.gz", np.zeros((4, 4, 4), np.int16))


def write_acdc(folder: Path, *, patients: int = 5, testing: int = 0) -> None:
    for index in range(patients + testing):
        name = f"patient{index + 1 + 100 * (index >= patients):03d}"
        place = folder / ("training" if index < patients else "testing") / name
        for frame in (1, 10 + index):
            label = blobs((21, 20, 8), [1, 2, 3], index)
            save(place / f"{name}_frame{frame:02d}.nii.gz", like(label, index))
            save(place / f"{name}_frame{frame:02d}_gt.nii.gz", label)
        save(place / f"{name}_4d.nii.gz", np.zeros((6, 6, 3, 2), np.int16))


def pattern(seed: int, *, shape: tuple[int, ...] = (40, 50), bright: int = 0) -> Array:
    """A picture that only this seed gives: coarse random fields."""
    coarse = np.random.default_rng(seed).integers(0, 160, (8, 10))
    tiled = coarse.repeat(shape[0] // 8, 0).repeat(shape[1] // 10, 1) + bright
    return tiled.astype(np.uint8)


def write_sars_cov_2(folder: Path, *, pictures: int = 12) -> None:
    """Every third picture is its predecessor with a little noise."""
    for offset, (name, stem) in enumerate((("COVID", "Covid"), ("non-COVID", "Non-Covid"))):
        (folder / name).mkdir()
        for index in range(pictures):
            same = index % 3 == 2
            grey = pattern(1000 * offset + index - same, bright=90 * offset)
            grey = grey + same * np.random.default_rng(index).integers(0, 4, grey.shape).astype(np.uint8)
            Image.fromarray(np.stack([grey] * 3, -1)).save(folder / name / f"{stem} ({index + 1}).png")


def write_imagewoof(folder: Path, *, training: int = 3, test: int = 2) -> None:
    """Photographs of 30 x 20 and 20 x 30; brightness tells the breed."""
    for part, count in (("train", training), ("val", test)):
        for breed, name in enumerate(IMAGEWOOF):
            place = folder / "imagewoof2-320" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                shape = (30, 20, 3) if number % 2 else (20, 30, 3)
                Image.fromarray(np.full(shape, 20 + 20 * breed, np.uint8)).save(place / f"{name}_{number}.JPEG")


def write_msld(folder: Path, *, patients: int = 10, copies: int = 3) -> None:
    for offset, (name, letter) in enumerate((("Monkey Pox", "M"), ("Others", "NM"))):
        originals = folder / "Original Images" / "Original Images" / name
        augmented = (
            folder / "Augmented Images" / "Augmented Images" / f"{name.replace(' p', 'p').replace(' P', 'p')}_augmented"
        )
        originals.mkdir(parents=True)
        augmented.mkdir(parents=True)
        for patient in range(patients):
            for number in range(1 + patient % 2):
                stem = f"{letter}{patient + 1:02d}_{number + 1:02d}"
                colour = np.stack([pattern(50 * offset + patient, bright=80 * offset)] * 3, -1)
                Image.fromarray(colour).save(originals / f"{stem}.jpg")
                for copy in range(copies):
                    Image.fromarray(np.rot90(colour, copy)).save(augmented / f"{stem}_{copy:02d}.jpg")


def write_large_covid(folder: Path, *, patients: int = 5, slices: int = 3) -> None:
    for offset, (name, table) in enumerate((("1NonCOVID", "meta_data_normal.csv"), ("2COVID", "meta_data_covid.csv"))):
        place = folder / "curated_data" / "curated_data" / name
        place.mkdir(parents=True)
        lines = ["File name,Patient ID,Country"]
        for patient in range(patients):
            for index in range(slices):
                file = f"{name}_p{patient}_{index}.png"
                Image.fromarray(pattern(100 * offset + patient, bright=90 * offset)).save(place / file)
                lines.append(f"{file},{patient},Espa\u00f1a")
        (folder / table).write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))


MAKERS: dict[str, Callable[[Path], None]] = {
    "chest_xray_segmentation": write_jsrt,
    "wrist_bone_segmentation": write_grazpedwri,
    "breast_tissue_segmentation": write_tiger,
    "abdomen_ct_segmentation": write_abdomen_atlas,
    "brain_tumor_segmentation": write_fets,
    "covid_ct_classification": write_sars_cov_2,
    "monkeypox_skin_classification": write_msld,
    "covid_ct_slice_classification": write_large_covid,
    "multi_organ_ct_segmentation": write_synapse,
    "cardiac_mri_segmentation": write_acdc,
    "dog_breed_classification": write_imagewoof,
    "chest_xray_findings_classification": write_chestmnist,
}
