"""Python processes that end with the process that started them."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends


def run_python(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, and wait. On Linux the process ends with this one, also after ``kill -9``.

    Args:
        arguments: of the interpreter, such as ``-m`` and a module.
        options: of :func:`subprocess.run`.

    Returns:
        Exit status and output as text.
    """
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=end_with_parent(), **options)


def end_with_parent() -> Callable[[], object] | None:
    """What a new process calls first (``preexec_fn``) to end with its parent; None where the system lacks the call."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
