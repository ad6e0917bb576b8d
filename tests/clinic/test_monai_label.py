"""MONAI Label's server, with its app for bundles, over HTTP: what it knows, predicts and trains.

A git checkout is MONAILabel below the folder of --client-checkouts, and its packages lie in MONAILabel/.venv.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import write_dataset
from small_bundle import write_small_bundle_with_weights
from test_classify import NODULE, table_of_the_bundle, write_bundle
from test_orthanc import free_port

from clients import checkout_folder, client_python
from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.pack import pack_bundle

WAIT = 120  # seconds until the server answers
BIAS = 7.0
AS_IT_IS = "BundleInferTask(b, self.conf)"
NO_RESTORE = 'BundleInferTask(b, self.conf, add_post_restore="classification" not in n)'
pytestmark = [pytest.mark.slow, pytest.mark.client("MONAI Label")]


class Server:
    """A running server.

    Args:
        folder: holds ``app``, ``studies`` and ``server.log``.
        bundle: the unpacked bundle in its app.
        address: http://...
    """

    def __init__(self, folder: Path, bundle: Path, address: str) -> None:
        self.folder, self.bundle, self.address = folder, bundle, address
        self.weights = bundle / "models" / "model.pt"

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def says(self, text: str) -> bool:
        """Whether the log holds a text; it gets a traceback a moment after the client gets the answer."""
        for _ in range(100):
            if text in self.log:
                return True
            time.sleep(0.1)
        return False

    def ask(self, path: str, body: Mapping[str, Any] | None = None, **options: str) -> bytes:
        """GET, or POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.address}/{path}?{urlencode(options)}", data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=600) as answer:
            return bytes(answer.read())

    def train(self, **options: Any) -> bool:
        """One epoch; whether it ended well."""
        body = {"max_epochs": 1, "device": "cpu", "multi_gpu": False, **options}
        try:
            self.ask(f"train/{self.bundle.name}", body, run_sync="true")
        except HTTPError:
            return False
        return True

    def infer(self, output: str) -> bytes:
        """Prediction of the first case."""
        return self.ask(f"infer/{self.bundle.name}", {}, image="case_0", output=output)


@contextmanager
def served(made: Path, folder: Path, checkout: Path, python: Path, *, task: str = AS_IT_IS) -> Iterator[Server]:
    """Start the server with the zip of a bundle and four labelled cases; ``task`` stands in the app's source."""
    bundle = open_archive(pack_bundle(made, out=folder, exports=False).path, folder / "opened")
    shutil.copytree(checkout / "sample-apps" / "monaibundle", folder / "app")
    source = (folder / "app" / "main.py").read_text()
    assert source.count(AS_IT_IS) == 1
    (folder / "app" / "main.py").write_text(source.replace(AS_IT_IS, task))
    shutil.move(bundle, folder / "app" / "model" / bundle.name)
    write_studies(folder)
    port = free_port()
    command = [
        python,
        "-m",
        "monailabel.main",
        "start_server",
        "--app",
        folder / "app",
        "--studies",
        folder / "studies",
    ]
    command += ["--host", "127.0.0.1", "--port", port, "--conf", "models", bundle.name]
    command += ["--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    environment = {"PYTHONPATH": str(checkout), "MONAI_LABEL_TRACKING_ENABLED": "false", "HOME": str(folder)}
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            server = Server(folder, folder / "app" / "model" / bundle.name, f"http://127.0.0.1:{port}")
            wait_for(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(WAIT):
        try:
            server.ask("info/")
            return
        except OSError:
            assert process.poll() is None, server.log[-3000:]
            time.sleep(1)
    raise AssertionError(f"no answer in {WAIT} s")


def write_studies(folder: Path) -> None:
    data = write_dataset(folder / "Dataset001_Tiny")
    labels = folder / "studies" / "labels" / "final"
    labels.mkdir(parents=True)
    for image in (data / "imagesTr").iterdir():
        case = image.name.replace("_0000.nii.gz", ".nii.gz")
        shutil.copy(image, folder / "studies" / case)
        shutil.copy(data / "labelsTr" / case, labels / case)


@pytest.fixture(scope="module")
def label(pytestconfig: pytest.Config) -> tuple[Path, Path]:
    """The checkout and its Python."""
    checkout = checkout_folder(pytestconfig, "MONAILabel")
    python = client_python(pytestconfig, "MONAILabel", "timeloop")
    if checkout is None or python is None:
        pytest.skip("no MONAILabel: give the folder of its checkout, with its packages in .venv, by --client-checkouts")
    return checkout, python


@pytest.fixture(scope="module")
def segmentation(label: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("segmentation")
    with served(write_small_bundle_with_weights(folder / "made"), folder, *label) as server:
        yield server


def test_info_names_the_bundle_and_its_labels(segmentation: Server) -> None:
    info = json.loads(segmentation.ask("info/"))
    name = segmentation.bundle.name
    assert list(info["models"]) == list(info["trainers"]) == [name]
    assert info["models"][name]["type"] == "segmentation"
    assert info["models"][name]["labels"] == {"grey_matter": 1, "white_matter": 2}


def test_infer_gives_the_bundles_own_labels(segmentation: Server, tmp_path: Path) -> None:
    (tmp_path / "found.nii.gz").write_bytes(segmentation.infer("image"))
    image, bundle = segmentation.folder / "studies" / "case_0.nii.gz", segmentation.bundle
    options = {"bundle_root": bundle, "config_file": bundle / "configs" / "inference.json", "num_workers": 0}
    options |= {"dataset_dir": image, "output_dir": tmp_path, "device": "$torch.device('cpu')"}
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = (nib.load(tmp_path / name) for name in ("case_0.nii.gz", "found.nii.gz"))
    assert len(np.unique(expected.dataobj)) == 3
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)


def test_train_changes_the_weights_with_and_without_pretrained_ones(segmentation: Server) -> None:
    """Biases that no initialisation gives show which weights the training began with."""
    weights = segmentation.weights
    first = torch.load(weights, weights_only=True)
    start = {name: torch.full_like(value, BIAS) if "bias" in name else value for name, value in first.items()}
    weights.unlink()
    assert segmentation.train(), segmentation.log[-2000:]
    untrained = torch.load(weights, weights_only=True)
    torch.save(start, weights)
    assert segmentation.train(pretrained=True), segmentation.log[-2000:]
    trained = torch.load(weights, weights_only=True)
    for found, began_at in ((untrained, 0.0), (trained, BIAS)):
        assert found.keys() == first.keys()
        biases = torch.cat([value.flatten() for name, value in found.items() if "bias" in name])
        assert abs(float(biases.mean()) - began_at) < 0.5
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    assert any(not torch.equal(untrained[name], first[name]) for name in first)


def test_train_with_pretrained_switched_off(segmentation: Server) -> None:
    if not segmentation.train(pretrained=False):
        assert segmentation.says("if os.path.exists(load_path)")
        pytest.xfail("/train with `pretrained: false` ends in MONAI Label's own TypeError, `os.path.exists(None)`")


@pytest.mark.parametrize("task", [AS_IT_IS, NO_RESTORE], ids=["its app", "an app without Restored"])
def test_infer_gives_the_probabilities_of_a_classification(task: str, label: tuple[Path, Path], tmp_path: Path) -> None:
    with served(write_bundle(tmp_path / "made", NODULE), tmp_path, *label, task=task) as server:
        assert json.loads(server.ask("info/"))["models"][server.bundle.name]["type"] == "classification"
        try:
            answer = json.loads(server.infer("json"))
        except HTTPError:
            assert task == AS_IT_IS
            assert server.says("if np.any(np.not_equal(current_size, spatial_size))")
            pytest.xfail("/infer of a classification: its app resizes each prediction to the image, see the guide")
        scores = {each["label"]: each["score"] for each in answer["prediction"]}
    assert scores == pytest.approx(own_probabilities(server, tmp_path), abs=1e-5)


def own_probabilities(server: Server, folder: Path) -> dict[str, float]:
    """Class -> probability, by the bundle's own prediction of the case."""
    (folder / "images").mkdir()
    shutil.copy(server.folder / "studies" / "case_0.nii.gz", folder / "images")
    return table_of_the_bundle(server.bundle, folder / "images", folder / "out")
