import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import pytest

from medmixers.clinic import prediction

HERE = Path(__file__).parent
# clinic_series, dicom_files, small_bundle, trained_models
sys.path[:0] = [str(HERE), *(str(HERE.parent / room) for room in ("images", "bundles", "datasets", "nnunet"))]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle's inference in this process, which saves the seconds of the imports."""

    def run(bundle: Path, options: dict[str, Any], folder: Path, names: Sequence[str]) -> None:
        config = [*(bundle / "configs" / f"{name}.json" for name in names), folder / "options.json"]
        config[-1].write_text(json.dumps(options))
        monai.bundle.run(config_file=[str(file) for file in config], bundle_root=str(bundle))

    monkeypatch.setattr(prediction, "run_inference", run)
