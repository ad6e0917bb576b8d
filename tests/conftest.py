"""For all tests."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

# Under the tracer of coverage torch's compilers take half as long again; what they trace is tested eagerly too.
UNTRACED = re.compile("compil|export|trace|script|onnx")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests of compilers and exports out of the coverage."""
    for item in items:
        if UNTRACED.search(item.name):
            item.add_marker("no_cover")


@pytest.fixture(scope="module", autouse=True)
def same_import_path() -> Iterator[None]:
    """A bundle that runs in this process puts its root on the path, a packed one's with a copy of the package."""
    before = sys.path.copy()
    yield
    sys.path[:] = before
