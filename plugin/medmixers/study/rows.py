"""The rows of a study's tables: read, written, and checked that no case is missing from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def table_rows(file: Path, required: Sequence[str]) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Columns of a CSV file, and its rows with the number of each one's last line.

    Names and values lose the spaces around them. Rows without a value are passed over.

    Args:
        file: commas between the columns, UTF-8.
        required: columns that it must have.

    Raises:
        MissingFileError: there is no such file.
        InputError: another encoding or separator, a missing column, one that is there twice, or, while the rows are
            taken, a row with more or fewer values than columns.
    """
    lines = _lines(file)
    _, columns = next(lines, (0, []))
    if lacking := [name for name in required if name not in columns]:
        other = next((each for each in (";", "\t") if any(each in name for name in columns)), None)
        hint = "" if other is None else f"; columns are separated by commas, not {other!r}, and decimals by a point"
        raise InputError(f"{file} lacks the column {', '.join(lacking)}; it has {', '.join(columns) or 'none'}{hint}")
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise InputError(f"{file} has the column {twice[0]!r} {columns.count(twice[0])} times")
    return columns, _rows(lines, file, columns)


def _rows(
    lines: Iterable[tuple[int, list[str]]], file: Path, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, values in lines:
        surplus = any(values[len(columns) :])
        if surplus or len(values) < len(columns):
            cause = "; write decimals with a point, and names with a comma in quotes" if surplus else ""
            raise InputError(f"{file}, line {line} has {len(values)} values for {len(columns)} columns{cause}")
        yield line, dict(zip(columns, values, strict=False))


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and values of each line that is not empty."""
    if not file.is_file():
        raise MissingFileError(f"there is no table {str(file)!r}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text; save it as CSV UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if any(values):
                yield reader.line_num, values
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num} cannot be read: {error}") from None


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with written_whole(file) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
