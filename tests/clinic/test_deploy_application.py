"""`medmixers bundle app`: the files of the application; test_outside_clients.py runs it in MONAI Deploy."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from small_bundle import write_small_bundle_with_weights

from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.pack import pack_bundle
from medmixers.cli.main import main
from medmixers.clinic import deploy
from medmixers.clinic.deploy import render_application, write_application
from medmixers.clinic.model import open_model
from medmixers.codes import Code, SegmentCodes
from medmixers.errors import ExistingFileError, InputError
from medmixers.files import file_digest
from medmixers.images.dicom_seg import Segment
from medmixers.progress import silent


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    made = write_small_bundle_with_weights(folder)
    return pack_bundle(made, out=folder, exports=False).path


def constants(source: str) -> dict[str, Any]:
    """The literals that the application states, read without running it."""
    named = [each for each in ast.parse(source).body if isinstance(each, ast.Assign)]
    return {each.targets[0].id: ast.literal_eval(each.value) for each in named if isinstance(each.targets[0], ast.Name)}


def test_the_files_state_what_the_metadata_states(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "app", str(packed), "--out", str(tmp_path)]) in (None, 0)
    said = capsys.readouterr().out
    folder = tmp_path / "brain_tissue_segmentation_small_app"
    assert f"application: {folder}" in said
    assert {path.name for path in (folder / "app").iterdir()} == set(deploy.FILES)
    bundle = folder / "model" / "brain_tissue_segmentation_small"
    for path in open_archive(packed, tmp_path / "opened").rglob("*.*"):
        assert (bundle / path.relative_to(tmp_path / "opened" / bundle.name)).read_bytes() == path.read_bytes()

    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    found = constants((folder / "app" / "app.py").read_text())
    assert (found["BUNDLE"], found["VERSION"]) == (bundle.name, metadata["version"])
    assert found["WEIGHTS_SHA256"] == file_digest(bundle / "models" / "model.pt")
    assert found["RULES"]["selections"][0]["conditions"] == {"Modality": "^MR$"}
    assert [each["label"] for each in found["SEGMENTS"]] == list(metadata["segments"])
    for segment, facts in zip(found["SEGMENTS"], metadata["segments"].values(), strict=True):
        stated = {key: list(value) for key, value in segment.items() if key != "label"}
        assert stated == {key: value for key, value in facts.items() if key != "values"}

    config = yaml.safe_load((folder / "app" / "app.yaml").read_text())
    assert config["application"]["title"] == bundle.name
    assert config["application"]["version"] == metadata["version"]
    needed = map(Requirement, (folder / "app" / "requirements.txt").read_text().splitlines())
    versions = {each.name: str(each.specifier) for each in needed}
    assert versions["monai"] == f"=={metadata['monai_version']}"
    assert versions["nibabel"] == f"=={metadata['required_packages_version']['nibabel']}"
    assert "medmixers" not in versions


def test_texts_of_a_bundle_do_not_run(packed: Path, tmp_path: Path) -> None:
    model = open_model(packed, tmp_path, checkpoint=None, announce=silent)
    text = '\']\nimport os  # """ {{ name }} \U0001f9e0'
    codes = SegmentCodes(Code("1", "99X", "a 'b' \"c\""), modifier=Code("7771000", "SCT", "Left"))
    changed = replace(model, segments=(Segment(text, (1,), (1, 2, 3), codes),), modality="photograph")
    files = render_application(changed)
    found = constants(files["app.py"])
    assert found["SEGMENTS"][0]["label"] == text
    assert found["SEGMENTS"][0]["type"] == tuple(codes.type)
    assert found["SEGMENTS"][0]["modifier"] == ("7771000", "SCT", "Left")
    assert found["RULES"] == {}
    for name in ("app.py", "__main__.py"):
        compile(files[name], name, "exec")

    with pytest.raises(InputError, match="which is none"):
        render_application(replace(model, version=text))
    path = model.bundle / "configs" / "metadata.json"
    path.write_text(path.read_text().replace('"nibabel": "', '"nibabel": "1\\n--index-url x'))
    with pytest.raises(InputError, match="which is none"):
        render_application(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ("T1", "T2")}, "takes 2 series per case"),
        ({"is_of_nnunet": True}, "nnU-Net's functions"),
        ({"segments": (Segment("a", (1, 2), (0, 0, 0)),)}, "several values per structure"),
        ({"segments": (Segment("a", None, (0, 0, 0)),)}, "structures that overlap"),
        ({"segments": (Segment("a", (1,), (0, 0, 0)),)}, "no code says what a is"),
    ],
)
def test_a_bundle_that_deploy_would_get_wrong_is_refused(
    change: Any, message: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "open_model", lambda *args, **options: replace(open_model(*args, **options), **change))
    with pytest.raises(InputError, match=message):
        write_application(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_zip_or_would_be_overwritten_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the zip that medmixers bundle pack writes"):
        write_application(packed.parent, tmp_path)
    with pytest.raises(InputError, match=r"there is no model '.*gone\.zip': give"):
        write_application(tmp_path / "gone.zip", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file: give the folder"):
        write_application(packed, tmp_path / "file")
    (tmp_path / "brain_tissue_segmentation_small_app").mkdir()
    with pytest.raises(ExistingFileError, match="is there already"):
        write_application(packed, tmp_path)
