"""A table of class probabilities, one row per case."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.files import written_whole


class ProbabilityTable:
    """The ``saver`` of MONAI's ``ClassificationSaver``; unlike MONAI's own it writes a header and names the class.

    Columns: file, the probability of each class, prediction (the most probable class), and truth where it is known.

    Args:
        path: of the CSV file; an existing one is replaced.
        classes: their names, in the order of the ids.
    """

    def __init__(self, path: str | Path, classes: Sequence[str]) -> None:
        self.path, self.classes = Path(path), list(classes)
        self._rows: list[list[Any]] = []

    def save_batch(self, batch_data: Any, meta_data: Mapping[str, Sequence[str]]) -> None:
        """batch_data: probabilities (B, K), or (B, K + 1) with the true class id last; meta_data: their files."""
        count = len(self.classes)
        for file, values in zip(meta_data["filename_or_obj"], batch_data.tolist(), strict=True):
            probabilities = values[:count]
            prediction = self.classes[probabilities.index(max(probabilities))]
            truth = [self.classes[int(value)] for value in values[count:]]
            self._rows.append([file, *(f"{value:.6f}" for value in probabilities), prediction, *truth])

    def finalize(self) -> None:
        """Write the file."""
        with_truth = bool(self._rows) and len(self._rows[0]) > len(self.classes) + 2
        header = ["file", *self.classes, "prediction", *(["truth"] if with_truth else [])]
        with written_whole(self.path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *self._rows])
        self._rows.clear()
