"""Fine-tuning: published weights by name, and frozen parts."""

import pytest
import timm
import torch

from medmixers import create_network
from medmixers.variants import NETWORKS

TINY = {"depths": (1, 1, 2, 1), "dims": (16, 16, 32, 32)}
ONE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}


def test_pretrained_true_loads_what_timm_publishes(monkeypatch):
    asked = []

    def create(name, pretrained):
        asked.append(name)
        return create_network("poolformer_s12", spatial_dims=2, in_channels=3, out_channels=1000)

    monkeypatch.setattr(timm, "create_model", create)
    create_network("poolformer_s12", **ONE, pretrained=True)
    assert asked == ["poolformer_s12"]
    create_network("poolformer_s12", **ONE, **TINY, pretrained=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metaformer_ppaa_s12", r"are a file, sail-sg/poolformer: metaformer_ppaa_s12_224\.pth\.tar: download it"),
        ("metaformer_s12", r"timm has no weights of 'metaformer_s12'; no weights are published: give a file's path"),
    ],
)
def test_pretrained_true_says_where_other_weights_are(name, message):
    options = {"input_size": (32, 32)} if "ppaa" in name else {}
    with pytest.raises(ValueError, match=message):
        create_network(name, **ONE, **options, pretrained=True)


def test_timm_knows_every_name_of_the_table():
    names = [row.weights.removeprefix("timm:") for row in NETWORKS.values() if row.weights.startswith("timm:")]
    assert len(names) == 19
    assert all(timm.is_model_pretrained(name) for name in names)


def trained(network, size=(32, 32)):
    """Names of the parameters that one step of the optimizer changes."""
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    network(torch.randn(2, 1, *size)).square().sum().backward()
    optimizer.step()
    return {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("frozen", "kept"),
    [
        (("encoder",), ("encoder.",)),
        (("encoder.stem", "decoder.fuse"), ("encoder.stem.", "decoder.fuse.")),
        (2, ("encoder.stem.", "encoder.stages.0.", "encoder.stages.1.")),
        (0, ()),
    ],
)
def test_frozen_parts_stay(frozen, kept):
    options = {**ONE, **TINY, "mixer": "conv", "drop_path_rate": 0.0}  # a dropped branch has no gradient
    network = create_network("metaformer_segformer_s12", **options, frozen=frozen)
    names = {name for name, _ in network.named_parameters()}
    assert trained(network) == {name for name in names if not (kept and name.startswith(kept))}


@pytest.mark.parametrize(
    ("name", "frozen", "message"),
    [
        ("metaformer_s12", ("encodr",), "no module 'encodr'; valid: encoder, norm, head"),
        ("metaformer_s12", 5, "frozen must be 0 to 4 stages, got 5"),
        ("metaformer_s12", "encoder", "frozen must be a number of stages or a sequence of modules' names"),
        ("unet_star_star", 1, "TokenUNet has no stages to count; name its modules"),
    ],
)
def test_what_cannot_be_frozen_is_named(name, frozen, message):
    options = {**TINY, "mixer": "identity"} if "meta" in name else {}
    with pytest.raises(ValueError, match=message):
        create_network(name, **ONE, **options, frozen=frozen)
