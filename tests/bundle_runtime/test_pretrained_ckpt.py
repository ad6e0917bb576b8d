"""``pretrained_ckpt`` of a network with other channels or classes: refused, or adapted when asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from medmixers import create_network
from medmixers.bundle_runtime.handlers import StartWeights
from medmixers.bundle_runtime.preflight_weights import check_start_weights

OPTIONS = {"mixer": "pooling", "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}


def network_of(channels: int, classes: int) -> torch.nn.Module:
    return create_network(
        "metaformer_segformer_s12", spatial_dims=3, in_channels=channels, out_channels=classes, **OPTIONS
    )


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """Weights of a network of one channel and five classes."""
    torch.manual_seed(0)
    torch.save(network_of(1, 5).state_dict(), tmp_path / "five.pt")
    return str(tmp_path / "five.pt")


def test_other_classes_and_channels(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"another network.*--pretrained_adapt True takes those of other channels or"):
        check_start_weights(saved, network_of(2, 3), adapt=False)
    network = network_of(2, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_start_weights(saved, network, adapt=True)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items()), "only a check"
    trainer = Engine(lambda _engine, _batch: None)
    StartWeights(path=saved, network=network, device="cpu", adapt=True).attach(trainer)
    trainer.run([0])
    said = capsys.readouterr().out
    assert "skipped, head of another task: 2, decoder.seg_layers.0" in said
    loaded, theirs = network.state_dict(), torch.load(saved, weights_only=True)
    other = {name for name in theirs if theirs[name].shape != loaded[name].shape}
    assert other == {"encoder.stem.conv.weight", "decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}
    assert all(torch.equal(theirs[name], loaded[name]) for name in theirs.keys() - other)
    assert all(torch.equal(before[name], loaded[name]) for name in other if name.startswith("decoder."))
    stem = loaded["encoder.stem.conv.weight"]
    torch.testing.assert_close(stem.sum(1), theirs["encoder.stem.conv.weight"].sum(1))  # equal channels: the same


def test_what_does_not_fit_is_refused_all_the_same(saved: str, tmp_path: Path) -> None:
    other = create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=5, channels=(8, 8, 8, 8))
    with pytest.raises(ValueError, match="keys do not fit, the first: "):
        check_start_weights(saved, other, adapt=True)
    broken = torch.load(saved, weights_only=True)
    broken["decoder.norm.weight"][0] = torch.nan
    torch.save(broken, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"holds NaN or infinity in 1 tensors, .decoder\.norm\.weight."):
        check_start_weights(str(tmp_path / "nan.pt"), network_of(1, 3), adapt=True)
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*gone\.pt'$"):
        check_start_weights(str(tmp_path / "gone.pt"), network_of(1, 3), adapt=False)
