"""A series and its segmentation go into a real Orthanc and are read from there. Needs Debian's orthanc and dcmtk."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from clinic_series import PATIENT, lps_affine, series, voxels_in
from small_bundle import write_small_bundle_with_weights

from medmixers.clinic.segment import segment_series

pytest.importorskip("highdicom", reason="no highdicom: pip install 'medmixers[dicom]'")
LACKING = [name for name in ("Orthanc", "storescu") if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.client("Orthanc"),
    pytest.mark.skipif(bool(LACKING), reason=f"no {', '.join(LACKING)}: apt-get install orthanc dcmtk"),
]
SHAPE = (20, 22, 18)
WAIT = 60  # seconds until it answers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Archive:
    """An Orthanc on this machine: DICOM's protocol on one port, its REST interface on another."""

    def __init__(self, folder: Path) -> None:
        self.dicom, self.http = free_port(), free_port()
        options = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomPort": self.dicom,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowStore": True,
        }
        (folder / "orthanc.json").write_text(json.dumps(options))

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", timeout=30) as answer:
            return bytes(answer.read())

    def store(self, *files: Path) -> None:
        command = ["storescu", "-R", "-aec", "ORTHANC", "127.0.0.1", str(self.dicom), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def fetch(self, modality: str, folder: Path) -> Path:
        """The instances of the one series of a modality."""
        folder.mkdir()
        all_series: list[dict[str, Any]] = [
            json.loads(self.get(f"series/{each}")) for each in json.loads(self.get("series"))
        ]
        (found,) = [each for each in all_series if each["MainDicomTags"]["Modality"] == modality]
        for instance in found["Instances"]:
            (folder / f"{instance}.dcm").write_bytes(self.get(f"instances/{instance}/file"))
        return folder


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path)
    with open(tmp_path / "orthanc.log", "w") as log:
        process = subprocess.Popen(["/usr/sbin/Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
        try:
            for _ in range(WAIT * 5):
                try:
                    made.get("system")
                    break
                except OSError:
                    assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                    time.sleep(0.2)
            yield made
        finally:
            process.terminate()
            process.wait(30)


def test_a_segmentation_comes_back_from_the_archive_in_the_study_of_its_series(
    archive: Archive, tmp_path: Path
) -> None:
    bundle = write_small_bundle_with_weights(tmp_path)
    voxels = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)
    made = series(tmp_path / "made", voxels, **PATIENT)
    archive.store(*made.iterdir())
    segment_series(bundle, archive.fetch("MR", tmp_path / "fetched"), tmp_path / "seg.dcm", device="cpu")
    archive.store(tmp_path / "seg.dcm")

    assert len(json.loads(archive.get("patients"))) == len(json.loads(archive.get("studies"))) == 1
    (returned,) = archive.fetch("SEG", tmp_path / "returned").iterdir()
    expected = voxels_in(tmp_path / "seg.dcm", SHAPE, lps_affine("oblique"))
    np.testing.assert_array_equal(voxels_in(returned, SHAPE, lps_affine("oblique")), expected)
    assert expected.any()
    referenced = pydicom.dcmread(returned).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    sent = {pydicom.dcmread(file).SOPInstanceUID for file in made.iterdir()}
    assert {each.ReferencedSOPInstanceUID for each in referenced} == sent
