"""What other software did with our bundles and files: clients.json, which the tests of clients write, and its table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.results import check_committed, describe_run, measured_code_digest, write_json
from medmixers.results.tables import markdown

CLIENTS = Path(__file__).with_name("clients.json")


def recorded_clients(path: Path = CLIENTS) -> dict[str, dict[str, Any]]:
    """Client -> its row: version, ran, result, date, commit, code."""
    found: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return found


def record_clients(rows: Mapping[str, Mapping[str, str | None]], *, checkout: Path, path: Path = CLIENTS) -> None:
    """Replace the rows of some clients and keep those of others.

    Args:
        rows: client -> version (None where it has none), ran, result.
        checkout: of this project; its code must be committed.
        path: written under a temporary name, then renamed.

    Raises:
        InputError: the checkout has changes, or git does not know it.
    """
    run = describe_run("clients", device="cpu", checkout=checkout)
    check_committed(run)
    facts = {name: run[name] for name in ("date", "commit", "code")}
    known = recorded_clients(path) if path.is_file() else {}
    known |= {name: {**row, **facts} for name, row in rows.items()}
    write_json(path, dict(sorted(known.items(), key=lambda item: item[0].casefold())))


def older_clients(checkout: Path) -> list[str]:
    """Clients that were run with an older state of the code that they run or read."""
    now = measured_code_digest(checkout, "clients")
    return [name for name, row in recorded_clients().items() if row["code"] != now]


def clients_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: one row per client, with its version, what was run, the result and the date.

    Args:
        rows: as :func:`recorded_clients` gives them.
    """
    header = ["client", "version", "what was run", "result", "date"]
    cells: list[Sequence[str]] = [
        [name, row["version"] or "-", row["ran"], row["result"].replace("|", "\\|"), row["date"]]
        for name, row in rows.items()
    ]
    return markdown(header, cells)
