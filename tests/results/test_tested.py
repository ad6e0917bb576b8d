"""tested.json against pyproject.toml, the bundles' metadata and the README."""

from __future__ import annotations

import pytest
from packaging.version import Version

import versions
from house import ROOT
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.render.metadata import metadata_config
from medmixers.results import range_tested, versions_tested

PROJECT = versions.read_project()


def test_newest_versions_are_admitted():
    newest = versions_tested("newest")
    for needed in versions.requirements(PROJECT):
        name = versions.canonicalize_name(needed.name)
        assert needed.specifier.contains(newest[name]), f"{needed}: tested with {newest[name]}"


def test_lower_bounds_are_what_was_run():
    oldest = versions_tested("oldest")
    for name, lowest in versions.floors(PROJECT).items():
        assert Version(oldest[name]) == Version(lowest), f"{name}: run scripts/test.sh --oldest --record"


def test_metadata_states_the_newest_versions_tested():
    newest = versions_tested("newest")
    for row in BUNDLES.values():
        metadata = metadata_config(row, package_version="1.0")
        assert (metadata["pytorch_version"], metadata["monai_version"]) == (newest["torch"], newest["monai"])
        stated = metadata["required_packages_version"] | metadata["packages_for_some_uses"]
        assert stated.pop("medmixers") == "1.0"
        assert stated.items() <= newest.items()


def test_the_guide_names_the_versions_tested():
    guide = " ".join((ROOT / "plugin" / "docs" / "develop.md").read_text().split())
    assert range_tested() in guide


def test_lower_bounds_are_read_from_every_extra_but_not_from_the_package_itself():
    project = {
        "name": "ours",
        "dependencies": ["A_b[x]>=1.5,<2", "c", "d!=3,>=2; python_version > '3'"],
        "optional-dependencies": {"e": ["F~=4.1"], "all": ["ours[e]", "g>=9; python_version < '3'"]},
    }
    assert versions.floors(project) == {"a-b": "1.5", "d": "2", "f": "4.1"}


def test_versions_above_the_lower_bound_are_not_recorded_as_oldest(monkeypatch, tmp_path):
    monkeypatch.setattr(versions, "TESTED", tmp_path / "tested.json")
    project = {"name": "ours", "dependencies": ["packaging>=0.1", "pytest"], "optional-dependencies": {}}
    with pytest.raises(SystemExit, match=r"not at the lower bound of pyproject\.toml: packaging$"):
        versions.record(project, "oldest")
    assert not versions.TESTED.exists()
