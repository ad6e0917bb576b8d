"""Check everything that an nnU-Net run with this package needs. torch is imported after the quick checks."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.errors import first_line
from medmixers.nnunet.environment import TRAINER_VARIABLE, trainer_folder

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PACKAGES = ("torch", "monai", "nnunetv2", "timm")
ENV_ADVICE = 'eval "$(medmixers nnunet env)"'
OTHER_LINES = "first do what the other lines say"
CPU_ADVICE = (
    'eval "$(medmixers nnunet env --cpu)" makes nnU-Net\'s own trainers 1.2 to 2 times faster; those of medmixers need '
    "no such setting"
)


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: name of the check.
        found: what is there.
        advice: what to do; empty if nothing.
        is_hint: whether the advice is a hint only: training works without it.
    """

    what: str
    found: str
    advice: str = ""
    is_hint: bool = False

    @property
    def is_wrong(self) -> bool:
        """Whether this stops a run."""
        return bool(self.advice) and not self.is_hint

    def __str__(self) -> str:
        state = "wrong" if self.is_wrong else "note" if self.advice else "ok"
        return f"{state:5}  {self.what}: {self.found}" + (f"\n       -> {self.advice}" if self.advice else "")


def examine(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """All checks, in the order in which a run would fail."""
    return [
        Finding("python", sys.version.split()[0]),
        Finding("medmixers", version("medmixers")),
        *_packages(),
        *_folders(environment),
        _commands(),
        _variable(environment),
        *_workers(environment),
        _trainers(),
        *_run_variables(),
        *_device(environment),
    ]


def _packages() -> Iterator[Finding]:
    needed = {item.name: item.specifier for item in map(Requirement, requires("medmixers") or []) if not item.marker}
    for name in PACKAGES:
        specifier = needed[name]
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "not installed", f'pip install "{name}{specifier}"')
            continue
        fits = specifier.contains(found, prereleases=True)
        yield Finding(name, found, "" if fits else f'pip install "{name}{specifier}"')


def _folders(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in FOLDER_VARIABLES:
        value = environment.get(name)
        if not value:
            yield Finding(name, "not set", f"export {name}=/a/folder")
        elif not Path(value).is_dir():
            advice = f"mkdir -p {shlex.quote(value)}, or set {name} to another folder"
            yield Finding(name, f"{value} is not a folder", advice)
        elif not os.access(value, os.R_OK if name == "nnUNet_raw" else os.W_OK):
            yield Finding(name, f"{value} cannot be used", f"change its permissions, or set {name} to another folder")
        else:
            yield Finding(name, value)


def _commands() -> Finding:
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("nnUNetv2_train")
    if found:
        return Finding("nnUNetv2_train", found)
    advice = f"activate this environment ({scripts}), or use: medmixers nnunet run nnUNetv2_train"
    return Finding("nnUNetv2_train", "not on PATH", advice)


def _variable(environment: Mapping[str, str]) -> Finding:
    value = environment.get(TRAINER_VARIABLE, "")
    folders = [folder for folder in value.split(os.pathsep) if folder.strip()]
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        return Finding(TRAINER_VARIABLE, f"{missing[0]} is not a folder", f"remove it from {TRAINER_VARIABLE}")
    if str(trainer_folder()) not in folders:
        return Finding(TRAINER_VARIABLE, value or "not set", ENV_ADVICE)
    return Finding(TRAINER_VARIABLE, value)


def _trainers() -> Finding:
    """Ask nnU-Net for each trainer; an import error in another folder of the variable hides ours."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

            from medmixers.nnunet.trainer_classes import TRAINERS
    except Exception as error:  # a package is missing, or a variable stops nnU-Net's own import
        return Finding("trainers", first_line(error), OTHER_LINES)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for name in TRAINERS:
                recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:  # nnU-Net finds no such trainer
        return Finding("trainers", first_line(error), ENV_ADVICE)
    except Exception as error:  # a folder of the user may raise anything
        advice = f"correct the file that raises this, or remove its folder from {TRAINER_VARIABLE}"
        return Finding("trainers", first_line(error), advice)
    return Finding("trainers", f"{len(TRAINERS)} found")


def _run_variables() -> Iterator[Finding]:
    try:
        from medmixers.nnunet.architecture import RUNTIMES, runtime_from_environment
        from medmixers.nnunet.trainer import (
            MINUTES_VARIABLE,
            minutes_from_environment,
            pretrained_from_environment,
            run_length_from_environment,
        )
    except Exception as error:  # a package is missing, or a variable stops nnU-Net's own import
        yield Finding("nnU-Net", f"cannot be imported: {first_line(error)}", OTHER_LINES)
        return
    advice = "correct or unset the variable"
    try:
        lengths = run_length_from_environment()
        yield Finding("run", ", ".join(f"{key} {value}" for key, value in lengths.items()) or "nnU-Net's own length")
    except ValueError as error:
        yield Finding("run", str(error), advice)
    try:
        if MINUTES_VARIABLE in os.environ:
            minutes = minutes_from_environment(10, trainer="a trainer _10minutes")
            yield Finding("minutes", f"{minutes}, of the trainers _10minutes; the others refuse {MINUTES_VARIABLE}")
    except ValueError as error:
        yield Finding("minutes", str(error), advice)
    try:
        if (runtime := runtime_from_environment()) != RUNTIMES[0]:
            yield Finding("runtime", runtime)
    except ValueError as error:
        yield Finding("runtime", str(error), advice)
    try:
        if pretrained := pretrained_from_environment():
            yield Finding("start weights", pretrained)
    except ValueError as error:
        yield Finding("start weights", str(error), advice)


def _device(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The device that training would use. nnU-Net's default is cuda, and without it training stops."""
    try:
        import torch
    except ImportError:
        return  # _packages advises to install it
    if torch.cuda.is_available():
        yield Finding("device", f"cuda ({torch.cuda.get_device_name(0)}); -device cpu takes the CPU")
        return
    if torch.backends.mps.is_available():
        yield Finding("device", "no CUDA GPU", "add to nnUNetv2_train and nnUNetv2_predict: -device mps", is_hint=True)
        return
    yield Finding("device", "no GPU", "add to nnUNetv2_train and nnUNetv2_predict: -device cpu", is_hint=True)
    if platform.libc_ver()[0] == "glibc":
        missing = [name for name in ALLOCATOR_VARIABLES if name not in environment]
        found = f"{', '.join(missing)} not set" if missing else "set for training on a CPU"
        yield Finding("allocator", found, CPU_ADVICE if missing else "", is_hint=True)


def _workers(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The numbers of processes. One that is no number stops the import of nnU-Net."""
    for name, least in (("nnUNet_n_proc_DA", 0), ("nnUNet_def_n_proc", 1)):
        value = environment.get(name)
        if value is not None and not (value.isascii() and value.isdigit() and int(value) >= least):
            found = f"{value!r} is not a whole number of at least {least}"
            yield Finding(name, found, f"correct or unset {name}")
    name = "nnUNet_n_proc_DA"
    if environment.get(name) == "0":
        advice = f"unset it for nnUNetv2_plan_and_preprocess, or use: {name}=1 nnUNetv2_plan_and_preprocess ..."
        yield Finding(name, "0 is good for training on a CPU, but it stops nnU-Net's planning", advice, is_hint=True)
