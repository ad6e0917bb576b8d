"""For all tests."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import own_process
import preloaded
from clients import ClientRecords, checkout_folder, client_python

UNTRACED = re.compile("compil|export|trace|script|onnx")  # with the tracer torch's compilers take half as long again

# The files that take longest run first; else one process would wait while the other is still in one of them.
LONGEST = (
    "test_every_network", "test_nnunet_end_to_end", "test_nnunet_share", "test_pack", "test_nnunet_planner",
    "test_contract", "test_bundle_run", "test_depthwise_triton", "test_study_slurm", "test_report",
    "test_study_engine", "test_verify", "test_openvino_inference", "test_two_packed", "test_uncertainty",
    "test_converters", "test_kinds_run", "test_families",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for the tests of other software: see clients.py."""
    group = parser.getgroup("clients of medmixers")
    words = "with -m client: write what the clients did to plugin/medmixers/results/clients.json"
    group.addoption("--record-clients", action="store_true", help=words)
    words = "folder that holds the checkouts and environments of clients; plugin/docs/develop.md lists them"
    group.addoption("--client-checkouts", metavar="FOLDER", help=words)


def pytest_configure(config: pytest.Config) -> None:
    """Protect this process, and let SIGINT through.

    A shell starts background commands with SIGINT ignored, which the processes of the tests would inherit.
    """
    config.pluginmanager.register(ClientRecords(config))
    own_process.protect()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failing test at once: a run that is stopped prints no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}", file=sys.__stderr__, flush=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave compilers and exports out of the coverage. Slow tests may take an hour. The longest files run first."""
    rank = {name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))
        if UNTRACED.search(item.name):
            item.add_marker("no_cover")


@pytest.fixture
def preload(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test starts by ``sys.executable`` is preloaded."""
    monkeypatch.setattr(sys, "executable", preloaded.python())


@pytest.fixture(scope="module", autouse=True)
def same_import_path() -> Iterator[None]:
    """A bundle that runs in this process puts its root on the path, a packed one's with a copy of the package."""
    before = sys.path.copy()
    yield
    sys.path[:] = before


@pytest.fixture
def checkout_of(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """The git checkout of a client; without one, the test is skipped."""

    def find(name: str) -> Path:
        folder = checkout_folder(pytestconfig, name)
        if folder is None:
            pytest.skip(f"no checkout of {name}: give its parent folder by --client-checkouts")
        return folder

    return find


@pytest.fixture
def python_of(pytestconfig: pytest.Config) -> Callable[[str, str], Path]:
    """The Python that has a client; without one, the test is skipped."""

    def find(name: str, distribution: str) -> Path:
        python = client_python(pytestconfig, name, distribution)
        if python is None:
            pytest.skip(f"no {distribution}: install it in FOLDER/{name}/.venv and give FOLDER by --client-checkouts")
        return python

    return find
