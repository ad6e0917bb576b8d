"""What a study asks of a Slurm cluster for each of its jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medmixers.study.engine.lines import Reader

TEXTS = ("partition", "account", "qos", "constraint", "exclude", "gres")  # as sbatch's options
SLURM_KEYS = (*TEXTS, "time", "mem", "cpus", "gpus")
TIME = re.compile(r"(?:(?P<days>\d+)-(?P<h>\d+)(?::(?P<m>\d+)(?::(?P<s>\d+))?)?|(?P<H>\d+):(?P<M>\d+):(?P<S>\d+))")
MEMORY = re.compile(r"\d+[KMGT]B?")
OF_GPU = re.compile(r"\b(gpu|shard|mps)\b")  # Slurm's generic resources of a GPU or of a part of one
SAFE_TEXT = re.compile(r"[\w.,:=&|()\[\]*+/@!-]+")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What Slurm gives to each job. None leaves it to the cluster.

    Args:
        partition, account, qos, constraint, exclude, gres: as the options of sbatch.
        time: limit of one start, in minutes; an unfinished training is queued again.
        mem: for example "32G".
        cpus: CPU cores.
        gpus: 0 or 1; 0 where ``gres`` names a GPU.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    time: int
    mem: str | None = None
    cpus: int | None = None
    gpus: int = 1

    @property
    def has_gpu(self) -> bool:
        """Whether each job gets a GPU."""
        return self.gpus > 0 or bool(OF_GPU.search(self.gres or ""))


def read_slurm(reader: Reader) -> Slurm | None:
    """The keys of ``run: slurm``; None where a fault was noted."""
    before = len(reader.faults.found)
    reader.known(*SLURM_KEYS)
    texts = {key: reader.text(key) for key in TEXTS}
    for key, value in texts.items():
        if value is not None and not SAFE_TEXT.fullmatch(value):
            reader.fault(key, f"{key} must be one word as sbatch takes it, got {value!r}")
    gres_has_gpu = bool(OF_GPU.search(texts["gres"] or ""))
    gpus = reader.whole("gpus", 0 if gres_has_gpu else 1, low=0) or 0
    if gpus > 1:
        reader.fault("gpus", f"gpus must be 0 or 1: a training uses one GPU, got {gpus}")
    elif gpus and gres_has_gpu:
        reader.fault("gpus", f"gres {texts['gres']!r} asks for a GPU already; leave gpus out")
    mem = reader.text("mem")
    if mem is not None and not MEMORY.fullmatch(mem):
        reader.fault("mem", f"mem must be a number with its unit, such as 32G, got {mem!r}")
    time, cpus = _minutes(reader), reader.whole("cpus")
    if time is None or len(reader.faults.found) > before:
        return None
    return Slurm(**texts, time=time, mem=mem, cpus=cpus, gpus=gpus)


def _minutes(reader: Reader) -> int | None:
    """The time limit. YAML reads 24:00:00 without quotes as the number 86400, which Slurm would take for minutes."""
    value = reader.content.get("time")
    form = 'such as "24:00:00" (hours) or "2-12" (days and hours), in quotes'
    if value is None:
        reader.fault(None, f"slurm lacks 'time', the limit of one start, {form}")
        return None
    found = TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        reader.fault("time", f"time must be {form}; got {value!r}")
        return None
    part = {key: int(text or 0) for key, text in found.groupdict().items()}
    hours, seconds = 24 * part["days"] + part["h"] + part["H"], part["s"] + part["S"]
    minutes = 60 * hours + part["m"] + part["M"] + (seconds + 59) // 60
    if minutes < 1:
        reader.fault("time", f"time must be at least a minute, got {value!r}")
        return None
    return minutes
