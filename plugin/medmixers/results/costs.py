"""What each network costs beside a peer: tables of the figures of scripts/benchmarks/costs.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from medmixers.results.markdown import markdown, time_and_memory

# task -> number of dimensions -> the network that the others of this task stand beside
PEERS: Mapping[str, Mapping[int, str]] = {
    "classification": {2: "timm:resnet50", 3: "monai:resnet50"},
    "segmentation": {2: "nnunet:PlainConvUNet", 3: "nnunet:PlainConvUNet"},
}

Row = Mapping[str, Any]


def costs_tables(figures: Iterable[Row]) -> str:
    """One table per task: time and memory of each network, and those of its peer over them."""
    tasks: dict[str, dict[tuple[str, int, str], Row]] = {}
    for row in figures:
        tasks.setdefault(row["task"], {})[row["network"], row["dims"], row["pass"]] = row
    texts = []
    for task, rows in tasks.items():
        columns = dict.fromkeys((dims, name) for _, dims, name in rows)
        peers, lines = PEERS[task], []
        networks = dict.fromkeys(network for network, _, _ in rows)
        for network in sorted(networks, key=lambda name: name not in peers.values()):  # the peers first
            cells = [cost(rows.get((network, *each)), rows.get((peers[each[0]], *each))) for each in columns]
            lines.append([f"`{network}`", *cells])
        texts.append(markdown([task, *(f"{dims}D {name}" for dims, name in columns)], lines))
    return "\n\n".join(texts)


def cost(row: Row | None, peer: Row | None) -> str:
    """Time and memory of a network, then those of its peer over them; "-" for a form that it lacks."""
    if row is None:
        return "-"
    peak = row["peak_mib"]
    text = time_and_memory(row["ms"], peak)
    if peer is None or row is peer:
        return text
    text += f": **{median(peer['ms']) / median(row['ms']):.2f}**"
    return f"{text} ({peer['peak_mib'] / peak:.1f})" if peak and peer["peak_mib"] else text
