import importlib.util
import json
from pathlib import Path

from medmixers import results

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("record_demo", ROOT / "scripts" / "record_demo.py")
record_demo = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(record_demo)


def test_readme_shows_the_measured_demo():
    readme = (ROOT / "README.md").read_text()
    table = record_demo.demo_table(results.measured()["demo"])
    assert record_demo.replace_block(readme, table) == readme
    picture = record_demo.PICTURE.relative_to(ROOT).as_posix()
    assert f"]({picture})" in readme
    assert record_demo.PICTURE.is_file()


def test_record_keeps_other_sections_and_says_where(tmp_path):
    path = tmp_path / "measured.json"
    results.record("one", [1], commit="abc", path=path)
    results.record("two", {"x": 2}, commit="def", path=path)
    results.record("one", [3], commit="ghi", path=path)
    sections = json.loads(path.read_text())
    assert sections["one"]["figures"] == [3]
    assert sections["one"]["commit"] == "ghi"
    assert sections["two"]["figures"] == {"x": 2}
    assert sections["two"]["versions"]["torch"]
    assert sections["two"]["processor"]
    assert [p.name for p in tmp_path.iterdir()] == ["measured.json"]
