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
    With several labels per image there is no prediction, and the truth has a column of 0 and 1 per label, truth_LABEL.

    Args:
        path: of the CSV file; an existing one is replaced.
        classes: their names, in the order of the ids.
        multi_label: whether an image has several labels.
    """

    def __init__(self, path: str | Path, classes: Sequence[str], *, multi_label: bool = False) -> None:
        self.path, self.classes, self.multi_label = Path(path), list(classes), multi_label
        self._rows: list[list[Any]] = []

    def save_batch(self, batch_data: Any, meta_data: Mapping[str, Sequence[str]]) -> None:
        """Take the rows of a batch.

        Args:
            batch_data: probabilities (B, K), or (B, K + 1) with the true class id last, or (B, 2 K) with each label's.
            meta_data: their files.
        """
        count = len(self.classes)
        for file, values in zip(meta_data["filename_or_obj"], batch_data.tolist(), strict=True):
            probabilities = values[:count]
            row: list[Any] = [file, *(f"{value:.9g}" for value in probabilities)]  # float32 reads back exactly
            if self.multi_label:
                row += [int(value) for value in values[count:]]
            else:
                row.append(self.classes[probabilities.index(max(probabilities))])
                row += [self.classes[int(value)] for value in values[count:]]
            self._rows.append(row)

    def finalize(self) -> None:
        """Write the file."""
        decision = [] if self.multi_label else ["prediction"]
        truth = [f"truth_{name}" for name in self.classes] if self.multi_label else ["truth"]
        with_truth = bool(self._rows) and len(self._rows[0]) > 1 + len(self.classes) + len(decision)
        header = ["file", *self.classes, *decision, *(truth if with_truth else [])]
        with written_whole(self.path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *self._rows])
        self._rows.clear()
