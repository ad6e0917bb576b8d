"""README and guides show the recorded figures; wrong markers end in one line."""

import json
import shutil
import subprocess
import sys

import pytest

from house import ROOT
from medmixers.errors import InputError
from medmixers.results import documents, measured, network_facts, tables
from medmixers.variants import NETWORKS

SCRIPT = ROOT / "scripts" / "render_tables.py"
END = documents.END


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose documents hold every marker and no table."""
    cases = ROOT / documents.INPUT_CASES
    names = [*tables.TABLES, "clients", *(f"inputs-{kind}" for kind in json.loads(cases.read_text()))]
    (tmp_path / documents.INPUT_CASES).parent.mkdir(parents=True)
    shutil.copy(cases, tmp_path / documents.INPUT_CASES)
    blocks = [f"{documents.START.format(name=name)}\n{END}\n" for name in names]
    (tmp_path / "README.md").write_text(f"# a\n\n{blocks[0]}\nb\n")
    guides = tmp_path / "plugin" / "docs"
    guides.mkdir(parents=True)
    (guides / "one.md").write_text("\n".join(blocks[1:]))
    (guides / "two.md").write_text("no table\n")
    return tmp_path


def test_documents_are_current():
    stale = [path.name for path in documents.outdated(ROOT)]
    assert stale == [], "run: python scripts/render_tables.py"


def test_what_stands_between_markers_is_replaced_and_all_else_kept():
    text = f"a <!-- table: x -->\nold\n{END} b\n<!-- table: y -->{END}\n"
    filled, names = documents.fill(text, {"x": "new", "y": "| z |"})
    assert filled == f"a <!-- table: x -->\nnew\n{END} b\n<!-- table: y -->\n| z |\n{END}\n"
    assert names == ["x", "y"]
    assert documents.fill(filled, {"x": "new", "y": "| z |"}) == (filled, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: q --> <!-- end of table -->", "unknown table 'q'; valid: x"),
        ("<!-- table: x --> and no end", "'<!-- table: x -->' has no '<!-- end of table -->' after it"),
        ("<!-- end of table -->", "'<!-- end of table -->' must stand after the start of a table"),
        ("<!-- table: x --><!-- table: x -->", "'<!-- table: x -->' must stand after the end of a table"),
    ],
)
def test_wrong_markers_are_named(text, message):
    with pytest.raises(InputError) as caught:
        documents.fill(text, {"x": "new"})
    assert str(caught.value) == message


def test_outdated_documents_are_written_once(checkout):
    readme, one = checkout / "README.md", checkout / "plugin" / "docs" / "one.md"
    assert set(documents.outdated(checkout)) == {readme, one}
    assert documents.write(checkout) == [readme, one]
    assert documents.write(checkout) == []
    assert tables.TABLES["demo"](measured(), network_facts()) in readme.read_text()
    assert (checkout / "plugin" / "docs" / "two.md").read_text() == "no table\n"
    one.write_text(one.read_text().replace("token_unet", "token_net", 1))
    assert list(documents.outdated(checkout)) == [one]


def test_a_table_that_no_document_shows_is_an_error(checkout):
    (checkout / "README.md").write_text("# a\n")
    with pytest.raises(InputError, match="no document holds '<!-- table: demo -->'"):
        documents.render(checkout)


def test_study_table_of_known_figures():
    row = {
        "world": "bundle", "recipe": "xue2026_segmentation", "entry": "pooling", "parameters": 1234567,
        "dice": {"grey_matter": 0.5, "white_matter": 0.75}, "step_seconds": 0.514, "train_seconds": 61.4,
    }  # fmt: skip
    section = {
        "date": "2026-01-31", "commit": "0123456789", "processor": "P", "cores": 2, "device": "cpu",
        "versions": {"torch": "2.8"}, "figures": [row, {**row, "world": "nnunet", "recipe": None}],
    }  # fmt: skip
    lines = tables.study_table(section).splitlines()
    assert lines[0].startswith("| trained by | entry | parameters | Dice grey matter | Dice white matter | mean |")
    assert lines[2:4] == [
        "| MONAI Bundle, xue2026_segmentation | pooling | 1,234,567 | 0.500 | 0.750 | 0.625 | 0.51 | 61 s |",
        "| nnU-Net | pooling | 1,234,567 | 0.500 | 0.750 | 0.625 | 0.51 | 61 s |",
    ]
    assert "Measured 2026-01-31 at commit 0123456; P, 2 cores, device cpu; torch 2.8." in " ".join(lines[5:])


def test_networks_table_has_every_network():
    lines = tables.networks_table(network_facts()["parameters"]).splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == sorted(NETWORKS)
    assert next(line for line in lines if line.startswith("| `token_unet` ")).split(" | ")[1:4] == [
        "segmentation", f"{network_facts()['parameters']['token_unet']['2D'] / 1e6:.2f}", "5.61",
    ]  # fmt: skip
    assert next(line for line in lines if line.startswith("| `rad_dino_classifier` ")).split(" | ")[3] == "-"


def test_script_checks():
    out = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stderr) == (0, "")
    assert "differs" not in out.stdout  # it may note which figures older code gave
