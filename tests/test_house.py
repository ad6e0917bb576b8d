"""The structure of design.md, held from the sources: arrows between rooms, signatures, cheap imports."""

import ast
import inspect
import re
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import medmixers
from medmixers.mixers import TOKEN_MIXERS
from medmixers.registry import Registry, UnknownNameError, locate
from medmixers.variants import NETWORKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "plugin" / "medmixers"
CORE = ("layers", "kernels", "mixers", "networks")
NO_TORCH = (
    "codes", "errors", "files", "images", "pages", "peers", "progress", "registry", "variants", "factory", "tasks",
    "recipes", "results", "bundles", "datasets", "clinic", "cli",
)  # fmt: skip
# room -> rooms whose modules it may import, besides itself and the tables
ARROWS: dict[str, set[str]] = {
    "images": set(),
    "layers": set(),
    "kernels": {"layers"},
    "mixers": {"layers", "kernels"},
    "networks": {"layers", "kernels", "mixers"},
    "nnunet": {"networks", "mixers", "layers", "bundles", "bundle_runtime", "datasets"},
    "explain": {"images", "networks", "mixers", "layers", "datasets", "bundles"},
    "profiling": {"networks", "mixers", "layers"},
    "bundles": {"datasets", "images", "mixers"},
    "bundle_runtime": {"datasets", "images"},
    "datasets": {"images"},
    "study": {"networks", "mixers", "layers", "datasets", "bundles", "bundle_runtime", "images", "nnunet"},
    "clinic": {"bundles", "bundle_runtime", "datasets", "images", "nnunet"},
    "demo": {"bundles", "clinic", "datasets"},
    "cli": {"bundles", "clinic", "datasets", "demo", "explain", "mixers", "nnunet", "profiling", "study"},
}
# nnU-Net's plans and the configs of a bundle name functions by their dotted path
NAMED_BY_OTHERS = {"architecture": {"nnunet"}, "strides": {"networks"}, "bundle": {"bundle_runtime"}}
TABLES = {
    "checkpoints",
    "codes",
    "errors",
    "files",
    "pages",
    "peers",
    "processes",
    "progress",
    "registry",
    "variants",
    "recipes",
    "factory",
    "tasks",
    "results",
}


def modules(*rooms):
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if not rooms or room in rooms:
            yield room, path


def imports(path, *, top_level_only=False):
    """Dotted names that a file imports; those under TYPE_CHECKING cost nothing and are left out."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed_rooms(room):
    if room in TABLES:  # the ground floor; the table of mixers is read where networks are made by name
        return TABLES | {"mixers", "networks", "layers", "kernels"} if room == "factory" else TABLES - {"factory"}
    return ARROWS[room] | {room} | TABLES


def test_arrows_run_one_way():
    for room, path in modules(*ARROWS, *TABLES):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "medmixers" and len(parts) > 1 and parts[1] not in allowed_rooms(room):
                raise AssertionError(f"{path.relative_to(ROOT)} imports {name}")


def test_strings_name_modules_in_the_two_tables_only():
    """A dotted path in a string is an import too: those of the tables lead to the room that they are for."""
    tables = {"variants": {"networks"}, "mixers": {"mixers"}}
    dotted = re.compile(r"medmixers\.(\w+)\.\w+")
    for room, path in modules("layers", "kernels", "mixers", "networks", "nnunet", "explain", "clinic", *TABLES):
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
        docstrings = {id(node.value) for node in first if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                for target in dotted.findall(node.value):
                    named = f"{path.relative_to(ROOT)} names {node.value!r}"
                    assert target in tables.get(room, set()) | NAMED_BY_OTHERS.get(path.stem, set()), named


def test_no_circle_between_files():
    """Imports inside functions count: a circle hidden there is one too."""
    names = {module_name(path): set(imports(path)) for _, path in modules()}
    graph = {name: (found & names.keys()) - {name} for name, found in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def module_name(path):
    return ".".join(("medmixers", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def test_no_folder_holds_a_fifth_of_the_package():
    sizes = Counter()
    for _, path in modules():
        sizes[path.parent] += line_count(path)
    total = sum(sizes.values())
    assert {str(folder): size for folder, size in sizes.items() if size > total / 5} == {}


def test_core_imports_neither_nnunet_nor_bundles():
    for _, path in modules(*CORE):
        for name in imports(path):
            assert not name.startswith(("nnunetv2", "monai.bundle")), f"{path.relative_to(ROOT)} imports {name}"


def test_nothing_imports_scripts_or_tests():
    for _, path in modules():
        for name in imports(path):
            assert name.split(".")[0] not in ("scripts", "tests"), f"{path.relative_to(ROOT)} imports {name}"


def test_tables_and_listings_import_no_torch():
    for _, path in modules(*NO_TORCH):
        for name in imports(path, top_level_only=True):
            assert name.split(".")[0] not in ("torch", "monai", "timm", "nnunetv2"), path.relative_to(ROOT)


@pytest.mark.parametrize("what", ["networks", "mixers", "tasks", "bundles"])
def test_a_listing_imports_little_and_no_torch(what):
    """A start of 0.1 CPU seconds: the modules are counted, since a clock depends on the machine."""
    code = (
        "import sys; import medmixers.cli.main;"
        f"assert medmixers.cli.main.List().{what}();"
        "assert not {'torch', 'monai', 'nnunetv2', 'timm', 'numpy', 'scipy'} & set(sys.modules), sorted(sys.modules);"
        "print(len(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 400


def test_the_report_of_a_study_needs_no_torch():
    code = "import sys; import medmixers.study.report.page; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def constructors():
    paths = {row.target for row in NETWORKS.values()} | {row.target for row in TOKEN_MIXERS.values()}
    targets = [locate(path) for path in sorted(paths)]
    for _, path in modules("mixers", "networks"):
        module = locate_module(path)
        targets += [
            item for item in vars(module).values() if inspect.isclass(item) and item.__module__ == module.__name__
        ]
    return targets


def locate_module(path):
    name = "medmixers." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return __import__(name.removesuffix(".__init__"), fromlist=["_"])


def test_no_constructor_swallows_options():
    checked = 0
    for target in constructors():
        if "__init__" not in vars(target):
            continue
        kinds = [p.kind for p in inspect.signature(target).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{target} takes **kwargs"
        checked += 1
    assert checked > 10


def test_public_face():
    assert "metaformer_s12" in medmixers.list_networks()
    assert "grouped_conv" in medmixers.list_mixers()
    assert set(medmixers.__all__) == {"create_network", "list_mixers", "list_networks"}
    for row in NETWORKS.values():
        assert callable(locate(row.target))


def test_registry_refuses_duplicates_and_lists_names():
    table = Registry("thing")
    table.register("b", 1)
    table.register("a", 2)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        table.register("a", 3)
    with pytest.raises(UnknownNameError, match=r"^unknown thing 'c'; valid: a, b$"):
        table["c"]
    with pytest.raises(ValueError, match="unknown thing"):
        table[["a"]]
    assert "a" in table
    assert "c" not in table
    assert table.get("c") is None


def test_test_files_have_names_of_their_own():
    """pytest imports a test file by its name alone: two of one name end the run before any test."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_files_stay_short():
    scripts = (ROOT / "scripts").glob("*.py")
    long = {path.name: count for path in [*(p for _, p in modules()), *scripts] if (count := line_count(path)) > 400}
    assert not long


def line_count(path):
    return len(path.read_text().splitlines())


def test_tree_names_no_machine():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "bundles").rglob("*.json"), *(ROOT / "scripts").iterdir()]:
        if path.is_file():
            for place in ("/home/", "/root/", "/work/", "/tmp/"):
                assert place not in path.read_text(), f"{path.relative_to(ROOT)} names {place}"
