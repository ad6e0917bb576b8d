"""MetaFormer networks: what a mixer adds, timm's logits, any size, options and their errors."""

import os
import shutil
from functools import partial

import pytest
import torch
from network_checks import check_gradients
from torch.nn import functional as F

from medmixers import create_network, list_mixers
from medmixers.layers.activations import ACTIVATIONS
from medmixers.layers.norms import create_norm
from medmixers.networks.metaformer import MetaFormerEncoder, drop_path_rates
from medmixers.networks.segformer import SegFormerDecoder

TINY = {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}
build = partial(create_network, spatial_dims=2, in_channels=3, out_channels=9)


def on_meta(name, **options):
    with torch.device("meta"):
        return build(name, **options)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("mixer", "kernel_size", "added"),
    [
        ("pooling", 5, lambda c, v: 0),
        ("conv", 5, lambda c, v: c * c * v + c),
        ("grouped_conv", 7, lambda c, v: c * v + c),
        ("sep_conv", 3, lambda c, v: 4 * c * c + 2 * c * v + 2),
        ("local_attention", 3, lambda c, v: 4 * c * c + 4 * c),
        ("global_attention", None, lambda c, v: 4 * c * c + c),
    ],
)
def test_mixers_add_exactly_their_weights(spatial_dims, mixer, kernel_size, added):
    plain, mixed = (
        on_meta("metaformer_s12", spatial_dims=spatial_dims, mixer=name, kernel_size=kernel)
        for name, kernel in (("identity", None), (mixer, kernel_size))
    )
    volume = (kernel_size or 1) ** spatial_dims
    expected = sum(depth * added(dim, volume) for depth, dim in zip((2, 2, 6, 2), (64, 128, 320, 512), strict=True))
    count = [sum(p.numel() for p in network.parameters()) for network in (plain, mixed)]
    assert count[1] - count[0] == expected


@pytest.mark.parametrize("mixer", list_mixers())
@pytest.mark.parametrize("size", [(33, 21), (7, 18, 30)])
def test_segmentation_keeps_any_size_and_trains(mixer, size):
    torch.manual_seed(0)
    dims = len(size)
    network = build(
        "metaformer_segformer_s12", spatial_dims=dims, in_channels=2, out_channels=3,
        mixer=mixer, input_size=size, **TINY,
    )  # fmt: skip
    logits = network(torch.randn(2, 2, *size))
    assert logits.shape == (2, 3, *size)
    check_gradients(network, logits)


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (80, 37), (1, 2, 3), (9, 33, 14)])
def test_border_voxels_influence_the_output(size, stem_stride):
    torch.manual_seed(0)
    network = build(
        "metaformer_segformer_s12", spatial_dims=len(size), in_channels=1, out_channels=2,
        mixer="identity", stem_stride=stem_stride, **TINY,
    ).eval()  # fmt: skip
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        before = network(x)
        assert before.shape == (1, 2, *size)
        for corner in ((0,) * len(size), (-1,) * len(size)):
            changed = x.clone()
            changed[(0, 0, *corner)] += 10
            assert (network(changed) - before).abs()[(0, slice(None), *corner)].max() > 1e-4


def test_decoder_equals_concatenate_resize_fuse():
    torch.manual_seed(0)
    dims, sizes = (8, 12, 16), ((9, 7), (5, 4), (3, 2))
    decoder = SegFormerDecoder(dims, 4, spatial_dims=2, channels=10)
    features = [torch.randn(2, d, *s) for d, s in zip(dims, sizes, strict=True)]
    maps = [p(f) for p, f in zip(decoder.projections, features, strict=True)]
    maps = [F.interpolate(m, size=sizes[0], mode="bilinear", align_corners=False) for m in maps]
    expected = decoder.seg_layers[0](decoder.act(decoder.norm(decoder.fuse(torch.cat(maps, 1)))))
    torch.testing.assert_close(decoder(features), expected, rtol=1e-5, atol=1e-5)


def test_feature_maps_and_hybrids():
    encoder = MetaFormerEncoder(
        3, 1, mixer=("pooling", "sep_conv", "local_attention", "global_attention"), kernel_size=5, **TINY
    )
    features = encoder(torch.randn(1, 1, 40, 33, 8))
    assert [tuple(f.shape[1:]) for f in features] == [
        (16, 10, 9, 2), (32, 5, 5, 1), (48, 3, 3, 1), (64, 2, 2, 1),
    ]  # fmt: skip
    mixers = [stage.blocks[0].token_mixer for stage in encoder.stages]
    assert [type(m).__name__ for m in mixers] == ["Pooling", "SepConv", "LocalAttention", "GlobalAttention"]
    assert mixers[0].kernel_size == mixers[2].kernel_size == 5
    assert mixers[1].dwconv.kernel_size == (5, 5, 5)


def test_blocks_follow_the_formula():
    torch.manual_seed(0)
    encoder = MetaFormerEncoder(2, 3, mixer="conv", layer_scale_init=0.5, res_scale_init=2.0, **TINY)
    block = encoder.stages[1].blocks[0]
    x = torch.randn(2, 32, 6, 5)
    mixed = 2 * x + 0.5 * block.token_mixer(F.group_norm(x, 1))
    hidden = F.gelu(block.mlp.fc1(F.group_norm(mixed, 1)))
    torch.testing.assert_close(block(x), 2 * mixed + 0.5 * block.mlp.fc2(hidden), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["group_norm", "layer_norm", "batch_norm", "none"])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "squared_relu", "star_relu"])
def test_norms_and_activations(norm, activation):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 40, 40)
    network = build("metaformer_s12", norm=norm, activation=activation, layer_scale_init=1.0, **TINY).eval()
    plain = build("metaformer_s12", layer_scale_init=1.0, **TINY).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    logits = network(x)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits, plain(x)) == (norm == "group_norm" and activation == "gelu")


def test_stochastic_depth_schedules():
    assert drop_path_rates(0.1, (1, 2), "constant") == [[pytest.approx(0.1)], [pytest.approx(0.1)] * 2]
    assert drop_path_rates(0.1, (1, 2), "ramp") == [[0.0], [pytest.approx(0.05), pytest.approx(0.1)]]


def test_ramp_reaches_the_blocks():
    network = build("poolformer_s12", drop_path_rate=0.4, **TINY)
    rates = [block.drop_path.drop_prob for stage in network.encoder.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_norm_and_activation_written_out():
    x = torch.randn(2, 6, 5, 4, 3)
    norm = create_norm("layer_norm", 6, spatial_dims=3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    shape = (1, 6, 1, 1, 1)
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(
        norm(x), expected * norm.weight.view(shape) + norm.bias.view(shape), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(ACTIVATIONS["squared_relu"]()(torch.tensor([-2.0, 3.0])), torch.tensor([0.0, 9.0]))


def test_stochastic_depth_drops_whole_branches_in_training_only():
    torch.manual_seed(0)
    network = build("metaformer_s12", drop_path_rate=0.5, layer_scale_init=1.0, **TINY)
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_studys_defaults():
    study, pool = on_meta("metaformer_s36"), on_meta("poolformer_s36")
    rates = {b.drop_path.drop_prob for s in study.encoder.stages for b in s.blocks}
    assert rates == {0.1}
    assert {b.drop_path.drop_prob for s in pool.encoder.stages for b in s.blocks} == {0.0}
    network = build("metaformer_s12", **TINY)
    assert network.encoder.stages[0].blocks[0].layer_scale1.scale.unique().tolist() == [pytest.approx(1e-5)]
    deep = build("metaformer_s36", **TINY).encoder.stages[0].blocks[0]
    assert deep.layer_scale1.scale.unique().tolist() == [pytest.approx(1e-6)]


def test_head_orders():
    torch.manual_seed(0)
    network = build("metaformer_s12", **TINY).eval()
    x = torch.randn(2, 3, 64, 64)
    last = network.encoder(x)[-1]
    expected = network.head(F.group_norm(last, 1).mean((2, 3)))
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    pool_first = build("metaformer_s12", head_order="pool_norm", **TINY).eval()
    last = pool_first.encoder(x)[-1]
    expected = pool_first.head(F.layer_norm(last.mean((2, 3)), (64,), eps=1e-6))
    torch.testing.assert_close(pool_first(x), expected, rtol=1e-5, atol=1e-5)


def test_size_bound_mixers_need_and_keep_one_size():
    with pytest.raises(ValueError, match="'random_mixing' is bound to one image size here: give input_size"):
        build("metaformer_s12", mixer="random_mixing", **TINY)
    network = build("metaformer_s12", mixer="random_mixing", input_size=(64, 40), **TINY)
    assert network(torch.randn(1, 3, 64, 40)).shape == (1, 9)
    assert network(torch.randn(1, 3, 63, 37)).shape == (1, 9)  # padded to the same feature size
    with pytest.raises(ValueError, match=r"built for feature size \(16, 10\), got \(16, 16\)"):
        network(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mixer": "poling"},
            r"unknown token mixer 'poling'; valid: pooling, \.\.\.; 'medmixers list mixers' lists all",
        ),
        ({"mixer": ("pooling", "conv")}, "mixer must be one value or 4, one per stage; got"),
        (
            {"mixer": "identity", "kernel_size": 3},
            "token mixer identity has no option kernel_size; valid: none",
        ),
        (
            {"mixer_options": {"head_dim": 16}},
            "token mixer pooling has no option head_dim; valid: identity_on_small_maps, kernel_size",
        ),
        ({"kernal_size": 3}, r"network 'metaformer_s12' has no option 'kernal_size'; valid: .*kernel_size"),
        ({"norm": "instance"}, "unknown norm 'instance'; valid: batch_norm, group_norm, layer_norm, none"),
        ({"activation": "tanh"}, "unknown activation 'tanh'; valid: gelu"),
        ({"head_order": "pool"}, "head_order must be one of"),
        ({"depths": (1, 1)}, "depths and dims must have one entry per stage each"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"drop_path_schedule": "cosine"}, "drop_path_schedule must be one of"),
        ({"positional_embedding": True}, "positional_embedding belongs to token mixer global_attention, got pooling"),
        ({"in_channels": 0}, "in_channels must be an integer >= 1, got 0"),
        ({"out_channels": 0}, "out_channels must be an integer >= 1, got 0"),
        ({"dims": (16, 0, 48, 64)}, r"dims\[1\] must be an integer >= 1, got 0"),
        ({"dims": (16, True, 48, 64)}, r"dims\[1\] must be an integer >= 1, got True"),
        ({"dims": 16}, r"depths and dims must have one entry per stage each, got depths=.*, dims=16"),
        ({"depths": (1, -1, 2, 1)}, r"depths must be integers >= 0, not all of them 0, got \(1, -1, 2, 1\)"),
        ({"depths": (0, 0, 0, 0)}, r"depths must be integers >= 0, not all of them 0, got \(0, 0, 0, 0\)"),
        ({"depths": (1, 1, 2.0, 1)}, r"depths must be integers >= 0, not all of them 0, got \(1, 1, 2\.0, 1\)"),
        ({"mlp_ratio": 0}, "mlp_ratio must be a number >= 1 / dim, got 0 at dim=16"),
        ({"mlp_ratio": -1.5}, "mlp_ratio must be a number >= 1 / dim, got -1.5"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a number >= 1 / dim, got nan"),
        ({"mlp_ratio": "4"}, "mlp_ratio must be a number >= 1 / dim, got '4'"),
        ({"input_size": (32,)}, r"input_size must be 2 positive integers, got \(32,\)"),
        ({"input_size": 64}, "input_size must be 2 positive integers, got 64"),
        ({"input_size": (64.0, 64)}, r"input_size must be 2 positive integers, got \(64\.0, 64\)"),
    ],
)
def test_bad_options_raise_and_name_the_valid_ones(options, message):
    with pytest.raises(ValueError, match=message):
        build("metaformer_s12", **{**TINY, **options})


def test_an_encoder_of_its_own_checks_its_dimensions():
    with pytest.raises(ValueError, match=r"spatial_dims must be 2 or 3, got 2\.0"):
        MetaFormerEncoder(2.0, 1)


def test_unknown_network_lists_the_valid_ones():
    with pytest.raises(
        ValueError,
        match=r"'metaformer_s13'; valid: metaformer_s\d+, .*'medmixers list networks' lists",
    ):
        build("metaformer_s13")


@pytest.mark.parametrize("name", ["metaformer_s12", "metaformer_segformer_s12"])
def test_wrong_images_are_named(name):
    options = {"spatial_dims": 3, "in_channels": 2, **TINY}
    with pytest.raises(ValueError, match=r"3 spatial dimensions, 2 channel.*got shape \(1, 2, 32, 32\)"):
        build(name, **options)(torch.randn(1, 2, 32, 32))
    with pytest.raises(ValueError, match=r"\(B, 2, D, H, W\).*got shape \(1, 1, 8, 8, 8\)"):
        build(name, **options)(torch.randn(1, 1, 8, 8, 8))


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler: no g++")
def test_inductor_compiles_a_training_step():
    torch.manual_seed(0)
    network = build("metaformer_segformer_s12", mixer="pooling", drop_path_rate=0.0, **TINY)
    compiled = torch.compile(network)
    x, probe = torch.randn(1, 3, 32, 32), torch.randn(1, 9, 32, 32)
    grads = []
    for module in (network, compiled):
        network.zero_grad()
        (module(x) * probe).sum().backward()
        grads.append([p.grad.clone() for p in network.parameters()])
    for plain, fast in zip(*grads, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4 * max(1.0, plain.abs().max().item()))
