"""Large images: what stands in place of a bundle's parts is MONAI's own, and the table shows what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import large_images as script
import pytest

from medmixers.results.tables import LARGE_IMAGE_WAYS, large_images_table


def test_monais_parts_are_monais() -> None:
    text = json.dumps({**script.monais_parts(), "image_reader": None})
    ours = {part.split('"')[0] for part in text.split("medmixers.bundle_runtime.")[1:]}
    assert ours == {"cases.case_name", "saving.label_writer"}, "reading and writing are the same"
    config = json.loads((script.BUNDLE / "configs" / "inference.json").read_text())
    assert [script.monais_parts()["preprocessing"]["transforms"][at] for at in (0, -1)] == [
        config["preprocessing"]["transforms"][at] for at in (0, -1)
    ]


@pytest.mark.parametrize("with_monai", [True, False])
@pytest.mark.parametrize("returned", [True, False])
def test_the_table(with_monai: bool, returned: bool) -> None:
    ours, same_returned, monai = LARGE_IMAGE_WAYS
    ways = [ours, *([same_returned] if returned else []), *([monai] if with_monai else [])]
    row = {
        "image": "8 x 8 x 8, 1 x 1 x 1 mm",
        "classes": 3,
        "seconds": dict.fromkeys(ways, 12.4),
        "peak_bytes": dict.fromkeys(ways, 3 * 2**29),
        "labels": 3,
        "differ": 0 if with_monai else None,
    }
    measured, not_measured = "1.50 GiB | 12 s", "- | -"
    same = measured if returned else not_measured
    peer = f"{measured} | 0" if with_monai else f"{not_measured} | -"
    assert large_images_table([row]).splitlines()[-1] == f"| {row['image']} | 3 | {measured} | {same} | {peer} |"


def test_freed_memory_goes_back_in_one_way_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")  # of the shell: it must not change what is measured
    monkeypatch.setattr(script, "run_python", lambda command, environment: environment.get("MALLOC_MMAP_MAX_"))
    case = script.CASES[0]
    found = {way: script.predicted(tmp_path, way, {}, case) for way in LARGE_IMAGE_WAYS}
    assert found == {"ours": None, "memory returned": "65536", "MONAI": None}
