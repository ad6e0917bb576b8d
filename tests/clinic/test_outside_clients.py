"""Other software takes a packed bundle: MONAI's own commands, MONAI Deploy, the model zoo's checks, 3D Slicer's parser.

They are found below the folder of --client-checkouts: git checkouts, and environments of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT, write_dataset
from clinic_series import STUDY, voxels_in
from dicom_files import oblique_directions, write_series
from pydicom import dcmread
from small_bundle import write_small_bundle_with_weights

from medmixers.bundles.render.metadata import SCHEMA
from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.pack import pack_bundle
from medmixers.bundles.verify.hidden import environment_without_package
from medmixers.clinic.deploy import write_application
from medmixers.clinic.segment import segment_series

SHAPE = (20, 22, 18)
SPACING = (1.9, 2.3, 3.1)
pytestmark = pytest.mark.slow
CheckoutOf = Callable[[str], Path]
PythonOf = Callable[[str, str], Path]
DOCKER = """#!/bin/sh
case "$*" in
*"buildx ls"*) echo '{{"Name": "holoscan_app_builder", "Driver": "docker-container", "Dynamic": false, "Nodes": []}}';;
*"buildx inspect"*) printf 'Name: holoscan_app_builder\\nDriver: docker-container\\n\\nNodes:\\nName: n\\n';;
*"buildx build"*) for last; do :; done; cp -r "$last" "{context}";;
*"image inspect"*) echo '[{{}}]';;
esac
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip as it is handed on."""
    folder = tmp_path_factory.mktemp("packed")
    made = write_small_bundle_with_weights(folder)
    return pack_bundle(made, weights=made / "models" / "model.pt", out=folder).path


@pytest.fixture(scope="module")
def bundle(packed: Path) -> Path:
    """As a person unpacks it, with the code of the network in it."""
    return open_archive(packed, packed.parent / "opened")


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def monais_command(bundle: Path, folder: Path, command: str, *words: str | Path, needs: Sequence[str] = ()) -> None:
    """Run a command of monai.bundle where Python finds the requirements of the bundle, and not this package."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["required_packages_version"] |= dict.fromkeys(needs, "")
    environment = environment_without_package(folder / "hidden", bundle, metadata)
    (folder / "elsewhere").mkdir(exist_ok=True)
    run(sys.executable, "-m", "monai.bundle", command, *words, cwd=folder / "elsewhere", env=environment)


@pytest.mark.client("monai.bundle")
def test_monai_trains_evaluates_and_predicts_with_the_zip(bundle: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "Dataset001_Tiny", held_out=1)
    configs = bundle / "configs"
    places = ["--ckpt_dir", tmp_path / "models", "--output_dir", tmp_path / "eval", "--dataset_dir", data]
    evaluation = f"['{configs / 'train.json'}','{configs / 'evaluate.json'}']"
    for config, options in ((configs / "train.json", ["--epochs", "1"]), (evaluation, [])):
        words = ["--bundle_root", bundle, "--config_file", config, *places, *options]
        monais_command(bundle, tmp_path, "run", *words, needs=["tensorboard", "scipy"])
    assert (tmp_path / "eval" / "metrics.csv").is_file()
    trained = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert trained.keys() == torch.load(bundle / "models" / "model.pt", weights_only=True).keys()
    words = ["--bundle_root", bundle, "--config_file", configs / "inference.json", "--dataset_dir", data]
    monais_command(bundle, tmp_path, "run", *words, "--output_dir", tmp_path / "predictions")
    (labels,) = (tmp_path / "predictions").glob("*.nii.gz")
    assert set(np.unique(nib.load(labels).dataobj)) == {0, 1, 2}


@pytest.mark.client("monai.bundle")
def test_monai_checks_and_exports_the_zip(bundle: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnx_export: pip install 'medmixers[onnx]'")
    configs = bundle / "configs"
    words = ["network_def", "--bundle_root", bundle, "--config_file", configs / "inference.json"]
    words += ["--meta_file", configs / "metadata.json"]
    monais_command(bundle, tmp_path, "verify_net_in_out", *words, "--device", "cpu")
    for command, name, needs in (
        ("ckpt_export", "model.ts", ()),
        ("onnx_export", "model.onnx", ("onnx", "onnxruntime", "onnxscript")),
    ):
        target = ["--filepath", tmp_path / name, "--ckpt_file", bundle / "models" / "model.pt"]
        monais_command(bundle, tmp_path, command, *words, *target, needs=needs)
    image = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.jit.load(bundle / "models" / "model.ts")(image)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected, rtol=1e-3, atol=1e-4)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.client("monai.bundle")
def test_monais_schema_takes_the_metadata(bundle: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """MONAI downloads the schema where the file is not there."""
    schema = Path(pytestconfig.getoption("--client-checkouts") or tmp_path) / SCHEMA.rpartition("/")[2]
    if not schema.is_file():
        pytest.skip(f"verify_metadata: no {schema.name} in the folder of --client-checkouts; download {SCHEMA}")
    copy = shutil.copy(schema, tmp_path / "schema.json")
    words = ["--meta_file", bundle / "configs" / "metadata.json", "--filepath", copy]
    monais_command(bundle, tmp_path, "verify_metadata", *words, needs=["jsonschema"])


@pytest.mark.client("MONAI Deploy App SDK")
def test_deploys_application_writes_the_voxels_of_clinic_segment(
    packed: Path, python_of: PythonOf, tmp_path: Path
) -> None:
    """It runs from the folder that `monai-deploy package` gives to Docker, as in its container."""
    python = python_of("monai-deploy-app-sdk", "monai-deploy-app-sdk")
    series, affine = written_series(tmp_path / "series")
    codes = tmp_path / "codes.yaml"
    codes.write_text("grey_matter: {type: ['389081007', SCT, Gray Matter], modifier: ['7771000', SCT, Left]}\n")
    segment_series(packed, series, tmp_path / "ours.dcm", codes=codes, device="cpu")
    context = packaged(write_application(packed, tmp_path, codes=codes), python, tmp_path)
    places = {"INPUT": series, "OUTPUT": tmp_path / "out", "MODEL": context / "models"}
    environment = {**os.environ, **{f"HOLOSCAN_{name}_PATH": str(place) for name, place in places.items()}}
    environment.pop("PYTHONPATH", None)  # the bundle carries its code
    (tmp_path / "out").mkdir()
    run(python, context / "app", cwd=tmp_path, env=environment)
    (written,) = (tmp_path / "out").glob("*.dcm")
    found, ours = (voxels_in(file, SHAPE, affine) for file in (written, tmp_path / "ours.dcm"))
    assert ours[0].any()
    assert ours[1].any()
    np.testing.assert_array_equal(found, ours)
    for mine, theirs in zip(*(dcmread(file).SegmentSequence for file in (tmp_path / "ours.dcm", written)), strict=True):
        assert mine == theirs


@pytest.mark.client("MONAI Deploy App SDK")
@pytest.mark.parametrize(
    ("change", "message"),
    [("gap", "not lie at equal distances"), ("second series", "2 series match"), ("modality", "0 series match")],
)
def test_deploys_application_refuses_what_it_would_get_wrong(
    change: str, message: str, packed: Path, python_of: PythonOf, tmp_path: Path
) -> None:
    python = python_of("monai-deploy-app-sdk", "monai-deploy-app-sdk")
    series, _ = written_series(tmp_path / "series", Modality="CT" if change == "modality" else "MR")
    if change == "gap":
        (series / "009.dcm").unlink()
    if change == "second series":
        written_series(series / "second", SeriesInstanceUID="1.2.826.4")
    folder = write_application(packed, tmp_path)
    command = [python, folder / "app", "-i", series, "-o", tmp_path / "out", "-m", folder / "model"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert not list((tmp_path / "out").glob("*.dcm"))


def written_series(folder: Path, **changes: str) -> tuple[Path, np.ndarray]:
    """A series of noise, and its affine to LPS millimetres."""
    voxels = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)
    empty = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
    tags = {**STUDY, "SeriesInstanceUID": "1.2.826.3", **dict.fromkeys(empty, ""), **changes}
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = oblique_directions() * SPACING, (-10, 5, 30)
    return write_series(folder, voxels, spacing=SPACING, directions=oblique_directions(), **tags), affine


def packaged(application: Path, python: Path, folder: Path) -> Path:
    """What `monai-deploy package` gives to Docker. A script stands for docker, and keeps the folder of the build."""
    command = python.with_name("monai-deploy")
    if not command.is_file():
        pytest.skip("there is no monai-deploy package: pip install holoscan-cli==4.2.0, later ones do not have it")
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.format(context=folder / "context"))
    docker.chmod(0o755)
    said = run(python, "-c", "from importlib.metadata import version; print(version('holoscan-cu13'))").strip()
    images = dict.fromkeys(("dgpu", "igpu", "cpu"), "ubuntu:24.04")
    release = {"debian-version": said, "wheel-version": said, "base-images": images}
    release["build-images"] = {name: {} for name in images}
    (folder / "releases.json").write_text(json.dumps({said: {"holoscan": release, "health-probes": {}}}))
    words = "package app -c app/app.yaml -m model -t segmentation --platform x86_64 --source"
    path = f"{docker.parent}{os.pathsep}{os.environ['PATH']}"
    run(
        command, *words.split(), folder / "releases.json", "--build-cache", folder / "cache",
        cwd=application, env={**os.environ, "PATH": path},
    )  # fmt: skip
    manifest = json.loads((folder / "context" / "map" / "app.json").read_text())
    assert json.loads(manifest["command"]) == ["python3", "/opt/holoscan/app"]
    requirements = (folder / "context" / "pip" / "requirements.txt").read_text()
    assert (application / "app" / "requirements.txt").read_text() in requirements
    return folder / "context"


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
