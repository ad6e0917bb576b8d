"""Record the parameters and the export support of every network in results/networks.json; render the documents' tables.

record_networks.py            count all networks, measure the exports that are not recorded yet
record_networks.py --again    measure every export again (half an hour on a core)
record_networks.py --check    change nothing; exit status 1 if a count or a name differs
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exports import measure_exports, sampled_networks
from samples import count_parameters

from medmixers.errors import one_line_errors
from medmixers.results import NETWORK_FACTS, documents, network_facts, write_json
from medmixers.variants import NETWORKS

ROOT = Path(__file__).resolve().parents[2]
DIMS = {"2D": 2, "3D": 3}


def count_all() -> dict[str, dict[str, int | None]]:
    """Parameters of every network."""
    return {name: {key: count_parameters(name, dims) for key, dims in DIMS.items()} for name in sorted(NETWORKS)}


def differences(facts: dict[str, Any]) -> list[str]:
    """Where the recorded facts differ from the code."""
    counts = count_all()
    lines = [f"parameters: {name}" for name in counts if facts["parameters"].get(name) != counts[name]]
    lines += [f"parameters of no network: {name}" for name in facts["parameters"] if name not in counts]
    sampled = sampled_networks()
    lines += [f"exports of no network: {label}" for label in facts["exports"] if label not in sampled]
    lines += [f"exports not measured yet: {label}" for label in sampled if label not in facts["exports"]]
    return lines


def record(facts: dict[str, Any], *, again: bool) -> None:
    """Count, measure what is missing or everything, and write after each network."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxruntime", "monai"))
    known = {} if again else facts["exports"]
    exports = {label: known[label] for label in sampled_networks() if label in known}
    facts = {"parameters": count_all(), "exports": exports}
    for label in sampled_networks():
        if label not in exports:
            exports[label] = {key: measure_exports(label, dims) for key, dims in DIMS.items()}
            exports[label]["measured with"] = versions
            print(label, exports[label], flush=True)
        write_json(NETWORK_FACTS, facts)
    documents.write(ROOT)


@one_line_errors("record_networks")
def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure every export again")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    arguments = parser.parse_args()
    facts = network_facts() if NETWORK_FACTS.is_file() else {"parameters": {}, "exports": {}}
    if arguments.check:
        lines = differences(facts)
        print("\n".join(lines or ["counts and names agree"]))
        return 1 if lines else 0
    warnings.filterwarnings("ignore")  # of the tracers, by the hundred
    logging.disable(logging.WARNING)
    record(facts, again=arguments.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
