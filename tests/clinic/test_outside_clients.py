"""Other software takes a packed bundle: MONAI Deploy, the model zoo's checks, 3D Slicer's parser.

MONAI Deploy must be installed next to this package. The others run from checkouts, --client-checkouts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_helpers import ROOT
from clinic_series import STUDY, voxels_in
from dicom_files import oblique_directions, write_series
from small_bundle import write_small_bundle_with_weights

from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.pack import pack_bundle
from medmixers.clinic.segment import segment_series

SHAPE = (20, 22, 18)
SPACING = (2.0, 2.0, 3.1)  # square pixels: Deploy exchanges the two spacings, see test_deploy.py
pytestmark = pytest.mark.slow
CheckoutOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a person unpacks it, with the code of the network in it."""
    folder = tmp_path_factory.mktemp("packed")
    made = write_small_bundle_with_weights(folder)
    packed = pack_bundle(made, weights=made / "models" / "model.pt", out=folder).path
    return open_archive(packed, folder / "opened")


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.client("MONAI Deploy App SDK")
@pytest.mark.skipif(
    find_spec("holoscan") is None, reason="MONAI Deploy is not installed: pip install monai-deploy-app-sdk"
)
def test_deploys_application_writes_the_voxels_of_clinic_segment(bundle: Path, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)
    empty = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
    tags = {**STUDY, "SeriesInstanceUID": "1.2.826.3", **dict.fromkeys(empty, "")}
    made = write_series(tmp_path / "series", voxels, spacing=SPACING, directions=oblique_directions(), **tags)
    segment_series(bundle, made, tmp_path / "ours.dcm", device="cpu")
    run(sys.executable, Path(__file__).with_name("deploy_app.py"), bundle, made, tmp_path / "out", cwd=tmp_path)
    (written,) = (tmp_path / "out").glob("*.dcm")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = oblique_directions() * SPACING, (-10, 5, 30)
    found, ours = (voxels_in(file, SHAPE, affine) for file in (written, tmp_path / "ours.dcm"))
    assert ours[0].any()
    assert ours[1].any()
    np.testing.assert_array_equal(found, ours)


@pytest.mark.client("MONAI model zoo, CI")
def test_the_model_zoo_verifies_the_bundle(bundle: Path, checkout_of: CheckoutOf, tmp_path: Path) -> None:
    """The schema of the metadata is not in the checkout: an empty one stands in for it."""
    zoo = checkout_of("model-zoo")
    shutil.copytree(zoo / "ci", tmp_path / "ci")
    shutil.copytree(bundle, tmp_path / "models" / bundle.name)
    (tmp_path / "models" / "model_info.json").write_text("{}")
    (tmp_path / "models" / bundle.name / "eval").mkdir()
    (tmp_path / "models" / bundle.name / "eval" / "schema.json").write_text("{}")
    command = (sys.executable, "ci/verify_bundle.py", "-b", bundle.name, "-p", "models", "-m", "full")
    said = run(*command, cwd=tmp_path)
    for part in ("directory is", "version and changelog are", "properties are", "data shape is"):
        assert f"{part} verified correctly" in said
    assert "export weights into TorchScript module successfully" in said


@pytest.mark.client("3D Slicer, MONAIViz")
def test_slicers_parser_lists_the_transforms_of_every_bundle(checkout_of: CheckoutOf) -> None:
    file = checkout_of("SlicerMONAIViz") / "MONAIViz" / "MONAIVizLib" / "utils.py"
    spec = spec_from_file_location("monaiviz_utils", file)
    assert spec is not None
    assert spec.loader is not None
    viewer: Any = module_from_spec(spec)
    spec.loader.exec_module(viewer)
    folders = [each.parents[1] for each in sorted((ROOT / "bundles").glob("*/configs/train.json"))]
    assert len(folders) > 50
    for folder in folders:
        listed = viewer.MonaiUtils.transforms_from_bundle(folder.name, str(folder.parent))
        train = json.loads((folder / "configs" / "train.json").read_text())["train"]
        names = [each["_target_"] for each in train["deterministic_transforms"] + train["random_transforms"]]
        assert [each["_target_"] for each in listed] == names
        assert names
