"""What a prediction has done, on disk: which case, with which setup, from which input to which output.

Each process appends lines of JSON to a file of its own in the output folder, ``.predicted_HOST_PROCESS.jsonl``. A line
is written once the outputs of its case are whole: a kill loses at most the case that was being predicted.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.files import code_digest, file_digest, file_state

PACKAGE = Path(__file__).parents[1]
# Keys of inference.json that change where a prediction is made and written, not what it is.
ELSEWHERE = {"bundle_root", "ckpt_path", "datalist", "dataset_dir", "logits_memory_gb", "num_workers", "output_dir"}
ABOUT = {"_meta_", "continue_prediction", "keep_going", "part"}


def setup_digest(config: Mapping[str, Any], weights: Path) -> str:
    """Digest of all that a prediction depends on but its image: weights, configs, options, code, versions.

    Files that an option names count by their content too.

    Args:
        config: of the bundle as it runs, options included.
        weights: file of the weights, where there is one.
    """
    import monai
    import numpy
    import torch

    digest = hashlib.sha256()
    kept = {key: value for key, value in config.items() if key not in ELSEWHERE | ABOUT}
    versions = {module.__name__: module.__version__ for module in (monai, numpy, torch)}
    digest.update(json.dumps([kept, versions], sort_keys=True, default=repr).encode())
    root = Path(config.get("bundle_root", "."))
    for file in [weights, *_named_files(kept, root), *sorted(root.glob("configs/*/*.json"))]:  # the plans of nnU-Net
        digest.update(file_digest(file).encode() if file.is_file() else b"none")
    digest.update(code_digest(PACKAGE).encode())
    return digest.hexdigest()


def _named_files(value: Any, root: Path) -> Iterator[Path]:
    """Files whose path, or paths with commas between, are texts of a config, from here or from the bundle's folder."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else []
    yield from (place for name in names for place in (Path(name), root / name) if os.path.isfile(place))
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _named_files(item, root)


def input_states(files: Sequence[Path]) -> dict[str, list[int]]:
    """Path -> its :func:`~medmixers.files.file_state`, of each file of a case and in a DICOM series."""
    found = sorted(path for file in files for path in (file.iterdir() if file.is_dir() else [file]) if path.is_file())
    return {os.path.abspath(path): file_state(path) for path in found}


class PredictionRecord:
    """The record in an output folder.

    Args:
        folder: the output folder.
        setup: of :func:`setup_digest`.
    """

    def __init__(self, folder: Path, setup: str) -> None:
        self.folder, self.setup = folder, setup
        self.file = folder / f".predicted_{socket.gethostname()}_{os.getpid()}.jsonl"

    def done(self, cases: Iterable[Mapping[str, list[int]]]) -> Iterator[bool]:
        """Whether each case is done: with this setup, from the content that its inputs have, and with whole outputs.

        As git does, a file whose size and times are those of the record is taken as unchanged; of any other one, and of
        outputs always, the content is compared.

        Args:
            cases: :func:`input_states` of each.
        """
        lines = {frozenset(line["inputs"]): line for line in self._lines() if line["setup"] == self.setup}
        for states in cases:
            line = lines.get(frozenset(states))
            yield line is not None and self._holds(line, states)

    def add(self, before: Mapping[str, list[int]], outputs: Sequence[Path]) -> None:
        """Record a case, unless an input has changed since ``before`` or nothing was written.

        Args:
            before: :func:`input_states` before anything was read.
            outputs: files.
        """
        inputs = {name: [*state, file_digest(Path(name))] for name, state in before.items()}
        if not outputs or any(file_state(Path(name)) != state for name, state in before.items()):
            return
        written = {os.path.relpath(path, self.folder): file_digest(path) for path in outputs}
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"setup": self.setup, "inputs": inputs, "outputs": written}) + "\n")

    def delete(self) -> None:
        """Delete what this process recorded."""
        self.file.unlink(missing_ok=True)

    def _holds(self, line: Mapping[str, Any], states: Mapping[str, list[int]]) -> bool:
        for name, (*recorded, digest) in line["inputs"].items():
            if states[name] != recorded and file_digest(Path(name)) != digest:
                return False
        outputs = {self.folder / name: digest for name, digest in line["outputs"].items()}
        return all(path.is_file() and file_digest(path) == digest for path, digest in outputs.items())

    def _lines(self) -> Iterator[Any]:
        """Lines of all records in the folder; one that a kill cut off is left out."""
        for path in sorted(self.folder.glob(".predicted_*.jsonl"), key=lambda each: each.stat().st_mtime_ns):
            for text in path.read_text("utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if isinstance(line, dict) and line.keys() == {"setup", "inputs", "outputs"}:
                    yield line
