"""What the data of a study holds: a digest of each file, read once and again only where the file was touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingFileError
from medmixers.files import file_digest, file_state, written_whole
from medmixers.progress import progress
from medmixers.study.engine.datasets import definition
from medmixers.study.engine.records import difference, read_json
from medmixers.study.rows import named
from medmixers.study.segmentation import label_names, read_label

FILES = "files.json"  # in a study's folder: file -> its state, digest, and the label values that it was checked for
SHORT = 16  # digits of a digest
AGAIN = "medmixers study run says what that changes"


class Contents:
    """Digests of files, kept in a study's folder.

    Args:
        study: the study's folder.
    """

    def __init__(self, study: Path) -> None:
        self.file = study / FILES
        self.known: dict[str, dict[str, Any]] = read_json(self.file) or {}
        self.is_new = False

    def digest(self, paths: Iterable[str]) -> str:
        """Digest of files, one after the other. Raises MissingFileError where one does not exist."""
        return _short([self._of_file(path)["digest"] for path in _files(paths)])

    def check_labels(self, path: str, names: Mapping[int, str] | None) -> None:
        """Raise InputError where a label map holds other values than ``names``, or a mask (None) is none."""
        known, valid = self._of_file(path), "mask" if names is None else list(names)
        if known.get("labels") != valid:
            read_label(Path(path), names)
            known["labels"], self.is_new = valid, True

    def save(self) -> None:
        """Write what is new into the study's folder."""
        if self.is_new:
            with written_whole(self.file) as partial:
                partial.write_text(json.dumps(self.known), encoding="utf-8")

    def _of_file(self, path: str) -> dict[str, Any]:
        state = file_state(Path(path))[:3]  # some file systems number their files anew with each mount
        known = self.known.get(path)
        if known is None or known["state"] != state:
            digest = file_digest(Path(path))
            if known is not None and known["digest"] == digest:
                known["state"] = state
            else:
                known = self.known[path] = {"state": state, "digest": digest}
            self.is_new = True
        return known


def add_contents(study: Path, plan: Mapping[str, Any]) -> None:
    """Put into a plan what its files hold, after a check of the labels of all cases to test.

    Each data set gets ``fingerprint``, and ``contents``: digests of the parts of each fold. Each case gets ``content``.

    Args:
        study: the study's folder, where the digests are kept.
        plan: content of plan.json, which is changed.

    Raises:
        MissingFileError, InputError: a file does not exist, or a label map holds a value that is no label.
    """
    contents = Contents(study)
    try:
        for row in plan["datasets"]:
            tested = {case for part in row["parts"].values() for case in part["test"]}
            names = label_names(row["classes"], row["ignore_label"]) if row["kind"] == "segmentation" else {}
            for name, case in progress(row["cases"].items(), f"read {row['name']}", total=len(row["cases"])):
                case["content"] = _content(contents, case, row["kind"])
                if name in tested and row["kind"] == "segmentation":
                    for path in _truths(case):
                        contents.check_labels(path, None if isinstance(case["truth"], dict) else names)
            cases = row["cases"].items()
            row["fingerprint"] = _short(sorted([name, case["group"], case["content"]] for name, case in cases))
            row["contents"] = {key: _of_parts(row, part) for key, part in row["parts"].items()}
    finally:
        contents.save()


def _of_parts(row: Mapping[str, Any], part: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Digests of the parts. "test" is what a prediction reads, "truth" what the score reads besides."""
    cases = row["cases"]
    with_class = row["kind"] == "classification"  # the table of probabilities holds it

    def digest(names: Sequence[str], *keys: str) -> str:
        rows = [[name, *(cases[name]["content"][key] for key in keys)] for name in names]
        return f"{len(rows)} cases ({_short(sorted(rows))})"

    truth = [[name, cases[name]["group"], cases[name]["content"]["truth"]] for name in part["test"]]
    return {
        **{key: digest(part[key], "image", "truth") for key in ("training", "validation")},
        "test": digest(part["test"], *(("image", "truth") if with_class else ("image",))),
        "truth": _short(sorted(truth)),
    }


def changed_cases(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Cases that differ between two plans, as "data set brain: fold 0 tests a, not b; image of c"; empty for none."""
    listed = []
    old_rows = {row["name"]: row for row in before.get("datasets", ())}
    for row in now["datasets"]:
        old = old_rows.get(row["name"])
        if old is not None and (said := [*_changed_parts(old, row), *_changed_files(old, row)]):
            listed.append(f"data set {row['name']}: {'; '.join(said)}")
    return "; ".join(listed)


def _changed_parts(old: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    for key, part in row["parts"].items():
        for name in ("training", "validation", "test"):
            first, second = set(old["parts"].get(key, part)[name]), set(part[name])
            where = name if key == "test" else f"{name} of fold {key}"
            if second - first:
                yield f"new in {where}: {named(sorted(second - first))}"
            if first - second:
                yield f"no longer in {where}: {named(sorted(first - second))}"


def _changed_files(old: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    for key, word in (("image", "image"), ("truth", "label")):
        changed = [
            name for name, case in row["cases"].items()
            if (known := old["cases"].get(name, {}).get("content")) and known[key] != case["content"][key]
        ]  # fmt: skip
        if changed:
            yield f"other {word} of {named(changed)}"


def refuse_changed(study: Path, name: str, row: Mapping[str, Any], cases: Iterable[str]) -> None:
    """Refuse to work on data that was changed after the study was planned.

    Args:
        study: the study's folder.
        name: of the job.
        row: its data set's row of the plan.
        cases: that it works on.

    Raises:
        InputError: one line that names the file, or the values of the task.
    """
    if changed := difference(row["definition"], definition(row)):
        what = row["task"] or f"{row['folder']}/dataset.json"
        raise InputError(f"{name}: {what} was changed after the study was planned: {changed}; {AGAIN}")
    contents = Contents(study)
    for case in cases:
        planned = row["cases"][case]
        now = _content(contents, planned, row["kind"])
        for key, files in (("image", planned["image"]), ("truth", _truths(planned))):
            if now[key] != planned["content"][key]:
                raise InputError(f"{name}: {', '.join(files)} was changed after the study was planned; {AGAIN}")


def refuse_changed_weights(name: str, entry: Mapping[str, Any]) -> None:
    """Refuse to start a training from a file of weights that was changed after the study was planned.

    Args:
        name: of the job.
        entry: its entry's row of the plan.

    Raises:
        MissingFileError, InputError: one line that names the file.
    """
    if not entry.get("start"):
        return
    weights, planned = entry["start"]["weights"], entry["what"]["pretrained"]
    if weights == planned:  # those of timm; the plan has the digest of a file
        return
    if not Path(weights).is_file():
        raise MissingFileError(f"{name}: there is no file {weights}")
    if file_digest(Path(weights)) != planned:
        raise InputError(f"{name}: {weights} was changed after the study was planned; {AGAIN}")


def _content(contents: Contents, case: Mapping[str, Any], kind: str) -> dict[str, str]:
    truth = case["truth"] if kind == "classification" else contents.digest(_truths(case))
    return {"image": contents.digest(case["image"]), "truth": truth}


def _truths(case: Mapping[str, Any]) -> list[str]:
    return list(case["truth"].values()) if isinstance(case["truth"], dict) else [case["truth"]]


def _files(paths: Iterable[str]) -> Iterator[str]:
    """The files, and those in folders."""
    for path in paths:
        if Path(path).is_dir():
            yield from sorted(str(file) for file in Path(path).rglob("*") if file.is_file())
        elif Path(path).is_file():
            yield path
        else:
            raise MissingFileError(f"there is no file {path}")


def _short(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:SHORT]
