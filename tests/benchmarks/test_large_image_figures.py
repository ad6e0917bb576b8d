"""Large images: what stands in place of a bundle's parts is MONAI's own, and the table shows what was measured."""

from __future__ import annotations

import json

import large_images as script
import pytest

from medmixers.results.tables import large_images_table


def test_monais_parts_are_monais() -> None:
    text = json.dumps({**script.monais_parts(), "image_reader": None})
    ours = {part.split('"')[0] for part in text.split("medmixers.bundle_runtime.")[1:]}
    assert ours == {"cases.case_name", "saving.label_writer"}, "reading and writing are the same"
    config = json.loads((script.BUNDLE / "configs" / "inference.json").read_text())
    assert [script.monais_parts()["preprocessing"]["transforms"][at] for at in (0, -1)] == [
        config["preprocessing"]["transforms"][at] for at in (0, -1)
    ]


@pytest.mark.parametrize("with_monai", [True, False])
def test_the_table(with_monai: bool) -> None:
    ways = ["ours", "MONAI"] if with_monai else ["ours"]
    row = {
        "image": "8 x 8 x 8, 1 x 1 x 1 mm",
        "classes": 3,
        "seconds": dict.fromkeys(ways, 12.4),
        "peak_bytes": dict.fromkeys(ways, 3 * 2**29),
        "labels": 3,
        "differ": 0 if with_monai else None,
    }
    peer = "1.50 GiB | 12 s | 0" if with_monai else "- | - | -"
    assert large_images_table([row]).splitlines()[-1] == f"| {row['image']} | 3 | 1.50 GiB | 12 s | {peer} |"
