"""The environment of nnU-Net's commands: ``nnUNet_extTrainer`` for our trainers, and glibc's allocator on a CPU."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.errors import InputError, MissingFileError
from medmixers.registry import valid_names

TRAINER_VARIABLE = "nnUNet_extTrainer"


def trainer_folder() -> Path:
    """The folder of this package that ``nnUNet_extTrainer`` must name."""
    return Path(__file__).resolve().parent / "trainers"


def trainer_path(environment: Mapping[str, str] = os.environ) -> str:
    """The value of ``nnUNet_extTrainer`` with our folder added after those that it already names."""
    folders = [folder for folder in environment.get(TRAINER_VARIABLE, "").split(os.pathsep) if folder.strip()]
    ours = str(trainer_folder())
    return os.pathsep.join(folders if ours in folders else [*folders, ours])


def export_lines(environment: Mapping[str, str] = os.environ, *, cpu: bool = False) -> str:
    """Shell lines for ``eval "$(medmixers nnunet env)"``.

    Args:
        environment: variables of the shell.
        cpu: add the allocator's settings for training on a Linux CPU.
    """
    variables = {TRAINER_VARIABLE: trainer_path(environment), **(ALLOCATOR_VARIABLES if cpu else {})}
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def stock_commands() -> list[str]:
    """Names of the commands that the installed nnU-Net has."""
    points = distribution("nnunetv2").entry_points
    return sorted(point.name for point in points if point.group == "console_scripts")


def run_stock_command(command: str, *arguments: str) -> int:
    """Run a stock nnU-Net command that finds our trainers.

    Args:
        command: one of :func:`stock_commands`.
        arguments: passed on unchanged.

    Returns:
        Its exit status; 128 + N if signal N ended it, as a shell reports it.

    Raises:
        InputError: not a command of nnU-Net; the message gives the nearest.
        MissingFileError: nnU-Net has the command, but its script is not installed.
    """
    if command not in stock_commands():
        valid = valid_names(command, stock_commands(), listing="medmixers list nnunet_commands")
        raise InputError(f"{command!r} is not an nnU-Net command; valid: {valid}")
    # This interpreter's scripts first: those of a virtual environment that is not activated are not on PATH.
    scripts = sysconfig.get_path("scripts")
    script = shutil.which(command, path=os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]))
    if script is None:
        raise MissingFileError(f"{command} is neither in {scripts} nor on PATH; reinstall nnunetv2")
    environment = {**os.environ, TRAINER_VARIABLE: trainer_path()}
    status = subprocess.run([script, *map(str, arguments)], env=environment, check=False).returncode
    return status if status >= 0 else 128 - status
