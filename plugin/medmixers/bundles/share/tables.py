"""The tables of networks and token mixers, cut down to the rows that a bundle's configs name."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from types import ModuleType
from typing import Any

from medmixers import mixers, variants
from medmixers.peers import split_name
from medmixers.registry import Registry

Reached = Callable[[Iterable[str]], set[str]]  # files that dotted names lead to
IMPORTED = "from medmixers.registry import Registry"
WRITTEN = "Written when the bundle was packed; the installed package has more."


def trimmed_variants(configs: Mapping[str, str], reached: Reached) -> str:
    """Source of variants.py with the networks that the configs name.

    Of a row's ``blocks``, the classes in modules that the network does not import are left out.
    """
    rows = {}
    for name in [*named_in(configs, variants.NETWORKS), *peers_in(configs)]:
        row = variants.NETWORKS[name]
        modules = reached([row.target, *([row.encoder] if row.encoder else []), *mixer_targets(configs)])
        own = tuple(block for block in row.blocks if not block.startswith("medmixers.") or reached([block]) <= modules)
        rows[name] = replace(row, blocks=own)
    return trimmed_table(variants, "NETWORKS", rows, f"The networks of this bundle, as frozen rows. {WRITTEN}")


def trimmed_mixers(configs: Mapping[str, str], reached: Reached) -> str:
    """Source of mixers/__init__.py with the token mixers of the bundle's networks."""
    rows = {name: mixers.TOKEN_MIXERS[name] for name in _mixers_of(configs)}
    return trimmed_table(mixers, "TOKEN_MIXERS", rows, f"The token mixers of this bundle. {WRITTEN}")


# path within the package -> function of the configs that gives its text in a zip
TRIMMED: Mapping[str, Callable[[Mapping[str, str], Reached], str]] = {
    "variants.py": trimmed_variants,
    "mixers/__init__.py": trimmed_mixers,
}


def mixer_targets(configs: Mapping[str, str]) -> list[str]:
    """Dotted paths of the token mixers of the bundle's networks."""
    return [mixers.TOKEN_MIXERS[name].target for name in _mixers_of(configs)]


def _mixers_of(configs: Mapping[str, str]) -> list[str]:
    """Token mixers that the configs name; else those of the rows of their networks."""
    names = set(named_in(configs, mixers.TOKEN_MIXERS))
    if not names:
        for network in named_in(configs, variants.NETWORKS):
            mixer = variants.NETWORKS[network].arguments.get("mixer", ())
            names |= {mixer} if isinstance(mixer, str) else set(mixer)
    if not names and any(variants.NETWORKS[network].encoder for network in named_in(configs, variants.NETWORKS)):
        return list(mixers.TOKEN_MIXERS)  # the encoder's default, which is known once torch is imported
    return sorted(names)


def named_in(configs: Mapping[str, str], table: Iterable[str]) -> list[str]:
    """Names of a table that are values in the configs, sorted."""
    known = set(table)
    return sorted({text for config in configs.values() for text in strings_in(json.loads(config))} & known)


def peers_in(configs: Mapping[str, str]) -> list[str]:
    """Networks of other libraries that are values in the configs, sorted."""
    strings = {text for config in configs.values() for text in strings_in(json.loads(config))}
    named = [text for text in strings if split_name(text)[0] in variants.NETWORKS.libraries]
    return sorted(text for text in named if text in variants.NETWORKS)


def trimmed_table(module: ModuleType, registry: str, rows: Mapping[str, Any], docstring: str) -> str:
    """Source of a table's module: its row class and its registry, and these rows only.

    Args:
        module: defines the registry.
        registry: name of the registry in the module.
        rows: name -> row.
        docstring: of the new module, one line.
    """
    table: Registry[Any] = getattr(module, registry)
    source = inspect.getsource(module)
    body = ast.parse(source).body
    row_class = type(table[next(iter(table))]).__name__
    kept = [node for node in body if _defines(node, {row_class, registry})]
    used = {node.id for part in kept for node in ast.walk(part) if isinstance(node, ast.Name)}
    used = (used - {type(table).__name__, "Registry"}) | {"annotations"}
    imports = [_only(node, used) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = "\n".join([*(ast.unparse(node) for node in imports if node.names), IMPORTED])
    code = "\n\n\n".join(_segment(source, node) for node in kept)
    code = re.sub(rf"\b{type(table).__name__}\b", "Registry", code)  # a subclass finds rows that are not registered
    text = "\n".join([f'"""{docstring}"""', "", lines, "", "", code, *_registrations(registry, rows)]) + "\n"
    return text.replace(f'Registry("{table.kind}"', f'Registry("{table.kind} of this zip"', 1)


def _registrations(registry: str, rows: Mapping[str, Any]) -> Iterator[str]:
    """One statement per row, one line per field that differs from its default."""
    for name, row in rows.items():
        yield from ("", f"{registry}.register(", f"    {name!r},", f"    {type(row).__name__}(")
        for field, value, default in _fields(row):
            plain = dict(value) if isinstance(value, Mapping) else value
            if value != default:
                yield f"        {field}={plain!r},"
        yield from ("    ),", ")")


def _fields(row: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of each field of a dataclass or a named tuple."""
    if is_dataclass(row):
        for field in fields(row):
            made = field.default_factory() if field.default_factory is not MISSING else field.default
            yield field.name, getattr(row, field.name), made
    else:
        for name in row._fields:
            yield name, getattr(row, name), row._field_defaults.get(name, MISSING)


def _defines(node: ast.stmt, names: set[str]) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name in names
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id in names for target in targets)


def _only(node: Any, used: set[str]) -> Any:
    """An import without the names that nothing uses."""
    node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
    return node


def _segment(source: str, node: ast.stmt) -> str:
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])


def strings_in(value: Any) -> Iterator[str]:
    """Texts that parsed JSON holds, without the keys."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings_in(item)
