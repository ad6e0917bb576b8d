"""The function that plans name: found by nnU-Net, plain networks, clear errors."""

import json
import pydoc

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from medmixers import create_network
from medmixers.nnunet.architecture import (
    NETWORK_CLASS_NAME,
    create_network_from_plans,
    plans_architecture,
)


def from_plans(deep_supervision, name, **options):
    """Build as nnU-Net does, after the plans went through a file."""
    row = json.loads(json.dumps(plans_architecture(name, **options)))
    return get_network_from_plans(
        row["network_class_name"], row["arch_kwargs"], row["_kw_requires_import"], 2, 3,
        allow_init=True, deep_supervision=deep_supervision,
    )  # fmt: skip


def test_the_name_in_the_plans_leads_to_the_function():
    assert pydoc.locate(NETWORK_CLASS_NAME) is create_network_from_plans


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("token_unet", {"channels": [8, 16], "transformer_heads": 2}),
        ("metaformer_segformer_s12", {"mixer": "grouped_conv", "depths": [1, 1], "dims": [8, 16]}),
    ],
)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_keys_are_the_plain_networks(name, options, spatial_dims):
    if name.startswith("metaformer"):
        options = {**options, "layer_scale_init": None}
    ours = from_plans(False, name, spatial_dims=spatial_dims, **options)
    plain = create_network(name, spatial_dims=spatial_dims, in_channels=2, out_channels=3, **options)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert type(ours) is type(plain)
    ours.load_state_dict(plain.state_dict())
    image = torch.randn(1, 2, *(19, 24, 17)[:spatial_dims])
    with torch.no_grad():
        assert torch.equal(ours.eval()(image), plain.eval()(image))


def test_deep_supervision_is_refused():
    with pytest.raises(ValueError, match=r"'unet_star_star' has no deep supervision heads"):
        from_plans(True, "unet_star_star", spatial_dims=3)


def test_a_classifier_is_refused():
    with pytest.raises(ValueError, match=r"'metaformer_s12' is no segmentation network; valid: .*token_unet"):
        from_plans(False, "metaformer_s12", spatial_dims=2)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"unknown network 'tokenunet'; valid: .*token_unet"):
        from_plans(False, "tokenunet", spatial_dims=3)
    with pytest.raises(ValueError, match=r"no option 'chanels'; valid: .*channels"):
        from_plans(False, "token_unet", spatial_dims=3, chanels=[8, 16])
