"""The command ``medmixers``: one thin line into each room."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medmixers.cli.nnunet import NnUNet, Size
from medmixers.errors import InputError


class List:
    """What there is, by name."""

    def networks(self) -> str:
        """Networks that `create_network`, bundles and trainers take, with their parameters in millions."""
        from medmixers.results import network_facts
        from medmixers.variants import NETWORKS

        counts = network_facts()["parameters"]
        head = ("NAME", "TASK", "2D", "3D", "SOURCE", "SUMMARY")
        rows = (
            (
                name,
                row.task,
                *(_millions(counts.get(name, {}).get(dims)) for dims in ("2D", "3D")),
                row.source,
                row.summary,
            )
            for name, row in sorted(NETWORKS.items())
        )
        return (
            f"{_table([head, *rows])}\n\n"
            "2D, 3D: million trainable parameters for 1 input channel and 2 outputs; - without such a form. Those\n"
            "bound to an image size are counted at 224 x 224 and 96 x 96 x 96."
        )

    def mixers(self) -> str:
        """Token mixers of the MetaFormer networks."""
        from medmixers.mixers import TOKEN_MIXERS

        return _table((name, row.summary) for name, row in sorted(TOKEN_MIXERS.items()))

    def tasks(self) -> str:
        """Tasks that bundles are made for."""
        from medmixers.tasks import TASKS

        return _table((name, row.task, row.title) for name, row in sorted(TASKS.items()))

    def bundles(self) -> str:
        """MONAI Bundles in the folder bundles/ of the repository."""
        from medmixers.bundles.catalog import BUNDLES

        return _table((name, row.network, row.version) for name, row in sorted(BUNDLES.items()))


class Demo:
    """Twelve simulated subjects from one real anatomy, and the report of `scripts/demo.sh`."""

    def data(self, out: str, cases: int = 12, held_out: int = 3, seed: int = 0) -> str:
        """Write the demo's data set in nnU-Net's raw format to the folder OUT."""
        from medmixers.demo.subjects import write_brain_demo

        folder = write_brain_demo(out, cases=cases, held_out=held_out, seed=seed)
        return f"{cases} cases, {held_out} of them held out: {folder}"

    def report(self, run: str, pictures: bool = True) -> str:
        """Dice of the held-out predictions in the folder RUN, and a picture a case."""
        from medmixers.demo.report import report

        return str(report(run, pictures=pictures))


class Dataset:
    """Data sets: from their own files to what bundles and nnU-Net read, and a check."""

    def convert(self, task: str, source: str, out: str, **options: Any) -> str:
        """Write the data set of a task from its own files in SOURCE to the new folder OUT, by groups into parts.

        Args:
            task: a task of `medmixers list tasks`.
            source: the folder as it was downloaded and unpacked.
            out: a folder that does not exist yet.
            options: of the task's converter; a wrong one lists them.
        """
        from medmixers.datasets.converters import convert

        return convert(task, source, out, **options)

    def check(self, folder: str) -> str:
        """Files, geometry, NaN and labels of every case; the first fault ends it in one line."""
        from medmixers.datasets import datalist_format
        from medmixers.datasets.audit import audit_nnunet_dataset
        from medmixers.datasets.audit_datalist import audit_datalist

        listed = (Path(folder) / datalist_format.FILE).is_file()
        return str(audit_datalist(folder) if listed else audit_nnunet_dataset(folder))


class Bundle:
    """MONAI Bundles: make one for your own task, share one with its weights and code, check one."""

    def new(self, task: str, network: str, mixer: str | None = None, recipe: str | None = None, out: str = ".") -> str:
        """A bundle of TASK (a YAML file or a name) with NETWORK and --mixer, in the folder --out."""
        from medmixers.bundles.new import new_bundle

        return f"the bundle, untrained: {new_bundle(task, network=network, mixer=mixer, recipe=recipe, out=out)}"

    def pack(self, name: str, weights: str | None = None, out: str = ".", metrics: str | None = None) -> str:
        """Pack a bundle (name or folder) with --weights, or its models/model.pt, into OUT/NAME_vX.Y.Z.zip.

        metrics: the CSV of an evaluation.
        """
        from medmixers.bundles.share.pack import pack_bundle

        return str(pack_bundle(name, weights=weights, out=out, metrics=metrics))

    def open(self, zip: str, out: str = ".") -> str:
        """Check a bundle's zip and unpack it to OUT/NAME."""
        from medmixers.bundles.share.archive import open_archive

        return str(open_archive(zip, out))

    def verify(self, name: str, static: bool = False, schema: str | None = None) -> str:
        """The fifteen checks of a bundle: a name, a folder or a zip. static: only those that run nothing."""
        from medmixers.bundles.verify.checks import verify_bundle

        report = verify_bundle(
            name, static=static, schema=schema, announce=lambda line: print(line, file=sys.stderr, flush=True)
        )
        if report.failed:
            print(report)
            raise InputError(f"{report.name}: {len(report.failed)} checks failed")
        return str(report)


class Explain:
    """What a trained network looks at."""

    def attention(self, model: str, image: str, out: str, fold: str | None = None, device: str = "cpu") -> str:
        """Token attention of an nnU-Net model folder on an image, as NIfTI in the image's geometry."""
        from medmixers.explain.nnunet_attention import nnunet_token_attention

        maps, _ = nnunet_token_attention(model, image, out=out, fold=fold, device=_usable_device(device))
        return f"{len(maps)} token attention maps of {image}: {out}"


class MedMixers:
    """Token mixers for medical imaging: networks for nnU-Net v2 and MONAI."""

    def __init__(self) -> None:
        self.list = List()
        self.demo = Demo()
        self.dataset = Dataset()
        self.bundle = Bundle()
        self.explain = Explain()
        self.nnunet = NnUNet()

    def profile(
        self,
        name: str,
        size: Size = (96, 96, 96),
        in_channels: int = 1,
        out_channels: int = 2,
        repeats: int = 5,
        threads: int = 1,
        device: str = "cpu",
        csv: str | None = None,
        **options: Any,
    ) -> str:
        """Parameters, MACs, latency and peak memory of one forward pass.

        Args:
            name: a network of `medmixers list networks`, or all: each in a process of its own, as CSV.
            size: of the image in voxels, as 224,224 or 96,96,96.
            in_channels: of the image.
            out_channels: of the logits.
            repeats: timed passes.
            threads: of the CPU.
            device: as torch names it.
            csv: file to write as CSV instead of printing.
            options: of the network, as --mixer grouped_conv --kernel_size 7.
        """
        import torch

        from medmixers.factory import list_networks
        from medmixers.profiling import profile_network, profile_to_csv

        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        request: dict[str, Any] = {
            "size": size,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "repeats": repeats,
            "device": _usable_device(device),
            **options,
        }
        if name == "all" or csv is not None:
            names = list_networks() if name == "all" else [name]
            text = profile_to_csv(names, file=csv, threads=threads, **request)
            return text.rstrip() if csv is None else f"{len(names)} network(s): {csv}"
        torch.set_num_threads(threads)
        return str(profile_network(name, **request))


def _table(rows: Any) -> str:
    cells = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f}"


def _usable_device(name: str) -> str:
    """``name`` if torch can compute there; ValueError otherwise."""
    import torch

    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError):  # torch without CUDA asserts
        valid = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise InputError(f"device {name!r} cannot be used here; valid: {', '.join(valid)}") from None
    return name


def _whole_number(name: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(f"{name} must be a whole number, got {word!r}") from None


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{name} must be a number, got {word!r}") from None


def _truth(name: str, word: str | bool) -> bool:
    truths = {"True": True, "true": True, "False": False, "false": False}
    if isinstance(word, str) and word not in truths:
        raise InputError(f"{name} must be True or False, got {word!r}")
    return word if isinstance(word, bool) else truths[word]


def _size(name: str, word: str) -> Size:
    try:
        return tuple(int(part) for part in word.strip("()[]").split(","))
    except ValueError:
        raise InputError(f"{name} must be whole numbers, as 224,224 or 96,96,96, got {word!r}") from None


# by the annotation of a command's parameter; any other is taken as it was typed, a folder named 900 too
_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "int": _whole_number,
    "float": _number,
    "bool": _truth,
    "Size": _size,
    "Size | None": _size,
}


def _find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command, or the group of commands, that the first words name; and the words after it."""
    found: Any = MedMixers()
    rest = list(words)
    while rest and not callable(found) and not rest[0].startswith("-"):
        names = [name for name in dir(found) if not name.startswith("_")]
        word = rest.pop(0)
        if word not in names:
            raise InputError(f"there is no command {word!r}; valid: {', '.join(names)}")
        found = getattr(found, word)
    return found, rest


def _read_words(words: list[str], parameters: Mapping[str, inspect.Parameter]) -> tuple[list[str], dict[str, Any]]:
    """Positional words, and flag -> its word; True for a flag without one. Refuses flags the command lacks."""
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    valid = [name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    positional: list[str] = []
    flags: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            positional.append(word)
            continue
        flag, equals, value = word.lstrip("-").partition("=")
        name = flag.replace("-", "_")
        if len(name) == 1 and not word.startswith("--"):  # -c, as fire's help offers where one flag begins with it
            starting = [each for each in valid if each.startswith(name)]
            name = starting[0] if len(starting) == 1 else name
        switched_off = name.removeprefix("no")
        if name not in valid and switched_off in valid and parameters[switched_off].annotation == "bool":
            flags[switched_off] = False
            continue
        if name not in valid and (not free or not word.startswith("--")):
            listed = ", ".join(f"--{each}" for each in valid) or "none"
            raise InputError(f"there is no flag {word.partition('=')[0]}; valid: {listed}")
        is_switch = name in valid and parameters[name].annotation == "bool"
        if equals:
            flags[name] = value
        elif rest and not _is_flag(rest[0]) and (not is_switch or rest[0].lower() in ("true", "false")):
            flags[name] = rest.pop(0)
        elif name in valid and not is_switch:
            raise InputError(f"--{name} needs a value")
        else:
            flags[name] = True
    return positional, flags


def _is_flag(word: str) -> bool:
    return re.match("--?[A-Za-z]", word) is not None  # -1 is a number


def _bind(command: Callable[..., Any], words: list[str]) -> inspect.BoundArguments:
    """What the words mean as arguments of the command. Raises ValueError, before anything has run."""
    from fire.parser import DefaultParseValue

    signature = inspect.signature(command)
    positional, flags = _read_words(words, signature.parameters)
    try:
        bound = signature.bind(*positional, **flags)
    except TypeError as error:
        listed = ", ".join(
            name.upper() if p.default is p.empty else f"--{name}" for name, p in signature.parameters.items()
        )
        raise InputError(f"{error}; it takes: {listed}") from None
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            read = {key: DefaultParseValue(word) if isinstance(word, str) else word for key, word in value.items()}
            bound.arguments[name] = read
        elif parameter.annotation in _READERS:
            bound.arguments[name] = _READERS[parameter.annotation](name, value)
    return bound


def main() -> None:
    """Entry point. Bad input ends in one line on stderr and exit status 2.

    fire writes the help and reads options' values. It does not call: it would run a command first and refuse a
    misspelled flag afterwards.
    """
    words = sys.argv[1:]
    try:
        if words[:2] == ["nnunet", "run"] and len(words) > 2:
            NnUNet().run(*words[2:])  # its flags are nnU-Net's
        command, rest = _find_command(words)
        wants_help = "-h" in rest or "--help" in rest
        if wants_help or not (callable(command) or rest):
            import fire

            path = words[: len(words) - len(rest)]
            fire.Fire(MedMixers, command=[*path, *(["--", "--help"] if wants_help else [])], name="medmixers")
            return
        if not callable(command):
            raise InputError(f"there is no flag {rest[0]} here; medmixers --help shows the commands")
        bound = _bind(command, rest)
        print(command(*bound.args, **bound.kwargs), flush=True)
    except BrokenPipeError:  # the reader, as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ValueError, OSError, ImportError) as error:
        print(f"medmixers: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
