"""README and guides: Python blocks run, commands and options exist, links resolve, tables of names are complete."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import commands_in_docs as commands
from house import ROOT
from medmixers.datasets.converters import CONVERTERS
from medmixers.errors import InputError
from medmixers.mixers import TOKEN_MIXERS
from medmixers.nnunet.trainer_classes import TRAINERS
from medmixers.tasks import TASKS

README = ROOT / "README.md"
GUIDES = sorted((ROOT / "plugin" / "docs").glob("*.md"))
DOCUMENTS = [README, *GUIDES, ROOT / ".github" / "CONTRIBUTING.md"]
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def test_guides_are_there_and_the_readme_is_short():
    names = {"networks", "bundles", "nnunet", "study", "clinic", "speed", "troubleshooting", "develop"}
    assert {path.stem for path in GUIDES} == names
    readme = README.read_text()
    assert len(readme.splitlines()) <= 160
    for path in GUIDES:
        assert f"]({path.relative_to(ROOT).as_posix()})" in readme, path.name


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if "```python" in path.read_text()], ids=lambda p: p.name)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in commands.blocks(path.read_text(), "python"):
        exec(compile(block, path.name, "exec"), namespace)
    if path == README:  # as the sentence after the block says
        with torch.inference_mode():
            assert namespace["network"].eval()(torch.zeros(1, 1, 33, 32, 40)).shape == (1, 3, 33, 32, 40)


@each_document
def test_commands_exist_and_take_their_options(path):
    text, variables = path.read_text(), {}
    count = sum(commands.check_block(block, variables) for block in commands.blocks(text, "bash"))
    assert count >= text.count("```bash")
    for words in commands.commands_inline(text):
        commands.check_command(words, inline=True)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("medmixers list network", InputError),
        ("medmixers dataset check", AssertionError),
        ("medmixers dataset", AssertionError),
        ("medmixers dataset check DATA check.html more", InputError),
        ("medmixers profile token_unet --sise 8,8,8", AssertionError),
        ("medmixers profile token_net", AssertionError),
        ("medmixers nnunet plan -d 900 --network token_unet --mixer conv", AssertionError),
        ("medmixers nnunet plan -d 900 --network metaformer_segformer_s12 --mixer poling", AssertionError),
        ("medmixers dataset convert chest_xray_segmentation IN OUT --sise 1", InputError),
        ("medmixers bundle verify skin_lesion_classification_fly", AssertionError),
        ("medmixers nnunet run nnUNetv2_train 900 3d_fullres 0 --device cpu", AssertionError),
        ("nnUNetv2_train 900 3d_fullres", AssertionError),
        ("nnUNetv2_fly 900", ValueError),
        ('eval "$(medmixers nnunet envy)"', InputError),
        ("B=bundles/skin_lesion_classification_pooling; python -m monai.bundle run --bundle_root $B "
         "--config_file $B/configs/train.json --epoch 3", AssertionError),
        ("python scripts/fly.py", AssertionError),
        ("python scripts/render_tables.py --chek", AssertionError),
        ("scripts/test.sh tests/fly", AssertionError),
        ('pip install ".[fly]"', AssertionError),
        ("curl example", AssertionError),
    ],
)  # fmt: skip
def test_wrong_commands_are_found(line, error):
    with pytest.raises(error):
        commands.check_block(line, {})


@each_document
def test_links_resolve(path):
    text = commands.FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        assert "://" not in target, f"{target}: no public address is known"
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in commands.headings(linked), target


@each_document
def test_named_files_variables_and_objects_exist(path):
    sources = None
    for span in commands.spans(path.read_text()):
        if re.fullmatch(r"(plugin|scripts|tests|bundles|\.github)/[a-z_/.]+", span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(r"medmixers(\.\w+)+", span):
            module, _, name = span.rpartition(".")
            assert hasattr(import_module(module), name) or import_module(span), span
        elif found := re.match(r"MEDMIXERS_[A-Z_]+[A-Z]", span):
            files = [*(ROOT / "plugin").rglob("*.py"), ROOT / "tests" / "gpu_device.py"]
            sources = sources or "".join(file.read_text() for file in files)
            assert f'"{found[0]}"' in sources, span
        elif re.fullmatch(r"nnUNetTrainer\w+", span):
            assert span in TRAINERS, span


def rows(guide, heading):
    """Cells of the first table below a heading of a guide."""
    text = (ROOT / "plugin" / "docs" / guide).read_text().partition(f"## {heading}\n")[2]
    table = re.search(r"^\|(?:.*\n\|)+.*$", text, re.M)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_of_mixers_is_the_registrys():
    shown = {cells[0].strip("`"): cells[2] for cells in rows("networks.md", "Token mixers")}
    assert shown == {name: "yes" if row.size_bound else "no" for name, row in TOKEN_MIXERS.items()}


def test_the_tables_of_trainers_are_complete():
    shown = {cells[0].strip("`") for heading in ("A trainer, on any plans", "Recipes") for cells in
             rows("nnunet.md", heading)}  # fmt: skip
    assert {name for name in TRAINERS if "MetaFormer" not in name} == {
        name for name in shown if "MetaFormer" not in name
    }


def test_the_table_of_data_sets_is_complete():
    shown = {name for cells in rows("bundles.md", "Data sets") for name in re.findall(r"`(\w+)`", cells[0])}
    assert shown == set(CONVERTERS)
    assert set(TASKS) - shown == {"brain_tissue_segmentation"}


def test_the_citation_has_the_version():
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    (citation,) = commands.blocks(README.read_text(), "bibtex")
    assert f"version = {{{version}}}" in citation


def test_the_readme_of_a_package_index_has_no_relative_links():
    index_readme = runpy.run_path(str(ROOT / "scripts" / "build_package.py"))["index_readme"]
    text, link = README.read_text(), re.compile(r"\]\(([^)]*)\)")
    pages = "https://forge.example/owner/name/blob/v0"
    shown = index_readme(text, pages)
    assert len(link.findall(shown)) == len(link.findall(text)) > 10
    assert all(target.startswith("https://forge.example/owner/name/") for target in link.findall(shown))
    assert "![A held-out case" in shown
    assert "](https://forge.example/owner/name/raw/v0/plugin/medmixers/results/demo.jpg)" in shown
    assert f"[study]({pages}/plugin/docs/study.md)" in shown
    assert f"({pages}/plugin/docs/networks.md#references)" in shown
    bare = index_readme(text, None)
    assert link.findall(bare) == []
    assert "![" not in bare
    assert "| the answer: equal trainings with several seeds, tests, a report | a study |" in bare
    assert commands.FENCE.findall(bare) == commands.FENCE.findall(text)


@pytest.mark.slow
def test_the_readmes_examples_run_as_printed(tmp_path):
    """All bash blocks but the first, which installs: nnU-Net, then the bundle."""
    start, *examples = commands.blocks(README.read_text(), "bash")
    assert "demo.sh" in start
    bundle = "bundles/brain_tissue_segmentation_grouped_conv"
    shutil.copytree(ROOT / bundle, tmp_path / bundle)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": path, "MEDMIXERS_MINUTES": "1"}
    script = "\n".join(["set -e", *examples])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = tmp_path / "medmixers_examples"
    assert len(list((written / "predictions").glob("*.nii.gz"))) == 3
    assert len(list((tmp_path / bundle / "predictions").glob("*.nii.gz"))) == 3
    assert len(list((written / "shared").glob("*.zip"))) == 1
