"""Time and peak memory of commands, each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.errors import InputError
from medmixers.nnunet.environment import trainer_path


def run_python(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, log: Path | None = None
) -> tuple[float, int]:
    """Run this Python with some arguments.

    Args:
        arguments: of Python, such as ["-m", "monai.bundle", ...].
        environment: of the process; None takes this one's.
        log: file for what it prints; None keeps none.

    Returns:
        Seconds, and the peak of memory in bytes that the operating system counts (ru_maxrss).

    Raises:
        RuntimeError: the process failed; with the end of what it printed.
    """
    start = time.monotonic()
    with log.open("w+b") if log else tempfile.TemporaryFile() as out:
        command = [sys.executable, *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        peak = wait_for(process)
        seconds = time.monotonic() - start
        if process.returncode:
            out.seek(max(0, out.seek(0, os.SEEK_END) - 2000))
            last = out.read().decode(errors="replace")
            raise RuntimeError(f"{command} ended with status {process.returncode}: {last}")
    return seconds, peak


def wait_for(process: subprocess.Popen[Any]) -> int:
    """Wait until a process ends, set its ``returncode``, and return the peak of its memory in bytes (ru_maxrss)."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * 1024


def run_until(pattern: str, command: Sequence[str], *, environment: Mapping[str, str]) -> re.Match[str]:
    """Run a command until it prints a line that a pattern matches; then end it and its workers.

    Raises:
        InputError: it ended before; with the last lines that it printed.
    """
    process = subprocess.Popen(
        command,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if found := re.search(pattern, line):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return found
    process.wait()
    raise InputError(f"{' '.join(command)} ended without {pattern!r}: {''.join(lines[-5:])}")


def nnunet_environment(work: Path) -> dict[str, str]:
    """nnU-Net's folders below ``work`` and our trainers; nothing of this shell that changes a run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEDMIXERS_", "MALLOC_"))}
    folders = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return {**kept, **folders, "nnUNet_extTrainer": trainer_path({})}


def bundle_command(bundle: Path, configs: Sequence[str | Path], options: Mapping[str, Any]) -> list[str]:
    """Arguments of Python that run a bundle's configs.

    Args:
        bundle: its folder.
        configs: files of its configs/, by their names, and others by their paths; each is laid over those before it.
        options: of the bundle.
    """
    files = [str(config if isinstance(config, Path) else bundle / "configs" / config) for config in configs]
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["-m", "monai.bundle", "run", "--bundle_root", str(bundle), "--config_file", str(files), *words]
