"""The faults keep the brain, are of the size that they say, and rows count images."""

import numpy as np
import pytest
import record_flag as script

from medmixers.clinic.uncertainty.training_images import ImageFacts, summarise
from medmixers.results.tables import flag_table


@pytest.fixture
def image():
    smooth = script.smooth_field((24, 32, 20), np.full(3, 3), np.random.default_rng(0))
    return np.pad(500 + 100 * smooth, 4)


@pytest.mark.parametrize("fault", script.FAULTS)
def test_faults_change_the_brain(fault, image):
    changed = script.FAULTS[fault](image, np.random.default_rng(1))
    inside = image > 0
    assert changed.shape == image.shape
    assert np.isfinite(changed).all()
    difference = (changed - image)[inside] / script.brightest(image)
    assert 0.01 < difference.std() < 0.5
    for name, expected in (("Rician noise of 6 %", 0.06), ("Rician noise of 10 %", 0.1)):
        if fault == name:
            assert difference.std() == pytest.approx(expected, rel=0.05)
    if fault.startswith("Poisson"):
        count = float(fault.split()[-2])
        bright = np.full((20, 20, 20), 500.0)
        noisy = script.FAULTS[fault](bright, np.random.default_rng(1))
        assert (noisy / 500).std() == pytest.approx(count**-0.5, rel=0.05)


def test_ghosting_moves_a_part_half_the_image_away():
    point = np.zeros((3, 16, 3))
    point[1, 4, 1] = 1
    ghost = script.ghosting(point, np.random.default_rng(0))
    assert ghost[1, 4, 1] == pytest.approx(0.85)
    assert ghost[1, 12, 1] == pytest.approx(0.15)


def test_rows_count_what_was_said(image):
    rng = np.random.default_rng(0)

    def facts(spacing=2.0, noise=0.05):
        values = np.linspace(-1, 1, 7) + rng.normal(scale=0.02, size=7)
        return ImageFacts(np.full(3, spacing), np.append(values, noise + rng.normal(scale=0.001))[None], None)

    known = summarise([facts() for _ in range(9)], None)
    found = [("none", facts()), ("noise", facts(noise=0.5)), ("noise", facts()), ("coarse", facts(spacing=4))]
    rows = script.rows_of("MNI152", known, found)
    assert [(row["images"], row["count"], row["flagged"]) for row in rows] == [
        ("none", 1, 0), ("noise", 2, 1), ("coarse", 1, 1),
    ]  # fmt: skip
    assert [row["noise"] for row in rows] == [0, 1, 0]
    assert [row["spacing"] for row in rows] == [0, 0, 1]
    run = {"date": "d", "commit": "c" * 40, "processor": "p", "cores": 1, "device": "cpu", "versions": {}}
    table = flag_table({**run, "figures": {"training_images": 9, "rows": rows}})
    assert "| MNI152 | noise | **1 of 2** | 0 | 1 | 1 |" in table
