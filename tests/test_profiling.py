import csv
import io
import math
import os

import pytest
import torch
from samples import families, small_options
from torch import nn

from medmixers import profiling
from medmixers.profiling import count_gmacs, in_fresh_process, profile_network, profile_to_csv


def test_multiply_adds_of_known_layers():
    conv = nn.Conv2d(8, 16, 3, padding=1)
    assert count_gmacs(conv, torch.zeros(1, 8, 10, 12)) == pytest.approx(8 * 16 * 9 * 120 / 1e9)
    linear = nn.Linear(32, 64)
    assert count_gmacs(linear, torch.zeros(5, 32)) == pytest.approx(5 * 32 * 64 / 1e9)


def test_multiply_adds_of_fourier_transforms():
    """There and back, 3 channels of 10 x 12 real numbers, at 2.5 N log2(N) operations each."""

    class Transforms(nn.Module):
        def forward(self, x):
            return torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3)), s=x.shape[2:], dim=(2, 3))

    expected = 2 * 3 * 2.5 * 120 * math.log2(120) / 2 / 1e9
    for device in ("cpu", "meta"):
        assert count_gmacs(Transforms(), torch.zeros(1, 3, 10, 12, device=device)) == pytest.approx(expected, rel=1e-3)


def test_profile_of_poolformer():
    # Convolutions and matrix products alone; the paper prints 1.9, see results/published.json.
    profile = profile_network("poolformer_s12", size=(224, 224), in_channels=3, out_channels=1000, repeats=1)
    assert profile.gmacs == pytest.approx(1.81, abs=0.005)
    assert profile.parameters == 11_915_176


@pytest.mark.parametrize("name", [names[0] for names in families().values()])
def test_every_family_is_profiled(name):
    profile = profile_network(name, size=(32, 40), repeats=1, **small_options(name))
    assert profile.gmacs > 0
    assert profile.parameters > 0


def test_sizes_of_no_image_raise():
    with pytest.raises(ValueError, match="size must be 2 or 3 extents, got 64"):
        profile_network("token_unet", size=(64,))
    with pytest.raises(ValueError, match=r"at least 1 voxel along each axis, got \(64, 0\)"):
        profile_network("token_unet", size=(64, 0))


def test_csv_of_networks_goes_on_after_one_that_fails(tmp_path):
    file = tmp_path / "costs.csv"
    names = ["metaformer_pppa_s12", "med_unext", "identityformer_s12"]
    text = profile_to_csv(names, sizes=[(32, 32)], repeats=2, file=file, kernel_size=3, mixer="pooling")
    assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["costs.csv"]
    embedded, refused, plain = csv.DictReader(io.StringIO(text))
    assert embedded["error"].startswith("token mixer pooling has no option head_dim")
    assert refused["error"].startswith("network 'med_unext' has no option")
    assert refused["parameters"] == ""
    expected = profile_network("identityformer_s12", size=(32, 32), repeats=1, kernel_size=3, mixer="pooling")
    assert plain["error"] == ""
    assert int(plain["parameters"]) == expected.parameters
    assert float(plain["gmacs"]) == pytest.approx(expected.gmacs, abs=1e-4)
    assert 0 < float(plain["fastest"]) <= float(plain["milliseconds"]) <= float(plain["slowest"])
    assert 0 <= float(plain["peak_mib"]) < 200  # above what importing torch had held


def test_a_process_that_the_system_ends_is_an_error_of_its_row(monkeypatch):
    monkeypatch.setattr(profiling, "_profile_with_threads", abort)
    text = profile_to_csv(["identityformer_s12"], sizes=[(32, 32)])
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["error"] == "the system ended the process, as it does when memory runs out"


def abort(*arguments):
    os._exit(9)


def test_a_fresh_process_has_the_environment_of_now(monkeypatch):
    for value in ("first", "second"):
        monkeypatch.setenv("MEDMIXERS_TEST", value)
        assert in_fresh_process(os.getenv, "MEDMIXERS_TEST") == value


def test_csv_of_an_unknown_network_measures_nothing():
    with pytest.raises(ValueError, match="unknown network 'fly'; valid: caformer"):
        profile_to_csv(["identityformer_s12", "fly"], sizes=[(32, 32)])
