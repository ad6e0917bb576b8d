"""Other software that tests run on our bundles and files, and the record of what it did.

A test names its client, ``@pytest.mark.client("Orthanc")``. ``pytest -m client --record-clients`` runs all of them and
writes a row per client: passed, what it does not support (xfail), or why it was not run (skip).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import NamedTuple

import pytest

from house import ROOT
from medmixers.results.clients import record_clients

Found = Callable[[pytest.Config], str | None]


class Client(NamedTuple):
    """How to find the version of a client, and what the tests have it do."""

    version: Found
    ran: str


def package(*names: str) -> Found:
    """Versions of installed Python packages; the names of all but the first are said."""

    def find(config: pytest.Config) -> str | None:
        try:
            first, *others = [version(name) for name in names]
        except PackageNotFoundError:
            return None
        return ", ".join([first, *(f"{name} {number}" for name, number in zip(names[1:], others, strict=True))])

    return find


def environment(name: str, *packages: str) -> Found:
    """Versions of packages in the environment that :func:`client_python` finds."""

    def find(config: pytest.Config) -> str | None:
        python = client_python(config, name, packages[0])
        script = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        said = python and _said(str(python), "-c", script, *packages)
        if not said:
            return None
        first, *others = said.split()
        return ", ".join([first, *(f"{name} {number}" for name, number in zip(packages[1:], others, strict=True))])

    return find


def debian(name: str) -> Found:
    """Version of a package of Debian."""

    def find(config: pytest.Config) -> str | None:
        if shutil.which("dpkg-query") is None:
            return None
        return _said("dpkg-query", "-W", "-f", "${Version}", name)

    return find


def checkout(name: str) -> Found:
    """Commit and date of a git checkout below ``--client-checkouts``."""

    def find(config: pytest.Config) -> str | None:
        folder = checkout_folder(config, name)
        return folder and _said("git", "-C", str(folder), "log", "-1", "--format=commit %h of %as")

    return find


def _said(*command: str) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def checkout_folder(config: pytest.Config, name: str) -> Path | None:
    """A checkout, or None where there is none."""
    parent = config.getoption("--client-checkouts")
    return Path(parent, name).resolve() if parent and Path(parent, name).is_dir() else None


def client_python(config: pytest.Config, name: str, distribution: str) -> Path | None:
    """The Python that has a client: of FOLDER/``name``/.venv, else this one; None where neither has it."""
    folder = checkout_folder(config, name)
    python = folder and folder / ".venv" / "bin" / "python"
    if python is not None and python.is_file():
        return python  # a link: resolved, it would be another environment's
    return Path(sys.executable) if any(distributions(name=distribution)) else None


CLIENTS = {
    "dcmqi": Client(package("dcmqi"), "`segimage2itkimage` reads our DICOM SEG: every voxel, the codes, the colours"),
    "dicom3tools": Client(
        debian("dicom3tools"), "`dciodvfy` checks our DICOM SEG and Secondary Capture, and finds no error"
    ),
    "highdicom": Client(package("highdicom"), "`segread` reads our DICOM SEG: every voxel, on the grid of the series"),
    "Orthanc": Client(
        debian("orthanc"),
        "`storescu` of DCMTK sends a series and its DICOM SEG; the archive gives both back, in one study",
    ),
    "Chromium": Client(
        debian("chromium"),
        "opens the page of `clinic report`, with pictures and with a viewer, and runs no other script",
    ),
    "nnU-Net": Client(
        package("nnunetv2"),
        "`nnUNetv2_predict_from_modelfolder` and `clinic segment` label one series: the same voxels",
    ),
    "torchrun": Client(package("torch"), "two ranks train a classification by `configs/multi_gpu_train.json`"),
    "monai.bundle": Client(
        package("monai"),
        "a zip without this package: `run` trains, evaluates and predicts; `verify_net_in_out`, `verify_metadata`, "
        "`ckpt_export`, `onnx_export`",
    ),
    "MONAI model zoo, CI": Client(
        checkout("model-zoo"),
        "`ci/verify_bundle.py -m full`: files, version, properties, shapes, TorchScript; not the schema",
    ),
    "MONAI Deploy App SDK": Client(
        environment("monai-deploy-app-sdk", "monai-deploy-app-sdk", "holoscan-cu13", "holoscan-cli"),
        "the application of `bundle app` writes the voxels of `clinic segment`; `monai-deploy package` hands Docker's "
        "build the whole application; the image itself is not built",
    ),
    "MONAI Label": Client(
        checkout("MONAILabel"),
        "its server, over HTTP: /info; /infer, the bundle's own labels and probabilities; /train, of an untrained and "
        "of a trained bundle",
    ),
    "3D Slicer, MONAIViz": Client(
        checkout("SlicerMONAIViz"), "its parser lists the transforms of every bundle that trains"
    ),
}  # fmt: skip


class ClientRecords:
    """Plugin of pytest: checks the names of clients, gathers what their tests did, and records it on request."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.outcomes: dict[str, list[tuple[str, str]]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("client"):
                (name,) = mark.args
                if name not in CLIENTS:
                    raise pytest.UsageError(f"{item.nodeid}: unknown client {name!r}; valid: {', '.join(CLIENTS)}")
                item.user_properties.append(("client", name))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            for name in (value for key, value in report.user_properties if key == "client"):
                self.outcomes.setdefault(str(name), []).append(outcome_of(report))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, outcomes in sorted(self.outcomes.items()):
            terminalreporter.write_line(f"client {name}: {said_of(outcomes)}")
        if not self.config.getoption("--record-clients") or hasattr(self.config, "workerinput"):
            return
        rows = {
            name: {"version": client.version(self.config), "ran": client.ran, "result": said_of(self.outcomes[name])}
            for name, client in CLIENTS.items()
            if name in self.outcomes
        }
        record_clients(rows, checkout=ROOT)
        terminalreporter.write_line(f"recorded: {', '.join(rows)}")


def outcome_of(report: pytest.TestReport) -> tuple[str, str]:
    """Kind and reason: passed, not supported, not run, failed."""
    reason = getattr(report, "wasxfail", "")
    if reason and report.skipped:
        return "not supported", reason.removeprefix("reason: ")
    if report.skipped:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return "not run", text.removeprefix("Skipped: ")
    if report.passed:
        return "passed", ""
    return "failed", (report.longreprtext.strip().splitlines() or ["no message"])[-1]


def said_of(outcomes: Iterable[tuple[str, str]]) -> str:
    """The result of all tests of a client."""
    by_kind: dict[str, list[str]] = {}
    for kind, reason in outcomes:
        by_kind.setdefault(kind, []).append(reason)
    parts = []
    for kind in ("failed", "passed", "not supported", "not run"):
        reasons = by_kind.get(kind, [])
        if kind == "passed" and reasons:
            parts.append(f"passed, {len(reasons)} test{'s' if len(reasons) > 1 else ''}")
        elif reasons:
            parts.append(f"{kind}: {'; '.join(dict.fromkeys(reasons))}")
    return "; ".join(parts)
