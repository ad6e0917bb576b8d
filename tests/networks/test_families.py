"""The families of Yu et al.: timm's logits, and each ablation axis by what it changes."""

from functools import partial

import pytest
import timm
import torch
from network_checks import check_gradients
from timm.models.metaformer import GroupNorm1NoBias, MetaFormer
from torch import nn

from medmixers import create_network
from medmixers.layers.activations import ACTIVATIONS, StarReLU
from medmixers.networks.weights import load_weights
from medmixers.variants import METAFORMER_SIZES

TINY = {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}
build = partial(create_network, spatial_dims=2, in_channels=3, out_channels=10)


def sized(name, size):
    return {"input_size": size} if name.startswith(("randformer", "metaformer_pp")) else {}


def randomise(network):
    """Every parameter away from its start value: LayerScale 1e-5 or a zero bias would hide a wrong block."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05)
        else:
            nn.init.normal_(parameter, 1.0 if name.endswith(("scale", "weight")) else 0.0, 0.1)


TIMM_MODELS = sorted(name for name in timm.list_models() if name.startswith(("poolformer", "convformer", "caformer")))
SMALLEST = {"caformer_s18", "convformer_s18", "poolformer_s12", "poolformerv2_s12"}


def quick_or_slow(name, *more):
    """The smallest model of each family is quick. Those of more blocks and channels are slow."""
    return pytest.param(name, *more, marks=() if name in SMALLEST else pytest.mark.slow)


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_timms_weights_are_all_of_ours(name, monkeypatch):
    # timm before 1.0.22 reads the values of its rates of drop path, which the meta device does not hold.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        theirs, ours = timm.create_model(name, num_classes=10), build(name)
    report = load_weights(ours, theirs.state_dict())
    assert len(report.loaded) == len(ours.state_dict())
    assert not report.skipped
    assert not report.kept


@pytest.mark.parametrize(
    ("name", "size"), [quick_or_slow(name, size) for name in TIMM_MODELS for size in ((96, 160), (224, 224))]
)
def test_timms_logits_with_timms_weights(name, size):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=10).eval()
    randomise(theirs)
    ours = build(name).eval()
    report = load_weights(ours, theirs.state_dict())
    assert not report.skipped
    assert not report.kept
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "size", ["s12", *(pytest.param(size, marks=pytest.mark.slow) for size in ("s24", "s36", "m36", "m48"))]
)
@pytest.mark.parametrize("image_size", [(224, 224), (96, 64)])
def test_identityformer_is_timms_metaformer_with_identity(size, image_size):
    class Identity(nn.Module):
        def __init__(self, **kwargs):
            super().__init__()

        def forward(self, x):
            return x

    torch.manual_seed(0)
    row = METAFORMER_SIZES[size]
    theirs = MetaFormer(
        depths=row.depths, dims=row.dims, num_classes=10, token_mixers=Identity,
        norm_layers=GroupNorm1NoBias, use_mlp_head=False,
    ).eval()  # fmt: skip
    randomise(theirs)
    ours = build(f"identityformer_{size}").eval()
    load_weights(ours, theirs.state_dict())
    x = torch.randn(1, 3, *image_size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", ["randformer_s12", "convformer_s18", "caformer_s18", "metaformer_ppaa_s12"])
def test_families_train_in_2d_and_3d(name, spatial_dims):
    size = (40,) * spatial_dims
    fixed = {"positional_embedding": False} if "ppaa" in name else {}
    network = build(name, spatial_dims=spatial_dims, **TINY, **sized(name, size), **fixed, **heads_of_16(name))
    logits = network(torch.randn(2, 3, *size))
    assert logits.shape == (2, 10)
    check_gradients(network, logits)


def heads_of_16(name):
    return {"mixer_options": {"head_dim": 16}} if name.startswith(("caformer", "metaformer_ppaa")) else {}


def test_star_relu_variants():
    x = torch.tensor([-1.0, 0.0, 2.0])
    parameters = {"star_relu": 2, "star_relu_scale": 1, "star_relu_bias": 1}
    values = {
        "star_relu_fixed": [-0.4472, -0.4472, 0.8944 * 4 - 0.4472],
        "star_relu_fixed_scale": [0.0, 0.0, 0.8944 * 4],
        "star_relu_fixed_bias": [-0.5, -0.5, 3.5],
    }
    stars = [name for name in ACTIVATIONS if name.startswith("star_relu")]
    assert len(stars) == 6
    for name in stars:
        activation = ACTIVATIONS[name]()
        assert isinstance(activation, StarReLU)
        assert len(list(activation.parameters())) == parameters.get(name, 0)
        expected = torch.tensor(values.get(name, [0.0, 0.0, 4.0]))
        torch.testing.assert_close(activation(x).detach(), expected, rtol=0, atol=2e-4)
    standardised = ACTIVATIONS["star_relu_fixed"]()(torch.randn(1_000_000))
    assert abs(standardised.mean()) < 0.01
    assert abs(standardised.std() - 1) < 0.01


def test_residual_off_removes_the_shortcut():
    torch.manual_seed(0)
    block = build("metaformer_s12", residual=False, mixer="identity", layer_scale_init=None, **TINY)
    block = block.encoder.stages[0].blocks[0].eval()
    x = torch.randn(1, 16, 6, 6)
    norm = nn.functional.group_norm
    torch.testing.assert_close(block(x), block.mlp(norm(norm(x, 1), 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"norm_bias": False}, -2 * (16 + 32 + 2 * 48 + 64)),
        ({"mlp_bias": False}, -5 * (16 + 32 + 2 * 48 + 64)),
        ({"layer_scale_init": None}, -2 * (16 + 32 + 2 * 48 + 64)),
        ({"res_scale_init": 1.0}, 2 * (16 + 32 + 2 * 48 + 64)),
        ({"res_scale_init": (None, None, 1.0, 1.0)}, 2 * (2 * 48 + 64)),
        ({"downsample_norm": "layer_norm"}, 2 * (16 + 16 + 32 + 48)),
        ({"activation": "star_relu"}, 2 * 5),
        ({"norm": "none"}, -4 * (16 + 32 + 2 * 48 + 64)),
        ({"norm": ("group_norm", "none", "group_norm", "group_norm")}, -4 * 32),
        ({"head": "mlp"}, (64 * 256 + 256 + 2 * 256 + 256 * 10 + 10) - (64 * 10 + 10)),
        ({"channel_mlp": False}, -8 * (16**2 + 32**2 + 2 * 48**2 + 64**2) - 8 * (16 + 32 + 2 * 48 + 64)),
        ({"mlp_ratio": 2}, -(16**2 + 32**2 + 2 * 48**2 + 64**2) * 4 - 2 * (16 + 32 + 2 * 48 + 64)),
    ],
)
def test_option_changes_the_count_by_what_it_says(options, difference):
    plain, changed = build("metaformer_s12", **TINY), build("metaformer_s12", **TINY, **options)
    count = [sum(p.numel() for p in network.parameters()) for network in (plain, changed)]
    assert count[1] - count[0] == difference


def test_norm_eps_reaches_the_blocks():
    block = build("metaformer_s12", norm_eps=0.5, **TINY).encoder.stages[0].blocks[0]
    x = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(block.norm1(x), nn.functional.group_norm(x, 1, eps=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "patchy"}, "stem must be one of"),
        ({"stem": "convolutional", "stem_stride": 12}, "power of 2"),
        ({"stem_stride": 0}, "stem_stride must be an integer >= 1, or one per axis .2., got 0"),
        ({"head": "deep"}, "head must be one of"),
        ({"dropout": 0.1}, "dropout belongs to head='mlp'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build("metaformer_s12", **TINY, **options)


@pytest.mark.parametrize("stem", ["patch", "convolutional"])
@pytest.mark.parametrize("size", [(64, 48), (33, 20, 50)])
def test_isotropic_stems_pad_and_downsample(stem, size):
    encoder = build(
        "identityformer_isotropic_s", spatial_dims=len(size), in_channels=1, stem=stem, depths=(1,), dims=(64,)
    ).encoder
    (features,) = encoder(torch.randn(1, 1, *size))
    assert tuple(features.shape[2:]) == tuple(-(-axis // 16) for axis in size)


@pytest.mark.parametrize(
    ("name", "options"),
    [("metaformer_segformer_s12", {"mixer": "pooling", **TINY}), ("token_unet", {})],
)
def test_a_compiled_network_takes_a_second_size(name, options):
    """At the second size torch compiles for all sizes: "TensorReferenceAnalysis has no attribute python_mod" once."""
    torch._dynamo.reset()
    network = build(name, **options).eval()
    compiled = torch.compile(network, backend="aot_eager")
    with torch.inference_mode():
        for size in ((64, 64), (70, 90)):
            x = torch.randn(1, 3, *size)
            torch.testing.assert_close(compiled(x), network(x))
