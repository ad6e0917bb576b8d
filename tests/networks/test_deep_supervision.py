"""Deep supervision in nnU-Net's form: sizes of its targets, one set of keys, strides an axis, compiled toggling."""

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from torch.nn import functional as F

from medmixers import create_network
from medmixers.networks.token_unet import ResBlock

TOKENS = {"channels": (4, 8, 12, 16), "transformer_heads": 4, "token_mlp_channels": 8, "head_channels": 8}
META = {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32), "decoder_channels": 8, "mixer": "pooling"}
MED = {"channels": (4, 6, 8, 8, 8), "med_depth": 1, "input_size": (64, 64)}
# network, its options, the strides that nnU-Net's plans would hold for it, image
CASES = {
    "token_unet": ("token_unet", TOKENS, [[1] * 3, [2] * 3, [2] * 3, [2] * 3], (16, 24, 16)),
    "token_unet_thin": (
        "unet_star_star",
        {**TOKENS, "strides": ((1, 2, 2), (1, 2, 2), (2, 2, 2))},
        [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]],
        (6, 32, 24),
    ),
    "metaformer_2d": ("metaformer_segformer_s12", META, [[1, 1], [4, 4], [2, 2], [2, 2], [2, 2]], (64, 96)),
    "metaformer_thin": (
        "metaformer_segformer_s12",
        {**META, "stem_stride": (1, 4, 4), "stage_strides": ((1, 2, 2), 2, 2)},
        [[1, 1, 1], [1, 4, 4], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        (12, 64, 64),
    ),
    "metaformer_stem_2": (
        "metaformer_segformer_s12", {**META, "stem_stride": 2}, [[1] * 3] + [[2] * 3] * 4, (16, 16, 32),
    ),
    "metaformer_stem_1": (
        "metaformer_segformer_s12", {**META, "stem_stride": 1}, [[1] * 2] + [[2] * 2] * 3, (16, 24),
    ),
    "med_unext": ("med_unext", MED, [[1, 1]] + [[2, 2]] * 5, (64, 96)),
}  # fmt: skip
ODD = {2: (37, 50), 3: (9, 41, 30)}


def build(case, **changes):
    torch.manual_seed(0)
    name, options, strides, size = CASES[case]
    network = create_network(
        name, spatial_dims=len(size), in_channels=1, out_channels=3, **{"aux_heads": True, **options, **changes}
    )
    return network, strides, size


def target_sizes(strides, size):
    """Sizes of the targets that nnU-Net makes for these strides (nnUNetTrainer._get_deep_supervision_scales)."""
    scales = (1 / torch.tensor(strides).double().cumprod(0))[:-1].tolist()
    targets = DownsampleSegForDSTransform(scales)(segmentation=torch.zeros(1, *size))["segmentation"]
    return [tuple(target.shape[1:]) for target in targets]


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_outputs_have_the_sizes_of_nnunets_targets(case, odd):
    network, strides, size = build(case)
    size = ODD[len(size)] if odd else size
    x = torch.randn(2, 1, *size)
    network.decoder.deep_supervision = True
    outputs = network(x)
    assert [tuple(output.shape[2:]) for output in outputs] == target_sizes(strides, size)
    assert all(output.shape[:2] == (2, 3) for output in outputs)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key


@pytest.mark.parametrize("case", CASES)
def test_the_switch_changes_no_key_and_not_the_first_output(case):
    network, _, size = build(case)
    network.eval()
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        alone = network(x)
        network.decoder.deep_supervision = True
        torch.testing.assert_close(network(x)[0], alone)
        corner = x.clone()
        corner[(..., *(-1,) * len(size))] += 10
        network.decoder.deep_supervision = False
        assert (network(corner) - alone).abs()[(0, slice(None), *(-1,) * len(size))].max() > 1e-5
    plain = build(case, aux_heads=False)[0]
    heads = {key for key in network.state_dict() if ".seg_layers." in key} - set(plain.state_dict())
    assert set(network.state_dict()) - set(plain.state_dict()) == heads
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if key not in heads})
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), alone)


@pytest.mark.parametrize("case", CASES)
def test_only_seg_layers_know_the_class_count(case):
    network = build(case)[0].state_dict()
    name, options, _, size = CASES[case]
    other = create_network(
        name, spatial_dims=len(size), in_channels=1, out_channels=7, aux_heads=True, **options
    ).state_dict()
    differing = {key for key in network if network[key].shape != other[key].shape}
    assert differing == {key for key in network if ".seg_layers." in key}  # what -pretrained_weights leaves out


@pytest.mark.parametrize(
    "case", ["token_unet", *(pytest.param(case, marks=pytest.mark.slow) for case in ("metaformer_thin", "med_unext"))]
)
def test_one_graph_compiles_over_the_toggle(case):
    network, _, size = build(case)
    network.eval()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        for enabled in (True, False, True):
            compiled._orig_mod.decoder.deep_supervision = enabled
            assert isinstance(compiled(x), list) == enabled
            torch.testing.assert_close(compiled(x), network(x))


def test_strides_of_one_leave_an_axis_alone():
    torch.manual_seed(0)
    down = ResBlock(4, 6, spatial_dims=3, resample="down", stride=(1, 2, 2))
    x = torch.randn(1, 4, 3, 8, 6)
    pooled = F.conv3d(F.avg_pool3d(x, (1, 2, 2)), down.shortcut.weight, down.shortcut.bias)
    branch = F.conv3d(x, down.conv.weight, down.conv.bias, stride=(1, 2, 2), padding=1)
    torch.testing.assert_close(down(x), F.gelu(F.instance_norm(branch)) + pooled)
    up = ResBlock(6, 4, spatial_dims=3, resample="up", stride=(1, 2, 2))
    assert up(down(x)).shape == x.shape
    thin = create_network(
        "metaformer_s12", spatial_dims=3, in_channels=1, out_channels=2, stage_strides=((1, 2, 2), 2, 1)
    )
    assert thin.encoder.strides == ((4, 4, 4), (1, 2, 2), (2, 2, 2), (1, 1, 1))
    shapes = [tuple(f.shape[2:]) for f in thin.encoder(torch.randn(1, 1, 12, 32, 32))]
    assert shapes == [(3, 8, 8), (3, 4, 4), (2, 2, 2), (2, 2, 2)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("token_unet", {"strides": (2, 2)}, r"strides must be 1, 2 or 3 strides, .* got \(2, 2\)"),
        ("token_unet", {"strides": (4, 2, 2)}, "must be 1 or 2 on each axis, got 4"),
        ("metaformer_segformer_s12", {"stem_stride": (4, 4, 4)}, r"stem_stride must be .* \(2\), got \(4, 4, 4\)"),
        ("metaformer_segformer_s12", {"stage_strides": (2, 2)}, "stage_strides must be 1, 2 or 3 strides"),
        ("metaformer_segformer_s12", {"stem": "convolutional", "stem_stride": (2, 4)}, "one stride for all axes"),
    ],
)
def test_bad_strides_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_network(name, spatial_dims=2, in_channels=1, out_channels=2, **options)
