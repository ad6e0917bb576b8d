"""The study's file: question, data, entries, seeds, folds, training and machine, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.study.engine.entries import Entry, read_entries
from medmixers.study.engine.lines import Faults, Reader, load_with_lines
from medmixers.study.engine.printed import Printed, read_printed
from medmixers.study.engine.slurm_options import Slurm, read_slurm
from medmixers.study.engine.training import Training, read_training
from medmixers.tasks import TASKS

KEYS = ("study", "question", "data", "entries", "seeds", "folds", "train", "run", "published")
METRICS = {
    "segmentation": ("dice", "nsd", "hd95"),
    "classification": ("auroc", "average_precision", "balanced_accuracy", "f1", "brier", "ece"),
}
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")
SAMPLES = ("cases",)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the study asks.

    Args:
        metric: name in :data:`METRICS`; None takes Dice or AUROC, by the data set's kind.
        margin: largest difference that does not matter, in the metric's units.
        alpha: level of all verdicts together.
        control: entry to compare all others with; None compares every pair.
        sd: declared standard deviations, "case", "seed" and "residual".
        pilot: table of scores that gives them.
        nsd_tolerance: mm, or pixels of a picture.
    """

    metric: str | None
    margin: float
    alpha: float
    control: str | None
    sd: Mapping[str, float] | None
    pilot: Path | None
    nsd_tolerance: float | None


@dataclass(frozen=True, kw_only=True)
class Data:
    """One data set.

    Args:
        name: of the data set; safe as a part of a file name.
        task: name of a task or path of its YAML file; None in the nnU-Net world.
        folder: of a bundle's data set.
        nnunet: number or name of an nnU-Net data set; None in the bundle world.
        configuration: of nnU-Net.
        metric, margin: instead of the question's.
        groups: CSV file with the columns case and group.
        training: how all entries train on it.
        place: of the item in the file.
    """

    name: str
    task: str | None = None
    folder: Path | None = None
    nnunet: str | None = None
    configuration: str = "3d_fullres"
    metric: str | None = None
    margin: float | None = None
    groups: Path | None = None
    training: Training
    place: tuple[str | int, ...] = ()

    @property
    def world(self) -> str:
        """ "bundle" or "nnunet"."""
        return "bundle" if self.nnunet is None else "nnunet"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the trainings run.

    Args:
        devices: one slot each, "cuda:0", "cpu", "mps".
        threads: CPU threads of each training; None leaves it to the tools.
        slurm: what each job asks of Slurm; None where the file does not say.
    """

    devices: tuple[str, ...] = ("cpu",)
    threads: int | None = None
    slurm: Slurm | None = None


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A study's file as read. ``faults`` keeps the lines, for checks that come later."""

    path: Path
    study: str
    question: Question
    data: tuple[Data, ...]
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...] | None
    machine: Machine
    printed: Printed | None
    faults: Faults


def read_spec(path: str | Path) -> Spec:
    """Read and check a study's file. Relative paths are relative to it.

    Raises:
        MissingFileError: there is no such file.
        InputError: not YAML, or faults; all of them at once, each with its line.
    """
    path = Path(path)
    content, faults = load_with_lines(path)
    root = Reader(content, (), faults)
    root.known(*KEYS)
    name = root.text("study", required=True) or ""
    if name and not SAFE_NAME.fullmatch(name):
        root.fault("study", f"study must be a file's name, of letters, digits, '_', '.' and '-', got {name!r}")
    for key in ("question", "data", "entries"):
        if key not in root.content:
            root.fault(None, f"a study lacks {key!r}")
    training = read_training(Reader(root.content.get("train"), ("train",), faults), Training())
    data = _read_data(root.content.get("data"), training, path.parent, faults)
    entries = read_entries(root.content.get("entries"), [each.name for each in data], faults)
    question = _read_question(Reader(root.content.get("question"), ("question",), faults), entries, path.parent)
    seeds = root.wholes("seeds", (0, 1, 2))
    folds = None if root.content.get("folds") in (None, "test") else root.wholes("folds", (0,))
    machine = _read_machine(Reader(root.content.get("run"), ("run",), faults))
    content = root.content.get("published")
    names = [each.name for each in data], [each.name for each in entries]
    printed = read_printed(content, *names, Reader(content, ("published",), faults))
    faults.raise_any()
    return Spec(
        path=path, study=name, question=question, data=data, entries=entries, seeds=seeds, folds=folds,
        machine=machine, printed=printed, faults=faults,
    )  # fmt: skip


def _read_question(reader: Reader, entries: tuple[Entry, ...], base: Path) -> Question:
    reader.known("metric", "margin", "alpha", "compare", "sd", "pilot", "samples", "nsd_tolerance")
    if reader.content and "margin" not in reader.content:
        reader.fault(None, "question lacks 'margin', the largest difference that does not matter: without it no "
                     "verdict can say that entries are equivalent")  # fmt: skip
    if reader.content.get("samples", "cases") not in SAMPLES:
        reader.fault(
            "samples",
            f"samples must be cases, got {reader.content['samples']!r}: fold means are not independent samples",
        )
    sd: dict[str, float] | None = None
    if reader.content.get("sd") is not None:
        inner = Reader(reader.content["sd"], ("question", "sd"), reader.faults)
        inner.known("case", "seed", "residual")
        for key in ("seed", "residual"):
            if inner.content and key not in inner.content:
                inner.fault(None, f"sd lacks {key!r}")
        sd = {key: inner.number(key, 1.0) for key in ("case", "seed", "residual") if key in inner.content}
    pilot = reader.text("pilot")
    if sd is not None and pilot is not None:
        reader.fault("pilot", "give sd or pilot, not both")
    return Question(
        metric=reader.choice("metric", [name for names in METRICS.values() for name in names]),
        margin=reader.number("margin", 1.0),
        alpha=reader.number("alpha", 0.05, high=1),
        control=_read_compare(reader, [entry.name for entry in entries]),
        sd=sd,
        pilot=None if pilot is None else base / pilot,
        nsd_tolerance=reader.number("nsd_tolerance"),
    )


def _read_compare(reader: Reader, entries: list[str]) -> str | None:
    compare = reader.content.get("compare", "all")
    if compare == "all":
        return None
    if not isinstance(compare, dict) or set(compare) != {"control"}:
        reader.fault("compare", f"compare must be all or {{control: ENTRY}}, got {compare!r}")
        return None
    inner = Reader(compare, ("question", "compare"), reader.faults)
    return inner.choice("control", entries) if entries else None


def _read_data(content: Any, training: Training, base: Path, faults: Faults) -> tuple[Data, ...]:
    if content is not None and not (isinstance(content, list) and content):
        faults.add(("data",), "data must be a list of data sets, as - {task: TASK, folder: FOLDER}")
        return ()
    found: list[Data] = []
    for index, item in enumerate(content or ()):
        reader = Reader(item, ("data", index), faults)
        read = _read_nnunet_data if "nnunet" in reader.content else _read_bundle_data
        each = read(reader, training, base)
        if each is not None and each.name in [other.name for other in found]:
            faults.add(each.place, f"two data sets have the name {each.name!r}; give one of them another: name: NAME")
        elif each is not None:
            found.append(each)
    return tuple(found)


def _shared(reader: Reader, default_name: str, training: Training, base: Path) -> dict[str, Any]:
    name = reader.text("name", re.sub(r"[^A-Za-z0-9_.-]", "_", default_name)) or ""
    if not SAFE_NAME.fullmatch(name) or "__" in name:
        reader.fault("name", f"name must be of letters, digits, '_', '.' and '-', without '__', got {name!r}")
    groups = reader.text("groups")
    own = Reader(reader.content.get("train"), (*reader.place, "train"), reader.faults)
    return {
        "name": name,
        "metric": reader.choice("metric", [name for names in METRICS.values() for name in names]),
        "margin": reader.number("margin"),
        "groups": None if groups is None else base / groups,
        "training": read_training(own, training),
        "place": reader.place,
    }


def _read_bundle_data(reader: Reader, training: Training, base: Path) -> Data | None:
    reader.known("task", "folder", "name", "metric", "margin", "groups", "train")
    task, folder = reader.text("task", required=True), reader.text("folder", required=True)
    if task is None or folder is None:
        return None
    is_file = task.endswith((".yaml", ".yml"))
    if is_file:
        task = str(base / task)
    elif task not in TASKS:
        reader.choice("task", TASKS, listing="medmixers list tasks")
        return None
    shared = _shared(reader, Path(task).stem, training, base)
    return Data(task=task, folder=base / folder, **shared)


def _read_nnunet_data(reader: Reader, training: Training, base: Path) -> Data | None:
    reader.known("nnunet", "configuration", "name", "metric", "margin", "groups", "train")
    number = reader.content["nnunet"]
    if not (type(number) is int and 0 <= number <= 999) and not re.fullmatch(r"Dataset\d{3}_\w+|\d{1,3}", str(number)):
        reader.fault("nnunet", f"nnunet must be a number such as 900 or a name such as Dataset900_Name, got {number!r}")
        return None
    text = str(number)
    shared = _shared(reader, f"Dataset{int(text):03d}" if text.isdigit() else text, training, base)
    configurations = ("2d", "3d_fullres", "3d_lowres")
    chosen = reader.choice("configuration", configurations, "3d_fullres") or "3d_fullres"
    return Data(nnunet=text, configuration=chosen, **shared)


def _read_machine(reader: Reader) -> Machine:
    reader.known("devices", "threads", "slurm")
    devices = reader.content.get("devices", ["cpu"])
    devices = [devices] if isinstance(devices, str) else devices
    if not isinstance(devices, list) or not devices or not all(DEVICE.fullmatch(str(each)) for each in devices):
        reader.fault("devices", f"devices must be a list such as [cuda:0, cuda:1] or [cpu, cpu], got {devices!r}")
        devices = ["cpu"]
    names = [f"{each}:0" if each == "cuda" else str(each) for each in devices]
    twice = sorted({name for name in names if names.count(name) > 1 and name != "cpu"})
    if twice:
        reader.fault("devices", f"{', '.join(twice)} stands twice in devices: one training per GPU")
    slurm = None
    if "slurm" in reader.content:
        slurm = read_slurm(Reader(reader.content["slurm"], (*reader.place, "slurm"), reader.faults))
    return Machine(devices=tuple(names), threads=reader.whole("threads"), slurm=slurm)
