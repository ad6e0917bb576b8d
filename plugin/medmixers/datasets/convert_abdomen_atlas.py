"""AbdomenAtlas 1.0 Mini: ``BDMAP_XXXXXXXX/{ct,combined_labels}.nii.gz``."""

from __future__ import annotations

import re
from pathlib import Path

from medmixers.datasets.reading import csv_rows, nifti_file, some
from medmixers.datasets.writers import RawWriter, last_of_every
from medmixers.errors import InputError

CASE = re.compile(r"(?<![A-Za-z0-9])BDMAP_[A-Z]?[0-9]+(?![A-Za-z0-9])")
NUMBER = re.compile("[1-9]|0[0-9]")  # a first row with one is no header; pandas writes ",0"


def convert(writer: RawWriter, source: Path, *, test_list: str = "", test_every: int = 10) -> None:
    """Write every case, linked or copied.

    Args:
        writer: of abdomen_ct_segmentation.
        source: folder that holds the folders BDMAP_*, at any depth.
        test_list: CSV or text file with one test case BDMAP_XXXXXXXX per row, in any column, perhaps below a header,
            such as AbdomenAtlasTestSplit.csv (520 cases) in the code of Keuth et al.
        test_every: n. Without a list, the n-th, 2n-th, ... of the sorted cases are the test part; 0: none.
    """
    folders = some([path for path in source.rglob("BDMAP_*") if path.is_dir()], "folder BDMAP_*", source)
    names = [folder.name for folder in folders]
    test = _listed(Path(test_list)) if test_list else last_of_every(names, test_every)
    if test_list and (absent := test - set(names)):
        if absent == test:
            raise InputError(f"{source} holds none of the {len(test)} cases of {test_list}, {min(absent)} for example")
        writer.notes.append(f"{len(absent)} test cases of the list are not in {source}, {min(absent)} for example")
    for folder in folders:
        image, label = (nifti_file(folder, stem) for stem in ("ct", "combined_labels"))
        writer.add("test" if folder.name in test else "training", folder.name, [image], label)
    # Some headers are not orthonormal: SimpleITK, nnU-Net's default reader, refuses them.
    writer.description["overwrite_image_reader_writer"] = "NibabelIOWithReorient"


def _listed(path: Path) -> set[str]:
    listed = set()
    for index, row in enumerate(csv_rows(path)):
        text = ",".join(row)
        cases = set(CASE.findall(text))
        if not cases and index == 0 and not NUMBER.search(text):
            continue  # the header
        if len(cases) != 1:
            raise InputError(f"{path} must name one case BDMAP_XXXXXXXX per row, got {text[:80]!r}")
        listed |= cases
    if not listed:
        raise InputError(f"{path} lists no case BDMAP_XXXXXXXX")
    return listed
