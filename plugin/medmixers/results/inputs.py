"""The table of what each command does with each kind of input, from the cases that the tests hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def inputs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one row per kind of input, one column per command, and the words of the refusal.

    Args:
        rows: input, results (command -> "read", "refused" or "not reached"), says.
    """
    doors = list(rows[0]["results"])
    lines = [f"| Input | {' | '.join(doors)} | Message |", f"|{'---|' * (len(doors) + 2)}"]
    for row in rows:
        results = " | ".join(row["results"][door] for door in doors)
        message = f"... {row['says']} ..." if row["says"] else ""
        lines.append(f"| {row['input']} | {results} | {message} |")
    return "\n".join(lines)


def faults_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Markdown: one row per fault, what happens, and the words of the refusal.

    Args:
        rows: input, result, says.
    """
    lines = ["| Input | What happens | Message |", "|---|---|---|"]
    for row in rows:
        message = f"... {row['says']} ..." if row["says"] else ""
        lines.append(f"| {row['input']} | {row['result']} | {message} |".replace("*", "\\*"))
    return "\n".join(lines)
