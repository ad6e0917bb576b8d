"""Entries: what is compared. Lists multiply, and names are made of what differs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from medmixers.errors import InputError
from medmixers.mixers import TOKEN_MIXERS
from medmixers.registry import near_names, valid_names
from medmixers.study.engine.lines import Faults, Reader
from medmixers.variants import NETWORKS

PLANNERS = {  # name in a study's file -> planner class of nnU-Net, the plans that it writes
    "default": ("ExperimentPlanner", "nnUNetPlans"),
    **{f"ResEnc{size}": (f"nnUNetPlannerResEnc{size}", f"nnUNetResEncUNet{size}Plans") for size in "ML"},
    "ResEncXL": ("nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans"),
}


@dataclass(frozen=True)
class Entry:
    """One entry of the comparison.

    Args:
        name: unique, safe as a part of a file name.
        network: name for ``create_network``; None for nnU-Net's own network.
        options: of the network, mixer and kernel_size among them.
        trainer: of nnU-Net, for an entry of its own network.
        plans: name in :data:`PLANNERS`, for an entry of nnU-Net's own network.
        pretrained: start weights: a file, "timm:NAME", or True for those that timm publishes; None without.
        warm_start: whether token mixers take start weights too, where they fit.
        data: names of the data sets that it trains on; None means all.
        place: in the file.
    """

    name: str
    network: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    trainer: str | None = None
    plans: str = "default"
    pretrained: str | bool | None = None
    warm_start: bool = True
    data: tuple[str, ...] | None = None
    place: tuple[str | int, ...] = ()

    @property
    def what(self) -> dict[str, Any]:
        """What it is, without its name: equal for two entries that are the same."""
        if self.network is not None:
            start = {} if self.pretrained is None else {"pretrained": self.pretrained, "warm_start": self.warm_start}
            return {"network": self.network, **self.options, **start}
        return {"nnunet": self.trainer, "plans": self.plans}

    @property
    def weights_file(self) -> Path | None:
        """The file of start weights; None where timm downloads them or there are none."""
        named = isinstance(self.pretrained, str) and not self.pretrained.startswith("timm:")
        return Path(str(self.pretrained)) if named else None

    def trains_on(self, dataset: str) -> bool:
        """Whether it takes part in the comparison on this data set."""
        return self.data is None or dataset in self.data


def read_entries(content: Any, datasets: Sequence[str], faults: Faults) -> tuple[Entry, ...]:
    """The entries of a study's file, multiplied and named. Faults are noted."""
    if content is not None and not (isinstance(content, list) and content):
        faults.add(("entries",), "entries must be a list, as - {network: NETWORK, mixer: [MIXER, MIXER]}")
        return ()
    found: list[tuple[Entry, str | None]] = []
    for index, item in enumerate(content or ()):
        reader = Reader(item, ("entries", index), faults)
        name = reader.text("name")
        read = _read_nnunet if "nnunet" in reader.content else _read_networks
        for entry in read(reader, _read_datasets(reader, datasets)):
            found.append((entry, name))
    if not found and content:
        return ()
    named = _named(found)
    _check_different(named, faults)
    return tuple(named)


def _read_datasets(reader: Reader, datasets: Sequence[str]) -> tuple[str, ...] | None:
    names = reader.content.get("data")
    if names is None:
        return None
    names = [names] if isinstance(names, str) else names
    if isinstance(names, list):  # a star stands for any text
        names = [each for name in names for each in fnmatch.filter(datasets, str(name)) or [name]]
    wrong = [name for name in names if name not in datasets] if isinstance(names, list) else [names]
    if wrong and datasets:
        reader.fault("data", f"unknown data set {wrong[0]!r}; valid: {valid_names(wrong[0], datasets)}")
    return tuple(map(str, names)) if isinstance(names, list) else None


def _read_nnunet(reader: Reader, data: tuple[str, ...] | None) -> list[Entry]:
    reader.known("nnunet", "plans", "name", "data")
    trainers = _many(reader.content["nnunet"])
    plans = _many(reader.content.get("plans", "default"))
    valid = nnunet_trainers()
    for trainer in trainers:
        if trainer not in valid:
            near = ", ".join(near_names(trainer, valid)) or "nnUNetTrainer"
            reader.fault("nnunet", f"unknown nnU-Net trainer {trainer!r}; nearest: {near}")
    for each in plans:
        if each not in PLANNERS:
            reader.fault("plans", f"unknown plans {each!r}; valid: {valid_names(each, PLANNERS)}")
    return [
        Entry("", trainer=str(trainer), plans=str(each), data=data, place=reader.place)
        for trainer, each in product(trainers, plans)
    ]


def nnunet_trainers() -> list[str]:
    """Names of nnU-Net's trainers and of ours, read from their files: importing them would load torch."""
    spec = find_spec("nnunetv2")
    stock = Path(str(spec.origin)).parent / "training" / "nnUNetTrainer" if spec else Path()
    ours = Path(__file__).parents[2] / "nnunet" / "trainer_classes.py"
    texts = [path.read_text(encoding="utf-8") for path in (*stock.rglob("*.py"), ours)]
    return sorted({name for text in texts for name in re.findall(r"^class (nnUNetTrainer\w*)", text, re.MULTILINE)})


def _read_networks(reader: Reader, data: tuple[str, ...] | None) -> list[Entry]:
    if "network" not in reader.content:
        reader.fault(None, "an entry needs 'network', or 'nnunet' for nnU-Net's own")
        return []
    lists = {key: _many(value) for key, value in reader.content.items() if key not in ("name", "data")}
    if "plans" in lists:
        reader.fault("plans", "plans belongs to an entry of nnU-Net's own network: {nnunet: nnUNetTrainer, plans: ...}")
        return []
    for network in lists["network"]:
        _check_name(reader, "network", network, NETWORKS)
    _check_start(reader, lists)
    for mixer in lists.get("mixer", ()):
        for each in mixer if isinstance(mixer, list) else [mixer]:
            _check_name(reader, "mixer", each, TOKEN_MIXERS)
    entries: list[Entry] = []
    for values in product(*lists.values()):
        options = dict(zip(lists, values, strict=True))
        network = str(options.pop("network"))
        pretrained, warm_start = options.pop("pretrained", None), options.pop("warm_start", True)
        if isinstance(pretrained, str) and not pretrained.startswith("timm:"):
            pretrained = str(reader.faults.path.parent / pretrained)
        if not _has_kernel(options.get("mixer")):
            options.pop("kernel_size", None)
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        entry = Entry(
            "", network, options, pretrained=pretrained or None, warm_start=warm_start, data=data, place=reader.place
        )
        if entry.what not in [other.what for other in entries]:
            entries.append(entry)
    return entries


def _check_start(reader: Reader, lists: Mapping[str, list[Any]]) -> None:
    for value in lists.get("pretrained", ()):
        if value is not None and not isinstance(value, (bool, str)):
            reader.fault("pretrained", f"pretrained must be a file, timm:NAME, true or false, got {value!r}")
    for value in lists.get("warm_start", ()):
        if not isinstance(value, bool):
            reader.fault("warm_start", f"warm_start must be true or false, got {value!r}")
        elif "pretrained" not in lists:
            reader.fault("warm_start", "warm_start belongs to an entry with pretrained weights")


def _check_name(reader: Reader, key: str, name: Any, table: Mapping[str, Any]) -> None:
    try:
        table[name]
    except InputError as error:
        reader.fault(key, str(error))


def _has_kernel(mixer: Any) -> bool:
    """Whether one of the mixers has a kernel; networks without a choice of mixers keep the option too."""
    names = mixer if isinstance(mixer, list) else [mixer]
    return mixer is None or any(name in TOKEN_MIXERS and TOKEN_MIXERS[name].has_kernel for name in names)


def _many(value: Any) -> list[Any]:
    """The values of a key: a list multiplies, so a value that is a list itself stands in a list of its own."""
    return value if isinstance(value, list) and value else [value]


def _named(found: Sequence[tuple[Entry, str | None]]) -> list[Entry]:
    """Entries with names: the given one where an item is one entry, else the network and what differs within it."""
    groups: dict[Any, list[Entry]] = {}
    for entry, name in found:
        groups.setdefault(name or entry.network or entry.trainer, []).append(entry)
    with_mixers = {entry.network for entry, name in found if name is None and "mixer" in entry.options}
    named = []
    for entry, name in found:
        group = groups[name or entry.network or entry.trainer]
        parts = _parts(entry, group)
        head = [name or _short(entry)]
        if name is None and parts and with_mixers == {entry.network} and "mixer" in _differing(group):
            head = []  # the mixer says it
        text = re.sub(r"[^A-Za-z0-9_.-]+", "_", "_".join([*head, *parts])).strip("_.-")
        named.append(Entry(**{**vars(entry), "name": re.sub("_{2,}", "_", text)}))
    return named


def _short(entry: Entry) -> str:
    return (entry.network or entry.trainer or "").rpartition(":")[2]


def _differing(group: Sequence[Entry]) -> list[str]:
    """Keys whose values differ. That a mixer has no kernel is said by the mixer."""
    keys = dict.fromkeys(key for entry in group for key in entry.what)
    values = {key: {str(each.what.get(key)) for each in group} for key in keys}
    values.get("kernel_size", set()).discard("None")
    return [key for key in keys if len(values[key]) > 1]


def _parts(entry: Entry, group: Sequence[Entry]) -> list[str]:
    parts = []
    for key in sorted(_differing(group), key=lambda key: (key != "mixer", key != "kernel_size")):
        value = entry.what.get(key)
        if value is None or (key == "plans" and value == "default"):
            continue
        if key in ("pretrained", "warm_start"):
            parts.append("pretrained" if key == "pretrained" else "warm" if value else "cold")
            continue
        text = "_".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append({"mixer": text, "kernel_size": f"k{text}", "plans": text}.get(key, f"{key}_{text}"))
    return parts


def _check_different(entries: Sequence[Entry], faults: Faults) -> None:
    for index, entry in enumerate(entries):
        for other in entries[:index]:
            if entry.name == other.name and entry.what != other.what:
                faults.add(entry.place, f"two entries have the name {entry.name!r}; give one another, as name: NAME")
            elif entry.what == other.what and entry.place == other.place:
                faults.add(entry.place, f"entry {entry.name!r} stands twice")
            elif entry.what == other.what:
                line = faults.lines.get(other.place, 1)
                faults.add(entry.place, f"entry {entry.name!r} is the same as {other.name!r} in line {line}")
