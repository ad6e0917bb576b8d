"""For all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def same_import_path() -> Iterator[None]:
    """A bundle that runs in this process puts its root on the path, a packed one's with a copy of the package."""
    before = sys.path.copy()
    yield
    sys.path[:] = before
