"""Errors of input: what ends in one line at every door (the command, a bundle's preflight, trainers, scripts)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "MEDMIXERS_TRACEBACK"  # set to 1 to see the traceback of an InputError too


class InputError(ValueError):
    """Bad input: a value, a file or an option that a person can change. The message names it and what is valid."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that does not exist."""


class ExistingFileError(InputError, FileExistsError):
    """A file or folder that would be overwritten."""


class MissingPackageError(InputError, ImportError):
    """An optional package that is not installed."""


def is_input_error(error: BaseException) -> bool:
    """Whether ``error`` ends in one line: an InputError, or what the system says about a file. Others are bugs."""
    return isinstance(error, InputError) or (isinstance(error, OSError) and error.filename is not None)


@contextmanager
def one_line_errors(name: str = "medmixers", *, status: int = 2) -> Iterator[None]:
    """Print an input error as one line on stderr and exit with ``status``; let every other exception pass.

    Args:
        name: what stands before "error:".
        status: exit status of the process.
    """
    try:
        yield
    except Exception as error:
        if not is_input_error(error) or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        print(f"{name}: error: {joined_lines(error)}", file=sys.stderr)
        raise SystemExit(status) from error


def first_line(error: BaseException) -> str:
    """First line of the message that is not empty; the error's class where there is no message."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def joined_lines(error: BaseException) -> str:
    """The whole message as one line."""
    return " ".join(str(error).split()) or type(error).__name__
