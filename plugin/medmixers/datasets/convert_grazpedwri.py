"""GRAZPEDWRI-DX: wrist X-rays as PNG, dataset.csv, and polygons of 17 bones in CVAT's XML.

On disk: ``0002_0354485735_01_WRI-R1_F012.png``; ``dataset.csv`` with filestem, patient_id, laterality; and,
from the code of Keuth et al., ``annotations_{train1,val,test}.xml`` in "CVAT for images 1.1".
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.reading import by_name, polygon_mask, read_picture, read_table, some, table_file, with_ending
from medmixers.datasets.writers import DatalistWriter
from medmixers.errors import InputError, MissingFileError


def convert(writer: DatalistWriter, source: Path, *, annotations: str = "") -> None:
    """Write the annotated X-rays as distributed; right hands and their masks are mirrored to left ones.

    Images of annotations_train1.xml are the training part, the others the test part. A patient of both trains only.

    Args:
        writer: of wrist_bone_segmentation.
        source: folder that holds the images and dataset.csv, at any depth.
        annotations: folder that holds the XML files, at any depth; the source where it is empty.
    """
    table = table_file(source, "dataset.csv")
    rows = read_table(table, "filestem", "patient_id", "laterality")
    pictures = by_name(with_ending(source.rglob("*"), (".png",)))
    root = Path(annotations or source)
    drawn = _annotated(
        some(with_ending(root.rglob("*"), (".xml",)), "*.xml with polygons; give --annotations FOLDER", root)
    )
    for stem in drawn:
        for what, where in ((rows, table), (pictures, source)):
            if stem not in what:
                raise MissingFileError(f"{stem}, which has polygons, is not in {where}")
    training = {rows[stem]["patient_id"] for stem, (part, _) in drawn.items() if part == "training"}
    moved = skipped = mirrored = 0
    for stem, (part, element) in drawn.items():
        patient = rows[stem]["patient_id"]
        moved += part == "test" and patient in training
        image = _grey(pictures[stem])
        masks, others = _masks(element, image.shape, {b.name: key for key, b in writer.task.labels.items()}, stem)
        skipped += others
        if _is_right(rows[stem], table):
            image, masks = image[:, ::-1], masks[..., ::-1]
            mirrored += 1
        part = "training" if patient in training else "test"
        writer.add_masks(part, writer.case_name(stem), image, masks, group=f"patient {patient}")
    writer.note_left_out(set(pictures) - set(drawn), "images without polygons")
    writer.notes.append(f"{mirrored} right hands were mirrored")
    if moved:
        writer.notes.append(f"{moved} test images train, because other images of their patients do")
    if skipped:
        writer.notes.append(f"{skipped} shapes that are not polygons were left out")


def _annotated(files: list[Path]) -> dict[str, tuple[str, Any]]:
    """File stem -> part and <image> element, for every image with a shape."""
    found: dict[str, tuple[str, Any]] = {}
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
        except ElementTree.ParseError as error:
            raise InputError(f"{file} is not valid XML: {error}") from None
        for element in root.iter("image"):
            stem = PurePosixPath(element.get("name", "").replace("\\", "/")).stem
            if len(element) and stem:
                if stem in found:
                    raise InputError(f"{file} annotates {stem}, which another file does too")
                found[stem] = ("training" if "train" in file.stem else "test", element)
    if not found:
        raise InputError(f"{files[0].parent} holds no CVAT annotation of an image")
    return dict(sorted(found.items()))


def _masks(element: Any, shape: tuple[int, ...], channels: dict[str, int], stem: str) -> tuple[NDArray[np.bool_], int]:
    """(labels, height, width), and how many shapes were no polygons."""
    size = (int(element.get("height", 0)), int(element.get("width", 0)))
    if size != shape:
        raise InputError(f"{stem}.png has {shape[0]} x {shape[1]} pixels, its polygons are for {size[0]} x {size[1]}")
    masks = np.zeros((len(channels), *shape), bool)
    others = 0
    for child in element:
        if child.tag != "polygon":
            others += 1
            continue
        label = child.get("label", "").strip().lower().replace(" ", "_")
        if label not in channels:
            raise InputError(f"{stem} has a polygon {child.get('label')!r}; valid: {', '.join(channels)}")
        try:
            points = np.array([point.split(",") for point in child.get("points", "").split(";")], float)
        except ValueError:
            raise InputError(f"{stem}: points must look like 'x,y;x,y', got {child.get('points')!r}") from None
        masks[channels[label]] |= polygon_mask(points, size)
    return masks, others


def _grey(path: Path) -> NDArray[Any]:
    """(height, width), with the depth of the file: 16 bits stay 16, since bundles scale each picture by its own."""
    image = read_picture(path)
    return image if image.dtype == np.uint16 and image.ndim == 2 else read_picture(path, "L")


def _is_right(row: dict[str, str], table: Path) -> bool:
    if row["laterality"] not in ("L", "R"):
        raise InputError(f"{table}: laterality of {row['filestem']} must be L or R, got {row['laterality']!r}")
    return row["laterality"] == "R"
