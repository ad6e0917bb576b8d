"""Errors of input, and the one rule for them: the command, nnU-Net's trainers and scripts end in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

TRACEBACK_VARIABLE = "MEDMIXERS_TRACEBACK"  # 1 shows the traceback of an InputError too


class InputError(ValueError):
    """Bad input: a value, a file or an option that a person can change. The message names it and what is valid."""


class FaultsError(InputError):
    """Several faults of one input, found at once. The message has a line for each, and is printed so."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that does not exist."""


class ExistingFileError(InputError, FileExistsError):
    """A file or folder that would be overwritten."""


class MissingPackageError(InputError, ModuleNotFoundError):
    """An optional package that is not installed."""


class Terminated(BaseException):
    """SIGTERM, as an exception: files and folders are left as after an error."""


# how a person or a batch system ends a process -> the word for it, and the exit status of a shell
STOPS = {KeyboardInterrupt: ("interrupted", 130), Terminated: ("terminated", 143)}


def is_input_error(error: BaseException) -> bool:
    """Whether ``error`` ends in one line: an InputError, or the system's error about a file. Others are bugs."""
    return isinstance(error, InputError) or (isinstance(error, OSError) and error.filename is not None)


def shows_traceback() -> bool:
    """Whether the user asked for the traceback of input errors too."""
    return os.environ.get(TRACEBACK_VARIABLE) == "1"


@contextmanager
def one_line_errors(name: str = "medmixers", *, status: int = 2) -> Iterator[None]:
    """Print an input error as one line on stderr and exit with ``status``; let every other exception pass.

    Args:
        name: the program, printed before "error:".
        status: exit status of the process.
    """
    try:
        yield
    except Exception as error:
        if not is_input_error(error) or shows_traceback():
            raise
        _print_line(name, error)
        raise SystemExit(status) from error


def end_in_one_line(name: str, *, status: int = 2) -> None:
    """Apply the rule of :func:`one_line_errors` in a process with a main function that is not ours.

    An input error that nobody catches, and an interruption (SIGINT, SIGTERM), ends the process in one line. Callers
    still see the exception itself.
    """
    before = sys.excepthook
    if getattr(before, "ends_in_one_line", False):
        return
    _raise_at_sigterm()

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Python takes the exit status from a SystemExit
        if (stop := next((each for each in STOPS if isinstance(error, each)), None)) is not None:
            raise SystemExit(_stopped(name, stop))
        if not is_input_error(error) or shows_traceback():
            return before(kind, error, trace)
        _print_line(name, error)
        raise SystemExit(status)

    hook.ends_in_one_line = True  # type: ignore[attr-defined]
    sys.excepthook = hook


@contextmanager
def one_line_stops(name: str = "medmixers") -> Iterator[None]:
    """End the process in one line where a person or a batch system stops it; files are left as after an error.

    Args:
        name: the program, printed first.
    """
    before = _raise_at_sigterm()
    try:
        yield
    except tuple(STOPS) as stop:
        raise SystemExit(_stopped(name, type(stop))) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _raise_at_sigterm() -> signal.Handlers | None:
    """Let SIGTERM raise :class:`Terminated`, unless the program handles it. Returns the handler that was replaced."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    with contextlib.suppress(ValueError):  # only the main thread can
        signal.signal(signal.SIGTERM, _raise_terminated)
        return signal.SIG_DFL
    return None


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _hold_sigterm() -> None:
    """Before a fork: keep SIGTERM back. Python would forget one that reaches the fork before its first line."""
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_sigterm_through() -> None:
    """After a fork: the signals of this thread are held as before."""
    if (mask := _forking.__dict__.pop("mask", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end_forks_at_once() -> None:
    """In a fork: let SIGTERM end it as ever.

    A pool ends its workers so. Python's handler would wait until a worker that hangs in a semaphore goes on, for ever.
    """
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_sigterm_through()


_forking = threading.local()  # mask: the signals that this thread held before it forked
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_hold_sigterm, after_in_parent=_let_sigterm_through, after_in_child=_end_forks_at_once)


def _stopped(name: str, stop: type[BaseException]) -> int:
    word, status = STOPS[stop]
    print(f"{name}: {word}", file=sys.stderr, flush=True)
    return status


def _print_line(name: str, error: BaseException) -> None:
    text = str(error) if isinstance(error, FaultsError) else joined_lines(error)
    print(f"{name}: error: {text}", file=sys.stderr)


def first_line(error: BaseException) -> str:
    """First line of the message that is not empty; the error's class where there is no message."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def joined_lines(error: BaseException) -> str:
    """The whole message as one line."""
    return " ".join(str(error).split()) or type(error).__name__
