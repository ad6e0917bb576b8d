"""What an nnU-Net run with this package needs, looked at one by one. No torch before the trainers are looked for."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from medmixers.errors import first_line
from medmixers.nnunet.environment import TRAINER_VARIABLE, trainer_folder

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PACKAGES = ("torch", "monai", "nnunetv2", "timm")
ENV_ADVICE = 'eval "$(medmixers nnunet env)"'


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Args:
        what: its name.
        found: what it is.
        advice: what to do, empty if it is right.
    """

    what: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{'wrong' if self.advice else 'ok':5}  {self.what}: {self.found}" + (
            f"\n       -> {self.advice}" if self.advice else ""
        )


def examine(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Everything, in the order in which it fails."""
    return [
        Finding("python", sys.version.split()[0]),
        Finding("medmixers", version("medmixers")),
        *_packages(),
        *_folders(environment),
        _commands(),
        _variable(environment),
        _trainers(),
        *_run_variables(),
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
            yield Finding(name, f"{value} is no folder", f"mkdir -p '{value}', or point {name} elsewhere")
        elif not os.access(value, os.R_OK if name == "nnUNet_raw" else os.W_OK):
            yield Finding(name, f"{value} cannot be used", f"change its permissions, or point {name} elsewhere")
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
        return Finding(TRAINER_VARIABLE, f"{missing[0]} is no folder", f"take it out of {TRAINER_VARIABLE}")
    if str(trainer_folder()) not in folders:
        return Finding(TRAINER_VARIABLE, value or "not set", ENV_ADVICE)
    return Finding(TRAINER_VARIABLE, value)


def _trainers() -> Finding:
    """Ask nnU-Net itself for each trainer; an import error in another folder of the variable hides ours."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

            from medmixers.nnunet.trainer_classes import TRAINERS

            for name in TRAINERS:
                recursive_find_trainer_class_by_name(name)
    except Exception as error:  # whatever a folder of the user's raises
        return Finding("trainers", first_line(error), ENV_ADVICE)
    return Finding("trainers", f"{len(TRAINERS)} found")


def _run_variables() -> Iterator[Finding]:
    from medmixers.nnunet.trainer import pretrained_from_environment, run_length_from_environment

    advice = "correct or unset the variable"
    try:
        lengths = run_length_from_environment()
        yield Finding("run", ", ".join(f"{key} {value}" for key, value in lengths.items()) or "nnU-Net's own length")
    except ValueError as error:
        yield Finding("run", str(error), advice)
    try:
        if pretrained := pretrained_from_environment():
            yield Finding("start weights", pretrained)
    except ValueError as error:
        yield Finding("start weights", str(error), advice)
