"""``medmixers dataset``: data sets as bundles and nnU-Net read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Dataset:
    """Convert public data sets; check a data set before training."""

    def convert(self, task: str, source: str, out: str, link: bool = False, **options: Any) -> str:
        """Convert a task's data set to a new folder OUT, split by group.

        The parts are training, validation and test. What belongs together, such as a patient, is in one part.

        Args:
            task: a task of `medmixers list converters`.
            source: the folder as it was downloaded and unpacked.
            out: folder to write, outside of the source; it must not exist.
            link: make hard links to the downloaded files instead of copies; a change of one then changes both.
            options: of the task's converter; a wrong one lists the valid ones.

        Example:
            medmixers dataset convert skin_lesion_classification DOWNLOADS skin --size 28
        """
        from medmixers.datasets.converters import convert

        return convert(task, source, out, link=link, **options)

    def check(self, folder: str, report: str | None = None) -> str:
        """Check files, geometry, NaN and labels of every case.

        The first fault ends the check. Notes name copies and patients on both sides of a split, and outliers.

        Args:
            folder: a data set in nnU-Net's raw format, or a folder with datalist.json.
            report: an HTML file to write: pictures of the cases, the notes, and distributions.

        Example:
            medmixers dataset check nnUNet_raw/Dataset900_BrainTissue
        """
        from medmixers.datasets import datalist_format
        from medmixers.datasets.audit import audit_nnunet_dataset
        from medmixers.datasets.audit_datalist import audit_datalist
        from medmixers.datasets.check_page import check_place, write_page

        page = None if report is None else check_place(report, folder)
        listed = (Path(folder) / datalist_format.FILE).is_file()
        audit = audit_datalist if listed else audit_nnunet_dataset
        checked = audit(folder, with_thumbnails=page is not None)
        if page is None:
            return str(checked)
        write_page(checked, page)
        return f"{checked}\n{page}"
