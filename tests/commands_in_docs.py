"""Command lines in Markdown: find them, and validate each against the command that it names. Nothing is run.

``bound_arguments`` is the only function that knows how the command ``medmixers`` reads its words.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from string import Template
from typing import Any
from unittest import mock

import monai.bundle
import pytest

from house import ROOT
from medmixers.bundles.catalog import BUNDLES
from medmixers.cli.commands import commands_of
from medmixers.cli.main import GROUPS
from medmixers.cli.words import bind, find_command
from medmixers.errors import MissingFileError
from medmixers.mixers import TOKEN_MIXERS
from medmixers.variants import NETWORKS

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
COMMAND = re.compile(r"(?:medmixers|python|bash|pip) |(?:nnUNetv2_\w+|scripts/\S+\.sh)(?: |$)")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.S)
PLAIN = {"cd", "export", "git", "mkdir", "npm", "pre-commit", "source", "tar"}  # commands that are not ours to check
MONAI_RUN = {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"}


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return [body for name, body in FENCE.findall(text) if name == language]


def spans(text: str) -> list[str]:
    """Inline code."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def shell_commands(block: str) -> Iterator[list[str]]:
    """Words of each command of a bash block, and of a command inside $(...)."""
    for line in block.replace("\\\n", " ").splitlines():
        for inner in re.findall(r"\$\(([^)]*)\)", line):
            yield from shell_commands(inner)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def check_block(block: str, variables: dict[str, str]) -> int:
    """Validate a bash block. Assignments are added to ``variables``. Returns the number of commands."""
    count = 0
    for words in shell_commands(block):
        words = [Template(word).safe_substitute(variables) for word in words]
        while words and (assignment := ASSIGNMENT.fullmatch(words[0])):
            variables[assignment[1]] = assignment[2]
            words.pop(0)
        if words and words[0] != "eval":  # what it evaluates is a command of its own
            check_command(words)
            count += 1
    return count


def check_command(words: list[str], *, inline: bool = False) -> None:
    """Validate one command. ``inline``: it may be only a name, without its arguments."""
    name, rest = words[0], words[1:]
    if name == "medmixers":
        check_medmixers(rest, inline=inline)
    elif name.startswith("nnUNetv2_"):
        check_nnunet(name, rest, inline=inline)
    elif name == "torchrun":
        check_monai(rest[rest.index("-m") + 1 :])
    elif name == "python" and rest[:1] == ["-m"]:
        check_module(rest[1:])
    elif name == "python" and rest[:1] == ["-c"]:
        compile(rest[1], "-c", "exec")
    elif name in ("python", "bash"):
        check_script(rest)
    elif name.startswith("scripts/"):
        check_script(words)
    elif name == "pip":
        check_pip(rest)
    elif name not in PLAIN:
        raise AssertionError(f"no check for the command {name!r}")


def bound_arguments(words: list[str]) -> dict[str, Any] | None:
    """Arguments of a command as ``medmixers`` reads them; None where the words are a name only that needs some."""
    path, rest = find_command(words, GROUPS)
    item = GROUPS[path[0]]
    command = item if inspect.isfunction(item) else commands_of(item)[path[1]] if path[1:] else None
    if command is None or (not rest and not takes_nothing(command)):
        return None
    _, positional, options = bind(path, rest, command).args
    return inspect.signature(command).bind(*positional, **options).arguments


def takes_nothing(command: Callable[..., Any]) -> bool:
    """Whether the command runs without arguments."""
    return all(each.default is not each.empty for each in inspect.signature(command).parameters.values())


def check_medmixers(words: list[str], *, inline: bool = False) -> None:
    """The command's own parser takes the words; networks, mixers, tasks, bundles and their options exist."""
    if words[:2] == ["nnunet", "run"] and words[2:]:
        check_nnunet(words[2], words[3:], inline=inline)
        return
    if words == ["--version"]:
        return
    arguments = bound_arguments(words)
    if inline and arguments is None:
        return
    assert arguments is not None, f"{words} names no command with its arguments"
    if (mixer := {**arguments, **arguments.get("options", {})}).get("mixer") is not None:
        assert mixer["mixer"] in TOKEN_MIXERS, mixer
    if words[0] == "bundle" and (name := arguments.get("name")) and name.isidentifier():
        assert name in BUNDLES or name.isupper() or name.startswith("my_"), name
    if words[0] == "dataset" and "task" in arguments and not arguments["task"].isupper():
        check_convert(arguments["task"], arguments.get("options", {}))
    network = arguments.get("network", arguments.get("name") if words[0] == "profile" else None)
    if network not in (None, "all", "NAME"):
        check_network(network, arguments.get("options", {}))


def check_network(name: str, options: dict) -> None:
    """The network exists and has these options."""
    from medmixers.nnunet.architecture import network_option_names

    assert name in NETWORKS, name
    assert set(options) <= set(network_option_names(name)), options


def check_convert(task: str, options: dict) -> None:
    """The converter takes the options: it refuses nothing before it looks for the source."""
    from medmixers.datasets.converters import convert

    with pytest.raises(MissingFileError, match="there is no source"):
        convert(task, "no_such_source", "out", **options)


class Parsed(Exception):
    """The parser has read the words."""


def check_nnunet(name: str, words: list[str], *, inline: bool = False) -> None:
    """nnU-Net's own parser takes the words."""
    (entry,) = [point for point in entry_points(group="console_scripts") if point.name == name]
    if inline and not words:
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, *_: object) -> None:
        parse_args(parser, words)
        raise Parsed

    errors = io.StringIO()
    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse), contextlib.redirect_stderr(errors):
        try:
            entry.load()()
        except Parsed:
            return
        except SystemExit:
            raise AssertionError(f"{name} {' '.join(words)}: {errors.getvalue().splitlines()[-1]}") from None
    raise AssertionError(f"{name} has no parser")


def check_module(words: list[str]) -> None:
    """``python -m``: a bundle's run, or a tool that is not ours."""
    if words[0] == "monai.bundle":
        check_monai(words)
    else:
        assert words[0] in ("build", "twine", "venv", "pytest"), words


def check_monai(words: list[str]) -> None:
    """The bundle and its configs exist; every other option is a top-level key of one of them, or of MONAI's export."""
    if words[1] in ("ckpt_export", "onnx_export"):
        options = dict(zip(words[3::2], words[4::2], strict=True))
        taken = inspect.signature(getattr(monai.bundle, words[1])).parameters
        assert {option.removeprefix("--") for option in options} <= {*taken, "bundle_root"}, words
        assert all((ROOT / options[name]).is_file() for name in ("--meta_file", "--config_file")), words
        return
    assert words[:2] == ["monai.bundle", "run"], words
    options = dict(zip(words[2::2], words[3::2], strict=True))
    if not options:
        return
    assert all(option.startswith("--") for option in options), words
    options = {option[2:]: value for option, value in options.items()}
    assert (ROOT / options["bundle_root"]).is_dir(), options["bundle_root"]
    listed = options["config_file"]
    files = ast.literal_eval(listed) if listed.startswith("[") else [listed]
    keys = {key for file in files for key in json.loads((ROOT / file).read_text())}
    unknown = {option.partition("#")[0] for option in options} - keys - MONAI_RUN
    assert not unknown, f"{files} have no {unknown}"


def check_script(words: list[str]) -> None:
    """The script exists, and its source has every flag; folders of tests exist."""
    script = ROOT / words[0]
    assert script.is_file(), words[0]
    source = script.read_text()
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in source or (script.suffix == ".sh" and word in source), words
        if word.startswith("tests/"):
            assert (ROOT / word).exists(), word


def check_pip(words: list[str]) -> None:
    """``pip install``: of this checkout with extras that exist, or of other packages."""
    assert words[0] == "install", words
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"\.\[([\w-]+)\]", " ".join(words)):
        assert re.search(rf"^{extra} = \[", project, re.M), extra


def commands_inline(text: str) -> list[list[str]]:
    """Words of the commands in inline code."""
    return [words for span in spans(text) if COMMAND.match(span) for words in shell_commands(span)]


def headings(path: Path) -> set[str]:
    """Anchors of a document, as GitHub and GitLab make them."""
    lines = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
