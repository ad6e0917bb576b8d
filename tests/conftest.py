"""For all tests."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

import pytest

# The tracer of coverage costs 15 to 22 % of the processor time (Python 3.11). By default only these rooms pay for it.
COVERED = {"datasets", "kernels", "layers", "mixers", "networks", "results", "tasks"}
UNTRACED = re.compile("compil|export|trace|script|onnx")  # with the tracer torch's compilers take half as long again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests out of the coverage: other rooms, unless COVER is "all", and compilers and exports."""
    everything = os.environ.get("COVER") == "all"
    for item in items:
        if UNTRACED.search(item.name) or not (everything or item.path.parent.name in COVERED):
            item.add_marker("no_cover")


@pytest.fixture(scope="module", autouse=True)
def same_import_path() -> Iterator[None]:
    """A bundle that runs in this process puts its root on the path, a packed one's with a copy of the package."""
    before = sys.path.copy()
    yield
    sys.path[:] = before
