"""Pack a study's scores with their provenance: no image, no path, no case's name.

A pack is the folder of a study cut down to what a comparison reads: plan.json, runs/ID/scores.csv and, where the metric
is one of all cases together, runs/ID/probabilities.csv. Names of cases and groups are HMAC-SHA256 digests with a key
that stays on the site.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from medmixers.bundles.share.archive import MANIFEST, Contents, write_archive
from medmixers.errors import InputError, MissingFileError
from medmixers.files import file_digest, refuse_overwriting_inputs, written_whole
from medmixers.study.engine.records import read_json, read_plan
from medmixers.study.pooled import POOLED
from medmixers.study.report.folder import share_of_tests
from medmixers.study.rows import ALL_CASES

CONTENTS = Contents("packs of scores", (".json", ".csv"), (MANIFEST,))
FORMAT = 1
ROOT, PROVENANCE, SALT = "scores", "provenance.json", "site_salt"
DIGITS = 16  # of a digest that stands for a name
PACKAGE = Path(__file__).resolve().parents[2]
SCORER = (
    "bundle_runtime/overlap.py", "study/classification.py", "study/pooled.py", "study/scores.py",
    "study/segmentation.py",
)  # fmt: skip
SCORER_VERSIONS = ("monai", "scikit-learn", "scipy", "numpy")
COSTS = ("parameters", "macs", "train_seconds", "epochs", "step_seconds", "peak_memory_mib")
OF_DATASET = (
    "name", "world", "kind", "classes", "metric", "margin", "spatial_dims", "ignore_label", "configuration", "training",
)  # fmt: skip


@dataclass(frozen=True)
class Pack:
    """What was packed. ``str()`` gives the lines for the terminal."""

    path: Path
    runs: int
    planned: int
    cases: int
    has_probabilities: bool

    def __str__(self) -> str:
        probabilities = ", with the probabilities and truth of each case" if self.has_probabilities else ""
        return (
            f"{self.path}\nSHA-256 {file_digest(self.path)}\nscores of {self.runs} of {self.planned} trainings on "
            f"{self.cases} cases{probabilities}; no image, no path; names of cases and groups as digests"
        )


def pack_study(study: str | Path, out: str | Path) -> Pack:
    """Write the scores of a study's finished runs with their provenance into a zip.

    The key of the digests is made once, in the study's folder, and is not packed. The same study gives the same bytes.

    Args:
        study: folder of the study.
        out: the zip. Its name without .zip names the site in a merge.

    Raises:
        MissingFileError: no study, or no run with scores yet.
        InputError: ``out`` is no .zip, or would replace an input.
    """
    folder, out = Path(study), Path(out)
    if out.suffix != ".zip":
        raise InputError(f"out must be a zip such as SITE.zip, got {str(out)!r}")
    if not (folder / "plan.json").is_file():
        raise MissingFileError(f"{folder} is not the folder of a study: there is no {folder / 'plan.json'}")
    plan = read_plan(folder)
    refuse_overwriting_inputs(out, [folder / "plan.json"])
    done = [run for run in plan["runs"] if (folder / "runs" / run["id"] / "scores.csv").is_file()]
    if not done:
        raise MissingFileError(f"no run of {folder} has scores yet")
    names = _Names(_salt(folder))
    files: dict[str, bytes | Path] = {}
    pooled = {dataset["name"] for dataset in plan["datasets"] if _metric(plan, dataset) in POOLED}
    for run in done:
        home, below = folder / "runs" / run["id"], f"runs/{run['id']}"
        files[f"{below}/scores.csv"] = names.hide_table(home / "scores.csv")
        if run["dataset"] in pooled:
            files[f"{below}/probabilities.csv"] = names.hide_table(home / "probabilities.csv")
        files[f"{below}/run.json"] = _json({key: _read(home / "run.json").get(key) for key in COSTS})
    small = _small_plan(plan, done, names)
    files["plan.json"] = _json(small)
    files[PROVENANCE] = _json(_provenance(folder, plan, done, names))
    write_archive(out, ROOT, files, contents=CONTENTS)
    cases = sum(len(dataset["cases"]) for dataset in small["datasets"])
    return Pack(out, len(done), len(plan["runs"]), cases, bool(pooled))


def _salt(folder: Path) -> bytes:
    """The site's key, made at the first call; only its owner may read it."""
    file = folder / SALT
    if not file.is_file():
        with written_whole(file) as partial:
            partial.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
            os.chmod(partial, 0o600)
    return file.read_text(encoding="ascii").strip().encode()


@dataclass(frozen=True)
class _Names:
    """Digests in place of names.

    Args:
        key: of the site.
    """

    key: bytes

    def hide(self, name: str) -> str:
        """The digest of a case's or group's name; "all cases" stays."""
        if name == ALL_CASES:
            return name
        return hmac.new(self.key, name.encode(), hashlib.sha256).hexdigest()[:DIGITS]

    def hide_table(self, file: Path) -> bytes:
        """A table with digests in the columns case and group."""
        if not file.is_file():
            raise MissingFileError(f"there is no table {file}")
        text = io.StringIO()
        with file.open(newline="", encoding="utf-8-sig") as content:
            reader = csv.DictReader(content)
            columns = list(reader.fieldnames or ())
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            for row in reader:
                writer.writerow(row | {key: self.hide(row[key]) for key in ("case", "group") if key in row})
        return text.getvalue().encode()


def _metric(plan: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    return str(dataset.get("metric") or plan["question"]["metric"])


def _small_plan(plan: Mapping[str, Any], runs: list[dict[str, Any]], names: _Names) -> dict[str, Any]:
    """The plan without paths, truths and names of cases."""
    datasets = []
    for dataset in plan["datasets"]:
        used = _scored_cases(dataset, runs)
        cases = {names.hide(case): {"group": names.hide(_group(dataset, case))} for case in used}
        kept = {key: dataset[key] for key in OF_DATASET if key in dataset}
        if (share := share_of_tests(dataset)) is not None:
            kept["test_share"] = share
        datasets.append({**kept, "cases": dict(sorted(cases.items())), "test": sorted(cases)})
    entries = [{key: value for key, value in entry.items() if key != "place"} for entry in plan["entries"]]
    kept_runs = [{key: run.get(key) for key in ("id", "dataset", "entry", "seed", "fold")} for run in runs]
    return {
        "study": plan["study"],
        "question": plan["question"],
        "datasets": datasets,
        "entries": entries,
        "runs": kept_runs,
        "versions": plan.get("versions"),
        "commit": plan.get("commit"),
        "refusals": plan.get("refusals") or [],
    }


def _scored_cases(dataset: Mapping[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    own = [run for run in runs if run["dataset"] == dataset["name"]]
    return sorted({case for run in own for case in run.get("cases") or dataset["test"]})


def _group(dataset: Mapping[str, Any], case: str) -> str:
    return str(dataset["cases"][case].get("group") or case)


def _provenance(folder: Path, plan: Mapping[str, Any], runs: list[dict[str, Any]], names: _Names) -> dict[str, Any]:
    counts = {}
    for dataset in plan["datasets"]:
        cases = _scored_cases(dataset, runs)
        groups = {_group(dataset, case) for case in cases}
        counts[dataset["name"]] = {"cases": len(cases), "groups": len(groups), "planned": len(dataset["cases"])}
    return {
        "format": FORMAT,
        "site": names.hide("site"),  # equal for two packs of one folder
        "spec": shared_spec(folder, plan),
        "code": _digest_of({path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}),
        "scorer": {
            "code": _digest_of({name: PACKAGE / name for name in SCORER}),
            "versions": {name: version(name) for name in SCORER_VERSIONS},
        },
        "counts": counts,
        "planned_runs": len(plan["runs"]),
        "runs": {run["id"]: _of_run(folder / "runs" / run["id"], run) for run in runs},
    }


def shared_spec(folder: Path, plan: Mapping[str, Any]) -> Any:
    """The study's YAML without what a site may choose: places of its data, numbers of named data sets, its machine.

    A task of the user's own is there by the digest of its file. None where the folder has no study.yaml.
    """
    file = folder / "study.yaml"
    if not file.is_file():
        return None
    spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    spec.pop("run", None)
    spec.get("question", {}).pop("pilot", None)
    planned = dict(enumerate(plan["datasets"]))
    for index, data in enumerate(spec.get("data", [])):
        for key in ("folder", "groups"):
            data.pop(key, None)
        if "name" in data and "nnunet" in data:
            data["nnunet"] = "any"
        task = str((planned.get(index) or {}).get("task") or "")
        if task.endswith((".yaml", ".yml")):
            data["task"] = f"SHA-256 {file_digest(Path(task))}" if Path(task).is_file() else Path(task).name
    return spec


def _of_run(home: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Entry, seed and fold of a run; digest of its bundle's configs; hash of what its training was made from."""
    configs = {path.name: path for path in (home / "bundle" / "configs").glob("*.json")}
    own = {name: path for name, path in configs.items() if not name.startswith("study_")}  # those hold paths
    record = _read(home / "train.json")
    return {
        **{key: run.get(key) for key in ("entry", "seed", "fold")},
        "configs": _digest_of(own) if own else None,
        "inputs": record.get("hash"),
    }


def _read(file: Path) -> dict[str, Any]:
    return dict(read_json(file) or {})


def _digest_of(files: Mapping[str, Path]) -> str:
    """One digest of several files and their names."""
    lines = "".join(f"{file_digest(path)}  {name}\n" for name, path in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
