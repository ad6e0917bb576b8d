"""Options of a bundle, checked before anything is built: their names, and the values that MONAI would take as they are.

An option is a top-level key of a config: ``--epochs 10``. MONAI adds a misspelled one to the config without a word, and
a wrong value surfaces later, in a traceback of MONAI's resolver.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any

from medmixers.bundle_runtime.stack import calling, is_monais_command, one_line_in_command
from medmixers.errors import InputError, MissingPackageError, end_in_one_line, is_input_error

# option -> its smallest value
WHOLE_NUMBERS = {
    "accumulate_batches": 1,
    "batch_size": 1,
    "epochs": 1,
    "fold": 0,
    "num_iterations_per_epoch": 1,
    "num_workers": 0,
    "patches_per_image": 1,
    "patience": 1,
    "seed": 0,
    "sw_batch_size": 1,
    "val_interval": 1,
    "warmup_epochs": 0,
}
SWITCHES = {
    "allow_untrained",
    "amp",
    "continue_prediction",
    "early_stop",
    "keep_going",
    "load_pretrain",
    "pretrained_adapt",
    "save_probabilities",
    "separate_folder",
    "use_mirroring",
}
NUMBERS = {  # from 0 to this
    "cache_rate": 1.0,
    "clip_grad_norm": float("inf"),
    "ema_decay": 0.999999,
    "layer_decay": 1.0,
    "learning_rate": float("inf"),
    "logits_memory_gb": float("inf"),
    "overlap": 0.99,
    "tile_step_size": 1.0,
}
UNSET = {"layer_decay", "logits_memory_gb", "num_iterations_per_epoch"}  # may stay None
SIZES = {"image_size", "roi_size"}
FILES_OF_WEIGHTS = 'files of weights, as "models/a.pt,models/b.pt"'
# Top-level keys that are no options: what MONAI runs, and what is derived from options.
NO_OPTIONS = {"finalize", "find_package", "imports", "initialize", "local_rank", "network", "rank", "run"}


@one_line_in_command()
def check_options() -> None:
    """Raise InputError where an option is misspelled or has a value of the wrong kind; for ``initialize``.

    The keys of the config that runs are compared with those of the bundle's configs on disk. Options of the network
    are checked where the network is built (:func:`build`).
    """
    workflow = calling("ConfigWorkflow")
    if workflow is None:
        return
    if is_monais_command():
        end_in_one_line("medmixers")
    written = _written(Path(workflow.config_root_path))
    config: Mapping[str, Any] = workflow.parser.config
    if written:
        check_names(config, written)
        check_arguments(workflow.parser, written)
    for name, value in config.items():
        if not _is_expression(value):
            check_value(name, value, written.get(name))


def check_names(config: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Raise InputError where ``config`` has an option that neither ``written`` has nor another key refers to.

    Args:
        config: what runs: the files with the overrides laid over them.
        written: top-level keys of all config files of the bundle.
    """
    referred = set(re.findall(r"@(\w+)", json.dumps([list(_strings(config))])))
    for name, value in config.items():
        if name in written or name in referred or name.startswith("_") or not _is_plain(value):
            continue
        near = ", ".join(f"--{key}" for key in get_close_matches(name, option_names(written), n=3))
        nearest = f"nearest: {near}; " if near else ""
        raise InputError(f"this bundle has no option --{name}; {nearest}options are the top-level keys of its configs")


def check_arguments(parser: Any, written: Mapping[str, Any]) -> None:
    """Raise InputError where an override adds an argument that its component does not take: ``--train#trainer#x 5``.

    Args:
        parser: MONAI's, of what runs.
        written: as :func:`check_names` has it.
    """
    components = {path: names for name, value in written.items() for path, names in _components(name, value)}
    for name, value in parser.config.items():
        for path, names in _components(name, value):
            added = {each for each in names - components.get(path, names) if not each.startswith("_")}
            valid = _arguments(parser, path) if added else None
            for wrong in sorted(added - (valid or added)):
                near = ", ".join(get_close_matches(wrong, valid or (), n=3)) or ", ".join(sorted(valid or ()))
                key = path.replace("::", "#")
                raise InputError(
                    f"--{key}#{wrong}: {parser[path]['_target_']} has no argument {wrong!r}; valid: {near}"
                )


def _components(path: str, value: Any) -> Iterator[tuple[str, set[str]]]:
    """Path and argument names of each component in a part of a config."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, Mapping) and "_target_" in value:
        yield path, set(value)
    for key, item in items:
        yield from _components(f"{path}::{key}", item)


def _arguments(parser: Any, path: str) -> set[str] | None:
    """Names that a component takes; None where it takes any."""
    target: Any = locate(str(parser.ref_resolver.get_item(path).resolve_module_name()))
    names: set[str] = set()
    for each in getattr(target, "__mro__", (target,)):
        if isinstance(each, type) and "__init__" not in vars(each):
            continue
        parameters = inspect.signature(each).parameters.values()
        names |= {item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}
        if not any(item.kind is item.VAR_KEYWORD for item in parameters):
            return names
    return None


def option_names(written: Mapping[str, Any]) -> list[str]:
    """Names of the top-level keys that a person sets to a value, sorted."""
    parts = {name for name, value in written.items() if any(isinstance(item, dict) for item in _listed(value))}
    return sorted(name for name in written.keys() - parts - NO_OPTIONS if "::" not in name)


def check_value(name: str, value: Any, default: Any = None) -> None:
    """Raise InputError where an option that this module knows has a value of another kind.

    Args:
        name: of the option.
        value: what it is set to.
        default: its value in the config file, which says how many numbers a size has.
    """
    if value is None and name in UNSET:
        return
    expected = None
    if name in WHOLE_NUMBERS and not (type(value) is int and value >= WHOLE_NUMBERS[name]):
        expected = f"a whole number >= {WHOLE_NUMBERS[name]}"
    elif name in SWITCHES and not isinstance(value, bool):
        expected = "True or False"
    elif name in NUMBERS and not (type(value) in (int, float) and 0 <= value <= NUMBERS[name]):
        expected = "a number >= 0" if NUMBERS[name] == float("inf") else f"a number from 0 to {NUMBERS[name]:g}"
    elif name in SIZES and not _is_size(value, default):
        expected = f"a list of {len(default) if isinstance(default, list) else '2 or 3'} whole numbers >= 1"
    elif name == "ensemble" and not isinstance(value, (str, list, tuple)):
        expected = FILES_OF_WEIGHTS
    elif name == "cache_dir" and not (value is None or isinstance(value, str)):
        expected = "a folder"
    elif name == "mirror_axes" and not (isinstance(value, (list, tuple)) and all(type(axis) is int for axis in value)):
        expected = "a list of axes from 0, for example [0]"
    elif name == "device" and isinstance(value, str):
        expected = _device_fault(value)
    if expected:
        raise InputError(f"--{name} must be {expected}, got {value!r}")


def ensemble_files(value: str | Sequence[str]) -> list[str]:
    """The files that ``--ensemble`` names: a list, or text with commas between them. They need not exist.

    Raises:
        InputError: another kind of value, a name without letters, or a file that is named twice.
    """
    names = value.split(",") if isinstance(value, str) and value else value or []
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"--ensemble must be {FILES_OF_WEIGHTS}, got {value!r}")
    files = [name.strip() for name in names]
    places = [Path(file).resolve() for file in files]
    twice = next((file for index, file in enumerate(files) if places[index] in places[:index]), None)
    if twice is not None:
        raise InputError(f"--ensemble names {twice!r} twice; each model counts once")
    return files


def build(key: str) -> Any:
    """The component ``key`` of the config that runs, built now. Input errors and missing packages are InputErrors."""
    parser = calling("ConfigParser")
    if parser is None:
        raise RuntimeError(f"{key!r} can be built only while MONAI builds a component of the same config")
    try:
        return parser.get_parsed_content(key)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not is_input_error(cause):
            cause = cause.__cause__
        if is_input_error(cause):
            raise cause from error
        if isinstance(cause, ModuleNotFoundError) or "pip install" in str(cause):  # the latter is MONAI's RuntimeError
            raise MissingPackageError(f"a package is missing: {cause}") from error
        raise


def given_cases(key: str) -> list[Any] | None:
    """The list of cases that a client of MONAI set at ``key``; None where the config's own expression stands there."""
    parser = calling("ConfigParser")
    value = parser.get(key) if parser is not None else None
    return list(value) if isinstance(value, (list, tuple)) else None


def _written(folder: Path) -> dict[str, Any]:
    """Top-level keys of all config files of a bundle, and their values."""
    keys: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != "metadata.json":
            keys |= json.loads(path.read_text("utf-8"))
    return keys


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _strings(item)


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value[:1] in ("$", "@", "%")


def _is_plain(value: Any) -> bool:
    """Whether this is what a person writes after an option, and no part of a config."""
    return not any(isinstance(item, dict) or _is_expression(item) for item in _listed(value))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_size(value: Any, default: Any) -> bool:
    counts = {len(default)} if isinstance(default, list) else {2, 3}
    return isinstance(value, (list, tuple)) and len(value) in counts and all(type(n) is int and n >= 1 for n in value)


def _device_fault(value: str) -> str | None:
    """What a device must be instead, None for one that is there."""
    import torch

    try:
        device = torch.device(value)
    except RuntimeError:
        return "a device of torch, for example cpu or cuda:0"
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        return f"cpu, or one of the {count} GPUs that torch finds" if count else "cpu, since torch finds no GPU"
    return None
