"""The function that plans name: found by nnU-Net, plain networks, clear errors."""

import json
import pydoc
import re

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from medmixers import create_network, list_mixers
from medmixers.nnunet.architecture import (
    NETWORK_CLASS_NAME,
    create_network_from_plans,
    network_option_names,
    pairwise_excess,
    plans_architecture,
)


def from_plans(deep_supervision, name, **options):
    """Build as nnU-Net does, after the plans went through a file."""
    arguments = json.loads(json.dumps({"name": name, **options}))
    return get_network_from_plans(
        NETWORK_CLASS_NAME, arguments, [], 2, 3, allow_init=True, deep_supervision=deep_supervision
    )  # fmt: skip


def test_the_name_in_the_plans_leads_to_the_function():
    assert pydoc.locate(NETWORK_CLASS_NAME) is create_network_from_plans


@torch.no_grad()
def test_openvino_computes_what_nnunet_predicts_with(monkeypatch):
    torch.manual_seed(0)
    options = {"spatial_dims": 2, "mixer": "grouped_conv", "depths": [1, 1], "dims": [8, 16], "layer_scale_init": 1.0}
    plain = from_plans(False, "metaformer_segformer_s12", **options).eval()
    monkeypatch.setenv("MEDMIXERS_RUNTIME", "openvino")
    for_training = from_plans(True, "metaformer_segformer_s12", strides=[[1, 1], [4, 4], [2, 2]], **options)
    assert "forward" not in vars(for_training)
    network = from_plans(False, "metaformer_segformer_s12", **options).eval()
    network.load_state_dict(plain.state_dict())
    image = torch.randn(1, 2, 32, 24)
    torch.testing.assert_close(network(image), plain(image), rtol=1e-4, atol=1e-4)
    assert list(network.forward.compiled) == [image.shape]
    monkeypatch.setenv("MEDMIXERS_RUNTIME", "tensorrt")
    with pytest.raises(ValueError, match="MEDMIXERS_RUNTIME must be torch or openvino, got 'tensorrt'"):
        from_plans(False, "metaformer_segformer_s12", **options)


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


TINY = {"depths": [1, 1, 1, 1], "dims": [16, 16, 16, 16], "decoder_channels": 8}


def planned(name, patch_size, pools, **options):
    """The plans' entry after it went through a file, and the patch."""
    architecture, patch = plans_architecture(name, patch_size=patch_size, pools=pools, options=options)
    return json.loads(json.dumps(architecture)), patch


def build(row, deep_supervision):
    return get_network_from_plans(
        row["network_class_name"], row["arch_kwargs"], row["_kw_requires_import"], 1, 3,
        allow_init=True, deep_supervision=deep_supervision,
    )  # fmt: skip


POOLS = [[1] * 3, [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
# name, options, strides that follow from POOLS on a patch of 12 x 128 x 96, and from five halvings of 64 x 32
NETWORKS = {
    **{
        f"metaformer {mixer}": (
            "metaformer_segformer_s12",
            {**TINY, "mixer": mixer},
            [[1] * 3, [1, 4, 4], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
            [[1] * 2, [4, 4], [2, 2], [2, 2], [2, 2]],
        )
        for mixer in list_mixers()
    },
    "stem of 2": (
        "metaformer_segformer_s12",
        {**TINY, "stem_stride": 2},
        [[1] * 3, [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        [[1] * 2, [2, 2], [2, 2], [2, 2], [2, 2]],
    ),
    "token_unet": (
        "token_unet",
        {"channels": [4, 8, 12, 16], "transformer_heads": 4},
        [[1] * 3, [1, 2, 2], [1, 2, 2], [2, 2, 2]],
        [[1] * 2, [2, 2], [2, 2], [2, 2]],
    ),
    "med_unext": (
        "med_unext",
        {"channels": [4, 6, 8, 8, 8], "med_depth": 1},
        [[1] * 3] + [[2] * 3] * 5,
        [[1] * 2] + [[2] * 2] * 5,
    ),
    "token_unet_released": (
        "token_unet_released_8", {"channels": [4, 8, 12, 16]}, [[1] * 3, [2] * 3, [4] * 3], [[1] * 2, [2] * 2, [4] * 2]
    ),
    "swin_unetr": (
        "swin_unetr_tshimanga2026", {"feature_size": 12}, [[1] * 3, [2] * 3, [16] * 3], [[1] * 2, [2] * 2, [16] * 2]
    ),
    "unet": ("unet_tshimanga2026", {}, [[1] * 3, [2] * 3, [16] * 3], [[1] * 2, [2] * 2, [16] * 2]),
}  # fmt: skip


SWIN_IN_3D = pytest.param("swin_unetr", 3, marks=pytest.mark.slow)  # half a minute


@pytest.mark.parametrize(
    ("case", "spatial_dims"), [*((case, dims) for case in NETWORKS for dims in (2, 3) if "swin" not in case),
    ("swin_unetr", 2), SWIN_IN_3D],
)  # fmt: skip
def test_every_network_fits_nnunets_deep_supervision(case, spatial_dims):
    name, options, *strides = NETWORKS[case]
    patch_size, pools = ([12, 128, 96], POOLS) if spatial_dims == 3 else ([64, 32], [[1, 1]] + [[2, 2]] * 5)
    row, patch = planned(name, patch_size, pools, **options)
    assert row["arch_kwargs"]["strides"] == strides[3 - spatial_dims]
    products = np.prod(row["arch_kwargs"]["strides"], axis=0)
    assert [size % product for size, product in zip(patch, products, strict=True)] == [0] * spatial_dims
    if "aux_heads" in network_option_names(name) and name != "med_unext":
        assert patch == patch_size, "nnU-Net's patch was grown"

    torch.manual_seed(0)
    on, off = build(row, True), build(row, False).eval()
    assert on.state_dict().keys() == off.state_dict().keys()
    off.load_state_dict(on.state_dict())
    image = torch.randn(2, 1, *patch)
    if spatial_dims == 3 and "unet" not in name:
        image = image[:1]
    outputs = on.eval()(image)  # a list in validation too: nnU-Net's validation step takes the first
    scales = (1 / np.cumprod(row["arch_kwargs"]["strides"], axis=0))[:-1]
    assert [list(output.shape[2:]) for output in outputs] == [[round(x) for x in patch * scale] for scale in scales]
    with torch.no_grad():
        torch.testing.assert_close(off(image), outputs[0])
    # Off, what takes no part in the output is frozen: DistributedDataParallel waits for every trainable parameter.
    off.train()(image).sum().backward()
    without = {key for key, p in off.named_parameters() if p.grad is None}
    assert without == {key for key, p in off.named_parameters() if not p.requires_grad}
    assert all(".seg_layers." in key for key in without)


def test_deep_supervision_without_strides_is_refused():
    with pytest.raises(ValueError, match=r"deep supervision of network 'unet_star_star' needs strides"):
        from_plans(True, "unet_star_star", spatial_dims=3)


@pytest.mark.parametrize(
    ("name", "strides", "message"),
    [
        ("token_unet", [[2] * 3] * 4, "the first of the plans' strides must be all ones"),
        ("token_unet", [[1] * 3, [2] * 3], "strides must be 1, 2 or 3 strides"),
        ("med_unext", [[1] * 3, [2] * 3], r"network 'med_unext' has the strides \(2, 2, 2, 2, 2\) after the first"),
    ],
)
def test_strides_that_a_network_cannot_have_are_named(name, strides, message):
    with pytest.raises(ValueError, match=message):
        from_plans(True, name, spatial_dims=3, strides=strides)


@pytest.mark.parametrize(
    ("name", "options", "outputs"),
    [
        ("token_unet", {"channels": [8, 16]}, 1),
        ("unet_star_star", {"channels": [8]}, 0),
        ("metaformer_segformer_s12", {"depths": [1], "dims": [16]}, 1),
    ],
)
def test_outputs_that_deep_supervision_cannot_weigh_are_refused(name, options, outputs):
    """nnU-Net sets the last weight to 0 and divides by the sum: with one output the loss is 0/0."""
    message = rf"has {outputs} output\(s\) for deep supervision, and nnU-Net needs 2: with fewer its loss is NaN"
    with pytest.raises(ValueError, match=message):
        planned(name, [32, 32, 32], [[1] * 3, [2] * 3, [2] * 3], **options)
    if outputs:
        strides = [[1] * 3, [4 if "dims" in options else 2] * 3]
        with pytest.raises(ValueError, match=message):
            from_plans(True, name, spatial_dims=3, strides=strides, **options)
        from_plans(False, name, spatial_dims=3, strides=strides, **options)  # prediction weighs nothing


def test_a_stem_that_cannot_be_planned_is_named():
    with pytest.raises(ValueError, match="stem_stride must be a power of 2 to be planned, got 3"):
        planned("metaformer_segformer_s12", [32, 32], [[1, 1]], stem_stride=3)


def test_a_classifier_is_refused():
    with pytest.raises(
        ValueError,
        match=r"'metaformer_s12' is not a segmentation network; valid: .*'medmixers list networks' lists",
    ):
        from_plans(False, "metaformer_s12", spatial_dims=2)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match=r"unknown network 'tokenunet'; valid: .*token_unet"):
        from_plans(False, "tokenunet", spatial_dims=3)
    with pytest.raises(ValueError, match=r"no option 'chanels'; valid: .*channels"):
        from_plans(False, "token_unet", spatial_dims=3, chanels=[8, 16])


@pytest.mark.parametrize(
    ("mixer", "patch", "refused"),
    [
        ("global_attention", 128, ""),  # 32^3
        ("global_attention", 192, "has 110592 in stage 1"),
        (("pooling", "pooling", "global_attention", "global_attention"), 192, ""),  # 12^3 in stage 3
        (("pooling", "random_mixing", "pooling", "pooling"), 320, "random_mixing .* has 64000 in stage 2"),
    ],
)
def test_pairs_are_counted_in_the_stages_that_relate_them(mixer, patch, refused):
    pools = [[1] * 3] + [[2] * 3] * 5
    architecture, size = plans_architecture(
        "metaformer_segformer_s12", patch_size=[patch] * 3, pools=pools, options={"mixer": mixer}
    )
    assert pairwise_excess({"arch_kwargs": {**architecture["arch_kwargs"], "mixer": ()}}, size) == ""
    message = pairwise_excess(architecture, size)
    assert re.search(refused, message) if refused else not message
