"""The code that a zip carries: how much, that it is whole, and its name."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from bundle_helpers import ROOT

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.share.vendoring import (
    FOLDER,
    foreign_imports,
    renamed,
    renamed_config,
    vendor_package,
    vendored_sources,
)
from medmixers.mixers import TOKEN_MIXERS

# The most files and lines that bundles carry: any of them, and one per kind. bundles.md states these with the reasons.
MOST = 70, 9300
CARRIED = {
    "brain_tissue_segmentation_grouped_conv": (68, 9000),
    "chest_xray_segmentation_grouped_conv": (60, 7600),
    "skin_lesion_classification_grouped_conv": (57, 7150),
}
# Token mixers that no bundle here uses, and the kernels of theirs alone.
BEYOND: dict[str, tuple[str, ...]] = {
    "spectral": (),
    "state_space": ("selective_scan",),
    "dilated_attention": ("dilated_tile_attention",),
    "large_kernel": (),
    "linear_attention": (),
    "simplified_attention": (),
}


def configs_of(name: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((ROOT / "bundles" / name / "configs").glob("*.json"))}


@pytest.fixture(scope="module")
def sources() -> dict[str, dict[str, str]]:
    """Bundle -> the files of its zip's package."""
    return {name: vendored_sources(configs_of(name)) for name in BUNDLES}


def test_every_bundle_carries_little(sources: dict[str, dict[str, str]]) -> None:
    for name, files in sources.items():
        size = size_of(files)
        assert size[0] <= MOST[0], (name, size)
        assert size[1] <= MOST[1], (name, size)


def size_of(files: dict[str, str]) -> tuple[int, int]:
    """Files and lines."""
    return len(files), sum(len(text.splitlines()) for text in files.values())


def test_the_guide_states_what_a_zip_carries(sources: dict[str, dict[str, str]]) -> None:
    guide = (ROOT / "plugin" / "docs" / "bundles.md").read_text()
    for name, expected in CARRIED.items():
        files, lines = size_of(sources[name])
        assert expected[0] - 3 < files <= expected[0], (name, files)
        assert expected[1] - 200 < lines <= expected[1], (name, lines)
        assert f"| `{name}` | {expected[0]} | {expected[1]:,} |" in guide


def test_checks_of_other_kinds_stay_out(sources: dict[str, dict[str, str]]) -> None:
    raw = {"bundle_runtime/preflight_raw.py", "datasets/raw_checks.py"}
    for name, files in sources.items():
        assert (raw & set(files)) == (raw if BUNDLES[name].task_spec.has_raw_format else set()), name
        assert ("bundle_runtime/overlap.py" in files) == ("segmentation" in name), name
        assert ("bundle_runtime/probabilities.py" in files) == ("classification" in name), name


def test_every_bundle_carries_its_own_network_only(sources: dict[str, dict[str, str]]) -> None:
    for name, files in sources.items():
        mixers = {path.split("/")[1] for path in files if path.startswith("mixers/")} - {"__init__.py", "build.py"}
        own = {f"{mixer}.py" for mixer in TOKEN_MIXERS if BUNDLES[name].network_options.get("mixer") == mixer}
        if name.endswith("local_attention"):
            own.add("global_attention.py")  # the same heads
        assert mixers == own, name
        rooms = {path.split("/")[0] for path in files}
        assert rooms.isdisjoint({"nnunet", "study", "explain", "cli", "demo", "results", "bundles", "tasks"})
        assert {"networks/rad_dino.py", "networks/weights.py", "kernels/depthwise_triton.py"}.isdisjoint(files), name
        assert {f"kernels/{kernel}.py" for kernels in BEYOND.values() for kernel in kernels}.isdisjoint(files), name
        assert ("networks/token_unet.py" in files) == ("token_unet" in name or "unet_star_star" in name)


@pytest.mark.parametrize("mixer", BEYOND)
def test_a_new_bundle_carries_one_mixer_beyond_the_papers(mixer: str) -> None:
    configs = configs_of("brain_tissue_segmentation_conv")
    files = vendored_sources({name: text.replace('"conv"', f'"{mixer}"') for name, text in configs.items()})
    others = {f"mixers/{other}.py" for other in TOKEN_MIXERS} - {f"mixers/{mixer}.py", "mixers/global_attention.py"}
    assert f"mixers/{mixer}.py" in files
    assert others.isdisjoint(files)
    for other, kernels in BEYOND.items():
        assert all((f"kernels/{kernel}.py" in files) == (other == mixer) for kernel in kernels)
    assert size_of(files) <= MOST


def test_every_name_that_a_module_imports_is_there(sources: dict[str, dict[str, str]]) -> None:
    """Imports at the start of a module, and inside functions unless they fall back."""
    for files in {tuple(files): files for files in sources.values()}.values():
        for path, text in files.items():
            for module, name in needed(text):
                place = module.split(".")[1:]
                if "/".join([*place, name]) + ".py" not in files:
                    alone = "/".join(place) + ".py"
                    owner = alone if alone in files else "/".join([*place, "__init__.py"])
                    assert name in defined(parsed(files[owner])), f"{path}: {owner} has no {name}"


@cache
def needed(text: str) -> list[tuple[str, str]]:
    """Modules of the package and the names that a text imports from them."""
    tree = parsed(text)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) or getattr(getattr(node, "test", None), "id", "") == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    return [
        (str(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("medmixers") and id(node) not in guarded
        for alias in node.names
    ]


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def defined(tree: ast.Module) -> set[str]:
    """Names that a module defines or imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_nothing_is_needed_that_bundles_do_not_require(sources: dict[str, dict[str, str]]) -> None:
    texts = {text for files in sources.values() for text in files.values()}
    assert foreign_imports(texts) <= {"PIL", "tqdm"}  # pillow for PNG; every bundle requires tqdm


def test_files_are_the_packages_own_but_for_the_two_tables(sources: dict[str, dict[str, str]]) -> None:
    for path, text in {file for files in sources.values() for file in files.items()}:
        if path not in ("variants.py", "mixers/__init__.py"):
            assert text == (FOLDER / path).read_text()
        compile(text, path, "exec")


def test_a_package_is_named_by_its_content() -> None:
    first, second = (vendor_package(configs_of(f"brain_tissue_segmentation_{mixer}")) for mixer in ("conv", "pooling"))
    assert first.name != second.name
    assert vendor_package(configs_of("brain_tissue_segmentation_conv")) == first
    assert len(first.name) == len("medmixers_01234567")
    assert {Path(path).parts[0] for path in first.files} == {first.name}
    for text in first.files.values():
        assert "medmixers." not in text.replace(f"{first.name}.", "")


def test_equal_code_has_an_equal_name() -> None:
    """Bundles of two tasks with one network and one kind of data share their package."""
    names = {
        vendor_package(configs_of(f"{task}_classification_pooling")).name
        for task in ("skin_lesion", "colon_pathology", "chest_xray_pneumonia")
    }
    assert len(names) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from medmixers.errors import InputError", "from medmixers_x.errors import InputError"),
        ('"medmixers.mixers.conv.Conv"', '"medmixers_x.mixers.conv.Conv"'),
        (
            'library.custom_op("medmixers::pool", mutates_args=())',
            'library.custom_op("medmixers_x::pool", mutates_args=())',
        ),
        ("medmixers: error: use `medmixers dataset check`.", "medmixers: error: use `medmixers dataset check`."),
        ("pip install 'medmixers[onnx]', or medmixers.", "pip install 'medmixers[onnx]', or medmixers."),
        ("my_medmixers.x", "my_medmixers.x"),
    ],
)
def test_paths_are_renamed_and_prose_is_not(text: str, expected: str) -> None:
    assert renamed(text, "medmixers_x") == renamed_config(text, "medmixers_x") == expected


def test_configs_name_the_module_of_what_the_package_offers() -> None:
    text = renamed_config('"medmixers.create_network"', "medmixers_x")
    assert text == '"medmixers_x.factory.create_network"'
