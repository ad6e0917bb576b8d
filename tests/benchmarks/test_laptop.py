"""The data and the table of the trainings of ten minutes."""

import laptop
import numpy as np

from medmixers.results.tables import laptop_table


def test_shapes_have_every_class_and_the_same_seed_gives_the_same_case():
    (shapes,) = laptop.data_sets(None)
    image, label, affine = shapes.case(np.random.default_rng([shapes.number, 0]))
    again, *_ = shapes.case(np.random.default_rng([shapes.number, 0]))
    np.testing.assert_array_equal(image, again)
    assert set(np.unique(label)) == set(range(len(shapes.classes) + 1))
    np.testing.assert_array_equal(affine.diagonal(), [1.5, 1.5, 2, 1])
    inside, outside = image[label == 1].mean(), image[:6, :6, :6].mean()  # the brightest large class; a corner
    assert inside > outside + 1


def test_the_table_states_the_share_of_nnunets_time():
    row = {
        "data": "Made", "trainer": "nnUNetTrainerX_10minutes", "patch": [48, 48, 56], "iterations": 700,
        "seconds_per_iteration": 0.5, "stock_seconds_per_iteration": 2.0, "step_bytes": 2**29, "peak_bytes": 3 * 2**29,
        "dice": {"a": 0.9, "b": 0.7},
    }  # fmt: skip
    *_, first, second = laptop_table([row, {**row, "peak_bytes": None}]).splitlines()
    start = "| Made | `nnUNetTrainerX_10minutes` | 0.800 | a 0.90, b 0.70 | 700 | 0.50 | 2.00: 0.25 of it | 0.50 GiB"
    assert first == f"{start} | 1.50 GiB |"
    assert second == f"{start} | - |"
