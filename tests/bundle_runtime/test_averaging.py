"""Averages over mirrored copies and over models: the mean that a loop over explicit flips and files gives."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import Inferer, SimpleInferer, SliceInferer, SlidingWindowInferer, sliding_window_inference
from scipy.special import expit, softmax
from torch import Tensor, nn

from medmixers.bundle_runtime.averaging import AveragedPredictions, AveragingInferer, mean_as_logits
from medmixers.bundle_runtime.options import ensemble_files
from medmixers.errors import InputError


def segmenter(dims: int) -> nn.Module:
    torch.manual_seed(dims)
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    return nn.Sequential(conv(1, 4, 3, padding=1), nn.Tanh(), conv(4, 2, 2, padding="same"))


def classifier(dims: int) -> nn.Module:
    return nn.Sequential(segmenter(dims), nn.Flatten(), nn.Linear(2 * 6**dims, 3))


def over_explicit_flips(network: nn.Module, x: Tensor, axes: list[int]) -> Tensor:
    """One flip at a time, and back in the other order."""
    results = []
    for chosen in product([False, True], repeat=len(axes)):
        used = [axis for axis, is_used in zip(axes, chosen, strict=True) if is_used]
        image = x.numpy()
        for axis in used:
            image = np.flip(image, axis + 2)
        logits = network(torch.from_numpy(image.copy())).numpy()
        for axis in reversed(used if logits.ndim == x.ndim else []):
            logits = np.flip(logits, axis + 2)
        results.append(logits.copy())
    return torch.from_numpy(np.mean(results, axis=0))


@pytest.mark.parametrize("make", [segmenter, classifier])
@pytest.mark.parametrize(("dims", "axes"), [(2, [0]), (2, [0, 1]), (3, [2]), (3, [0, 1, 2])])
@torch.no_grad()
def test_mirroring_is_the_mean_over_explicit_flips(make: Any, dims: int, axes: list[int]) -> None:
    network, x = make(dims), torch.rand(2, 1, *[6] * dims)
    inferer = AveragingInferer(SimpleInferer(), mirror_axes=axes, models=[], sigmoid=False)
    expected = over_explicit_flips(network, x, axes)
    torch.testing.assert_close(inferer(x, network), expected)
    assert (expected - network(x)).abs().max() > 1e-3, "a symmetric network would prove nothing"


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_windows_and_slices_are_mirrored_one_by_one(dims: int) -> None:
    """A 3D network in windows of a volume, a 2D network in windows of its slices."""
    x, options = torch.rand(1, 1, 10, 9, 8), {"sw_batch_size": 2, "overlap": 0.25, "mode": "gaussian"}
    network, axes, size = segmenter(dims), list(range(dims)), [6] * dims
    windows = SlidingWindowInferer(size, **options) if dims == 3 else SliceInferer(roi_size=size, **options)
    found = AveragingInferer(windows, mirror_axes=axes, models=[], sigmoid=False)(x, network)
    volumes = x if dims == 3 else x[0].permute(1, 0, 2, 3)  # slices as a batch
    expected = sliding_window_inference(
        volumes, size, predictor=lambda window: over_explicit_flips(network, window, axes), **options
    )
    torch.testing.assert_close(found, expected if dims == 3 else expected.permute(1, 0, 2, 3)[None])


@pytest.mark.parametrize("sigmoid", [False, True])
def test_models_are_averaged_by_their_probabilities(sigmoid: bool) -> None:
    torch.manual_seed(0)
    logits = [torch.randn(2, 3, 5, 4) * scale for scale in (1, 5, 60)]  # up to probabilities of 0 and 1
    to_probabilities = expit if sigmoid else (lambda each: softmax(each, axis=1))
    expected = np.mean([to_probabilities(each.double().numpy()) for each in logits], axis=0)
    found = mean_as_logits(iter(logits), 3, sigmoid=sigmoid)
    activated = torch.sigmoid(found) if sigmoid else torch.softmax(found, 1)
    np.testing.assert_allclose(activated.numpy(), expected, atol=1e-6)


class Evaluator:
    """What the handler sees of an engine."""

    def __init__(self, network: nn.Module, inferer: Inferer) -> None:
        self.network, self.inferer = network, inferer


def test_an_ensemble_replaces_the_weights_of_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [segmenter(2) for _ in range(2)]
    for index, member in enumerate(members):
        nn.init.normal_(member[0].weight)
        torch.save(member.state_dict(), tmp_path / f"{index}.pt")
    engine: Any = Evaluator(segmenter(2), SimpleInferer())
    options = {"spatial_dims": 2, "sigmoid": False, "use_mirroring": True, "mirror_axes": [1]}
    handler = AveragedPredictions(ensemble=f"{tmp_path / '0.pt'}, {tmp_path / '1.pt'}", **options)
    handler.start(engine)
    handler.start(engine)  # a second run of the engine
    x = torch.rand(1, 1, 6, 6)
    with torch.no_grad():
        found = torch.softmax(engine.inferer(x, engine.network), 1)
        each = [torch.softmax(over_explicit_flips(member, x, [1]), 1) for member in members]
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)
    assert capsys.readouterr().out == (
        "medmixers: note: each prediction is a mean over 2 mirrored copies (axes [1]) and 2 models\n"
    )


@pytest.mark.parametrize("axes", [[], [2], [-1], [0, 0]])
def test_axes_that_the_network_lacks_are_refused(axes: list[int]) -> None:
    with pytest.raises(InputError, match=r"^--mirror_axes must list different axes from 0 to 1, for"):
        AveragedPredictions(spatial_dims=2, sigmoid=False, use_mirroring=True, mirror_axes=axes)


@pytest.mark.parametrize(
    ("value", "files"),
    [
        ([], []),
        ("", []),
        ("a.pt", ["a.pt"]),
        ("a.pt, b/c.pt", ["a.pt", "b/c.pt"]),
        (("a.pt", "b.pt"), ["a.pt", "b.pt"]),
    ],
)
def test_an_ensemble_is_a_list_or_text_with_commas(value: Any, files: list[str]) -> None:
    assert ensemble_files(value) == files


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a.pt,", "must be files of weights"),
        ([1, 2], "must be files of weights"),
        (True, "must be files of weights"),
        ({"a": 1}, "must be files of weights"),
        ("a.pt,./a.pt", "names './a.pt' twice"),
    ],
)
def test_an_ensemble_of_another_form_is_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^--ensemble {message}"):
        ensemble_files(value)
