"""The command ``medmixers``: the table of its groups, and the one way from words to an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from medmixers.cli.bundle import Bundle
from medmixers.cli.clinic import Clinic
from medmixers.cli.commands import commands_of
from medmixers.cli.dataset import Dataset
from medmixers.cli.demo import Demo
from medmixers.cli.explain import Explain
from medmixers.cli.help import command_help, group_help, overview
from medmixers.cli.list import List
from medmixers.cli.nnunet import NnUNet
from medmixers.cli.profile import profile
from medmixers.cli.study import Study
from medmixers.cli.words import bind, find_command
from medmixers.errors import TRACEBACK_VARIABLE, InputError, one_line_errors, one_line_stops

GROUPS: dict[str, Any] = {
    "list": List,
    "dataset": Dataset,
    "bundle": Bundle,
    "nnunet": NnUNet,
    "explain": Explain,
    "clinic": Clinic,
    "study": Study,
    "profile": profile,
    "demo": Demo,
}
HELP = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Bad input ends in one line on stderr and exit status 2; other errors keep their traceback.

    Args:
        argv: the words after the program's name; None takes those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _traceback_if_asked(words), one_line_stops(), one_line_errors():
            text = _answer(words)
            if text is not None:
                print(text, flush=True)
    except BrokenPipeError:  # the reader, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _answer(words: list[str]) -> Any:
    """What the command prints."""
    if words[:2] == ["nnunet", "run"] and words[2:3] and words[2] not in HELP:
        return NnUNet().run(*words[2:])  # its flags are nnU-Net's
    if words[:1] == ["--version"]:
        return f"medmixers {version('medmixers')}"
    if words[:1] == ["--"]:
        return _fire_itself(words)
    path, rest = find_command(words, GROUPS)
    wants_help = any(word in HELP for word in rest)
    if not path and (wants_help or not rest):
        return overview(GROUPS)
    if not path:
        raise InputError(f"there is no flag {rest[0]} before a command; see: medmixers --help")
    item = GROUPS[path[0]] if len(path) == 1 else commands_of(GROUPS[path[0]])[path[1]]
    if isinstance(item, type):
        if rest and not wants_help:
            raise InputError(f"there is no flag {rest[0]} before a command; see: medmixers {path[0]} --help")
        return group_help(path[0], item)
    if wants_help:
        return command_help(path, item)
    return bind(path, rest, item)()


def _fire_itself(words: list[str]) -> None:
    """fire's own flags, such as ``--completion``."""
    import fire

    tree = {name: commands_of(item) if isinstance(item, type) else item for name, item in GROUPS.items()}
    fire.Fire(tree, command=words, name="medmixers")


@contextlib.contextmanager
def _traceback_if_asked(words: list[str]) -> Iterator[None]:
    """Take ``--traceback`` out of the words, and set its variable, for child processes too."""
    before = os.environ.get(TRACEBACK_VARIABLE)
    if "--traceback" in words and words[:2] != ["nnunet", "run"]:
        words.remove("--traceback")
        os.environ[TRACEBACK_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(TRACEBACK_VARIABLE, None)
        else:
            os.environ[TRACEBACK_VARIABLE] = before
