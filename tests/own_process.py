"""The process of the tests never ends without a word.

A worker of pytest-xdist that a test kills is gone without a trace. So a signal from Python that would end it raises an
error in the test that sends it, and ``os._exit`` prints from where it was called.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

HARMLESS = (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)
kill, killpg, leave = os.kill, os.killpg, os._exit


class OwnProcessError(BaseException):
    """A test would have ended the process of the tests. No ``except Exception`` may hide it."""


def protect(pid: int | None = None) -> None:
    """Protect a process and its group, from its forks too.

    Args:
        pid: None protects this process.
    """
    pid = os.getpid() if pid is None else pid
    os.kill = checked(kill, pid, pid, os.getppid(), 0, -1, -os.getpgid(pid))
    os.killpg = checked(killpg, pid, os.getpgid(pid), 0)
    os._exit = told(pid)  # type: ignore[assignment]


def checked(send: Callable[[int, int], None], tests: int, *forbidden: int) -> Callable[[int, int], None]:
    """``os.kill`` or ``os.killpg`` that refuses some targets."""

    def checked_send(target: int, number: int, /) -> None:
        own = target == tests == os.getpid()
        if target in forbidden and not (number in (0, *HARMLESS) or (own and callable(signal.getsignal(number)))):
            raise OwnProcessError(f"signal {number} to {target} would end the tests, process {tests}")
        send(target, number)

    return checked_send


def told(tests: int) -> Callable[[int], None]:
    """``os._exit`` that prints its caller in the process of the tests, and not in its forks."""

    def told_exit(status: int) -> None:
        if os.getpid() == tests:
            print(f"os._exit({status}) in the process of the tests:", file=sys.__stderr__)
            traceback.print_stack(file=sys.__stderr__)
            if sys.__stderr__ is not None:
                sys.__stderr__.flush()
        leave(status)

    return told_exit
