"""The help of every command, from its signature and its docstring."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medmixers.cli.commands import Command, Size, commands_of, declared, free, kind_of, usage

WIDTH = 120
KINDS = {int: "integer", float: "number", bool: "switch", Size: "size, as 224,224 or 96,96,96"}
ABOUT = "medmixers: token mixers for medical imaging. Networks for nnU-Net v2 and MONAI Bundles."
NOTES = """\
medmixers COMMAND --help shows the arguments of a command with type, default, meaning and an example.
medmixers --version prints the version. --traceback, with any command, shows where an error was raised.
Tab completion in bash: eval "$(medmixers -- --completion)"; or --completion fish."""
HOW_TO_WRITE = "Arguments stand in this order or as --name VALUE; -n is short where one name begins with n."


def overview(groups: Mapping[str, Any]) -> str:
    """All commands by group, with one line each."""
    parts = [ABOUT, "usage: medmixers COMMAND [ARGUMENTS]"]
    parts += [_group_lines(name, group) for name, group in groups.items()]
    return "\n\n".join([*parts, NOTES])


def group_help(name: str, group: Any) -> str:
    """The commands of a group, with one line each."""
    return f"{_group_lines(name, group)}\n\nmedmixers {name} COMMAND --help shows the arguments of a command."


def _group_lines(name: str, group: Any) -> str:
    if inspect.isfunction(group):
        return _row(f"medmixers {name}", _summary(group), 38, indent="")
    rows = [_row(f"medmixers {name} {each}", _summary(command), 36) for each, command in commands_of(group).items()]
    return "\n".join([_summary(group), *rows])


def _summary(item: Any) -> str:
    return (inspect.getdoc(item) or "").partition("\n\n")[0].replace("\n", " ")


def command_help(path: Sequence[str], command: Command) -> str:
    """Usage, meaning, arguments and an example of one command."""
    from fire import docstrings

    text, _, example = (inspect.getdoc(command) or "").partition("Example:\n")
    parsed = docstrings.parse(text)
    meanings = {each.name: each.description for each in parsed.args or []}
    parts = [f"usage: {usage(path, command)}", *filter(None, (parsed.summary, parsed.description))]
    rows = list(_argument_rows(command, meanings))
    if rows:
        width = max(len(name) for name, _ in rows) + 4
        parts.append("\n".join(["arguments:", *(_row(name, about, width) for name, about in rows), "", HOW_TO_WRITE]))
    parts.append(f"example:\n{textwrap.indent(textwrap.dedent(example).strip(), '  ')}")
    return "\n\n".join(parts)


def examples(command: Command) -> list[str]:
    """The example lines of a command's docstring."""
    return textwrap.dedent((inspect.getdoc(command) or "").partition("Example:\n")[2]).strip().splitlines()


def _argument_rows(command: Command, meanings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for each in declared(command):
        needed = each.default is each.empty
        name = each.name.upper() if needed and each.kind is not each.KEYWORD_ONLY else f"--{each.name}"
        kind = KINDS.get(kind_of(each), "text")
        default = "required" if needed else f"default {_shown(each.default)}"
        yield name, f"{meanings[each.name].rstrip('.')} ({kind}; {default})"
    rest = free(command)
    if rest is not None:
        is_options = rest.kind is rest.VAR_KEYWORD
        yield "--OPTION VALUE" if is_options else f"{rest.name.upper()} ...", f"{rest.name} {meanings[rest.name]}"


def _shown(default: Any) -> str:
    if default is None:
        return "none"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _row(name: str, about: str, width: int, *, indent: str = "  ") -> str:
    """A name, and next to it its meaning in lines of their own column."""
    lines = textwrap.wrap(about, WIDTH - width - len(indent)) or [""]
    head = f"{indent}{name.ljust(width)}"
    return f"\n{' ' * len(head)}".join([f"{head}{lines[0]}", *lines[1:]]).rstrip()
