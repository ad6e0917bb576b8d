"""Where nnU-Net finds our trainers: the environment variable ``nnUNet_extTrainer``. No torch here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

from medmixers.errors import InputError, MissingFileError

TRAINER_VARIABLE = "nnUNet_extTrainer"


def trainer_folder() -> Path:
    """The folder of this package that ``nnUNet_extTrainer`` must name."""
    return Path(__file__).resolve().parent / "trainers"


def trainer_path(environment: Mapping[str, str] = os.environ) -> str:
    """The value of ``nnUNet_extTrainer`` with our folder added behind those that it names already."""
    folders = [folder for folder in environment.get(TRAINER_VARIABLE, "").split(os.pathsep) if folder.strip()]
    ours = str(trainer_folder())
    return os.pathsep.join(folders if ours in folders else [*folders, ours])


def export_lines(environment: Mapping[str, str] = os.environ) -> str:
    """Shell lines for ``eval "$(medmixers nnunet env)"``."""
    return f"export {TRAINER_VARIABLE}={shlex.quote(trainer_path(environment))}"


def stock_commands() -> list[str]:
    """Names of the commands that the installed nnU-Net has."""
    points = distribution("nnunetv2").entry_points
    return sorted(point.name for point in points if point.group == "console_scripts")


def run_stock_command(command: str, *arguments: str) -> int:
    """Run a stock nnU-Net command with our trainers in its reach.

    Args:
        command: one of :func:`stock_commands`.
        arguments: handed on unchanged.

    Returns:
        Its exit status; 128 + N if signal N ended it, as a shell reports it.

    Raises:
        ValueError: no command of nnU-Net; the message lists those there are.
        FileNotFoundError: nnU-Net has the command, but its script is not installed where we look.
    """
    if command not in stock_commands():
        raise InputError(f"{command!r} is no nnU-Net command; valid: {', '.join(stock_commands())}")
    # This interpreter's scripts first: an unactivated virtual environment's are not on PATH.
    scripts = sysconfig.get_path("scripts")
    script = shutil.which(command, path=os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]))
    if script is None:
        raise MissingFileError(f"{command} is neither in {scripts} nor on PATH; reinstall nnunetv2")
    environment = {**os.environ, TRAINER_VARIABLE: trainer_path()}
    status = subprocess.run([script, *map(str, arguments)], env=environment, check=False).returncode
    return status if status >= 0 else 128 - status
