"""The rows of a study's table of scores, and the check that no case is missing from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingFileError
from medmixers.files import written_whole

COLUMNS = ("dataset", "entry", "seed", "fold", "case", "group", "class", "metric", "value")
ALL_CASES = "*"  # the case of a value of all cases together, such as AUROC
MOST_NAMED = 5
NSD_TOLERANCE = 2.0  # mm, or voxels where a file has no spacing
Value = tuple[str, str, str, float]  # case, class, metric, value


def named(names: Sequence[str]) -> str:
    """The first names, and how many there are."""
    shown = ", ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown}, ... ({len(names)} in all)"


def check_complete(found: Iterable[str], wanted: Iterable[str], where: Path, what: str) -> None:
    """Refuse a set of predictions that lacks a case, or holds one that was not to be predicted.

    Raises:
        MissingFileError: the first; InputError: the second.
    """
    found, wanted = set(found), set(wanted)
    if lacking := sorted(wanted - found):
        raise MissingFileError(f"{where} lacks {what} of {len(lacking)} of {len(wanted)} cases: {named(lacking)}")
    if surplus := sorted(found - wanted):
        raise InputError(f"{where} holds {what} of cases that are not scored in this run: {named(surplus)}")


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with written_whole(file) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
