import sys
from pathlib import Path

import pytest

from medmixers.bundle_runtime import stack

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "bundles"), str(HERE.parent / "datasets")]  # bundle_helpers, tiny_datasets


@pytest.fixture(autouse=True)
def as_monais_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Input errors end this process in one line, as they end ``python -m monai.bundle``."""
    monkeypatch.setattr(stack, "is_monais_command", lambda: True)
