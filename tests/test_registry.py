"""Types of options, read from annotations; names in error messages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from medmixers import create_network
from medmixers.errors import InputError
from medmixers.registry import check_options, check_types, locate, type_name, valid_names
from medmixers.variants import NETWORKS

FITTING = [
    (int, [1, np.int64(2)], [True, 1.0, "1", None, (1,)]),
    (float, [1, 1.5, np.float32(1)], [True, "1.5", None]),
    (bool, [True, False], [1, "True", None]),
    (str, ["a"], [1, True, None, ("a",)]),
    (int | None, [1, None], ["None", 1.5]),
    (Sequence[int], [(1, 2), [1], ()], [1, "12", (1.0,), (1, "2"), None]),
    (int | Sequence[int | Sequence[int]], [2, (2, (1, 2))], ["2", (2, (1, 2.5))]),
    (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3), 1]),
    (Mapping[str, Any] | None, [{"a": 1}, None], [1, "a", True]),
]


@pytest.mark.parametrize(("annotation", "good", "bad"), FITTING, ids=lambda value: "")
def test_values_fit_their_annotation(annotation, good, bad):
    def target(*, option) -> None: ...

    target.__annotations__["option"] = annotation
    for value in good:
        check_types("thing", {"option": value}, target)
    for value in bad:
        with pytest.raises(InputError, match=r"^thing: option must be .*, got "):
            check_types("thing", {"option": value}, target)


def test_types_in_words():
    assert type_name(int | None) == "an integer or None"
    assert type_name(str | Sequence[str]) == "text or a sequence of texts"
    assert type_name(Sequence[float | None]) == "a sequence of numbers"
    assert type_name(bool) == "True or False"


@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_names_fix_fits_the_annotations(name):
    row = NETWORKS[name]
    for path in filter(None, (row.target, row.encoder)):
        check_types(name, row.arguments, locate(path))


def test_a_wrong_type_is_named_at_construction():
    with pytest.raises(InputError, match=r"^network 'token_unet': channels must be a sequence of integers, got 32$"):
        create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=2, channels=32)


def test_long_lists_are_shortened():
    names = [f"option_{index}" for index in range(79)]
    assert valid_names("option_12x", names, listing="list") == "option_12, option_2, option_1, ...; 'list' lists all 79"
    with pytest.raises(
        InputError, match=r"no option 'x'; valid: option_0, option_1, option_10, \.\.\.; 'list' lists all 79"
    ):
        check_options("thing", ["x"], names, listing="list")
