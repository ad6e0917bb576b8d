"""From the words of a command line to a call.

fire separates flags from positional words, fills parameters and reads the values of free options. Three things need
code of our own. fire runs a command before it refuses a misspelled flag: here it binds the command, and flags are
checked first. It guesses a value's type from its text: here each value is read by its parameter's annotation. It reads
a flag without a value as True: here that is an error.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medmixers.cli.commands import Command, Size, commands_of, declared, free, kind_of, usage
from medmixers.errors import InputError
from medmixers.registry import near_names, valid_names


def find_command(words: Sequence[str], groups: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The first words that name a group and its command, and the words after them.

    Raises:
        InputError: an unknown name; the message gives the nearest.
    """
    if not words or words[0].startswith("-"):
        return [], list(words)
    group = _known(words[0], groups, "medmixers --help")
    if inspect.isfunction(groups[group]) or len(words) == 1 or words[1].startswith("-"):
        return [group], list(words[1:])
    return [group, _known(words[1], commands_of(groups[group]), f"medmixers {group} --help")], list(words[2:])


def _known(word: str, names: Mapping[str, Any], listing: str) -> str:
    name = word.replace("-", "_")
    if name not in names:
        raise InputError(f"there is no command {word!r}; valid: {valid_names(word, names)}; see: {listing}")
    return name


def bind(path: Sequence[str], words: Sequence[str], command: Command) -> Callable[[], Any]:
    """The command with the arguments that the words give it, ready to run.

    Raises:
        InputError: a flag that the command does not have, a wrong value, too few or too many words.
    """
    import fire

    name = f"medmixers {' '.join(path)}"
    calls: list[Callable[[], Any]] = []
    bound = object()

    @functools.wraps(command)
    def keep(*arguments: Any, **options: Any) -> object:
        calls.append(functools.partial(_run, command, arguments, options))
        return bound

    typed = {each.name: functools.partial(reader(each), each.name) for each in declared(command)}
    checked = _checked_words(list(words), command, name)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # fire prints its usage there
            left = fire.Fire(fire.decorators.SetParseFns(**typed)(keep), command=checked, serialize=lambda _: None)
    except fire.core.FireExit as exit:
        reason = exit.trace.elements[-1].ErrorAsStr()
        raise InputError(f"{_reason(reason)}; usage: {usage(path, command)}; see: {name} --help") from None
    if left is not bound or len(calls) != 1:
        raise InputError(f"too many words; usage: {usage(path, command)}; see: {name} --help")
    return calls[0]


def reader(parameter: inspect.Parameter) -> Callable[[str, str], Any]:
    """The function that reads a word as the parameter's type; text stays as it was typed, a folder named 900 too."""
    readers: dict[Any, Callable[[str, str], Any]] = {int: _integer, float: _number, bool: _truth, Size: _size}
    return readers.get(kind_of(parameter), lambda name, word: word)


def _run(command: Command, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Run; a free option that the network does not have may be a misspelled flag of the command."""
    try:
        return command(*arguments, **options)
    except InputError as error:
        near = {name: near_names(name, [each.name for each in declared(command)]) for name in options}
        meant = [f"--{names[0]}" for name, names in near.items() if names and f"no option {name!r}" in str(error)]
        if not meant:
            raise
        raise InputError(f"{error} (or did you mean {' '.join(meant)}?)") from error


def _checked_words(words: list[str], command: Command, name: str) -> list[str]:
    """The words with each flag written out as ``--name=value``. Raises InputError for an unknown flag."""
    parameters = {each.name: each for each in declared(command)}
    rest = free(command)
    takes_any = rest is not None and rest.kind is rest.VAR_KEYWORD
    checked = []
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            checked.append(word)
            continue
        flag, equals, value = word.lstrip("-").partition("=")
        flag = _full_name(flag.replace("-", "_"), parameters, short=not word.startswith("--"))
        switched_off = flag.removeprefix("no").lstrip("_")
        if flag not in parameters and kind_of_name(switched_off, parameters) is bool:
            checked.append(f"--{switched_off}=False")
            continue
        if flag not in parameters and not (takes_any and word.startswith("--") and flag):
            valid = valid_names(flag, [f"--{each}" for each in parameters], listing=f"{name} --help")
            raise InputError(f"there is no flag {word.partition('=')[0]}; valid: {valid}")
        is_switch = kind_of_name(flag, parameters) is bool
        if not equals:
            follows = bool(words) and not _is_flag(words[0])
            if follows and (not is_switch or words[0].lower() in ("true", "false")):
                value = words.pop(0)
            elif flag in parameters and not is_switch:
                raise InputError(f"--{flag} needs a value")
            else:
                value = "True"
        checked.append(f"--{flag}={value}")
    return checked


def _full_name(flag: str, parameters: Mapping[str, inspect.Parameter], *, short: bool) -> str:
    """``-c`` is the one flag that begins with c."""
    starting = [each for each in parameters if each.startswith(flag)] if short and len(flag) == 1 else []
    return starting[0] if len(starting) == 1 else flag


def kind_of_name(name: str, parameters: Mapping[str, inspect.Parameter]) -> Any:
    """The type of a flag's value; None for a flag that is not declared."""
    return kind_of(parameters[name]) if name in parameters else None


def _is_flag(word: str) -> bool:
    return re.match("--?[A-Za-z]|--$", word) is not None  # -1 is a number


def _reason(message: str) -> str:
    """fire's reason in the words of this command's help."""
    missing = re.search(r"required argument: (\w+)", message)
    if missing:
        return f"missing argument {missing[1].upper()}"
    surplus = re.search(r"Could not consume arg(?:uments)?: (.*)", message)
    return f"too many words, from {surplus[1]!r} on" if surplus else message


def _integer(name: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InputError(f"{name} must be a whole number, got {word!r}") from None


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{name} must be a number, got {word!r}") from None


def _truth(name: str, word: str) -> bool:
    truths = {"true": True, "false": False}
    if word.lower() not in truths:
        raise InputError(f"{name} must be True or False, got {word!r}")
    return truths[word.lower()]


def _size(name: str, word: str) -> Size:
    try:
        return tuple(int(part) for part in word.strip("()[]").split(","))
    except ValueError:
        raise InputError(f"{name} must be whole numbers, as 224,224 or 96,96,96, got {word!r}") from None
