"""Large COVID-19 CT scan slice: ``curated_data/{1NonCOVID,2COVID}/*.png``, ``meta_data_{normal,covid}.csv``."""

from __future__ import annotations

from pathlib import Path

from medmixers.datasets.reading import PICTURES, read_picture, read_table, some, table_file, with_ending
from medmixers.datasets.writers import DatalistWriter, last_of_every
from medmixers.errors import InputError

# class -> its folder and its table; this task leaves out the third class, other pneumonia
SOURCES = {"normal": ("1NonCOVID", "meta_data_normal.csv"), "covid": ("2COVID", "meta_data_covid.csv")}
FILE, PATIENT = "File name", "Patient ID"


def convert(writer: DatalistWriter, source: Path, *, test_every: int = 5) -> None:
    """Write every slice with a patient in its table, in grey.

    Args:
        writer: of covid_ct_slice_classification.
        source: folder that holds the folders and tables, at any depth.
        test_every: n. The n-th, 2n-th, ... of the sorted patients of each class are the test part; 0: none.
    """
    for key, label in writer.task.labels.items():
        folder, table = SOURCES[label.name]
        images = with_ending(source.rglob(f"{folder}/*"), PICTURES)
        some(images, f"image in a folder {folder}", source)
        rows = read_table(table_file(source, table), FILE, PATIENT)
        patients = {file: row[PATIENT] for file, row in rows.items() if row[PATIENT]}
        known = sorted(path for path in images if path.name in patients)
        if not known:
            raise InputError(
                f"{table} names none of the {len(images)} images of {folder}, {images[0].name} for example"
            )
        if len(known) < len(images):
            writer.notes.append(f"{len(images) - len(known)} images of {folder} without a patient were left out")
        groups = {path: f"{label.name} {patients[path.name]}" for path in known}
        test = last_of_every(groups.values(), test_every)
        for path, group in groups.items():
            name = f"{label.name}_{writer.case_name(path.stem)}"
            part = "test" if group in test else "training"
            writer.add_class(part, name, read_picture(path, "L"), key, group=group)
