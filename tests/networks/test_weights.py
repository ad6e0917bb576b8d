"""Loading weights: inflation to 3D, other channel counts, warm start, errors."""

import re
from functools import partial

import pytest
import timm
import torch
from torch import nn

from medmixers import create_network
from medmixers.networks.weights import load_weights, read_source

TINY = {"depths": (1, 1, 2, 1), "dims": (32, 32, 64, 64)}
build = partial(create_network, spatial_dims=2, in_channels=3, out_channels=10)


def timm_model(name="poolformer_s12", **options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **options).eval()
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if key.endswith(("scale", "weight")) else 0.0, 0.1)
        else:
            nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("name", ["poolformer_s12", "convformer_s18"])
def test_inflated_network_answers_a_constant_volume_as_the_2d_one(name):
    theirs = timm_model(name)
    flat, volume = build(name), build(name, spatial_dims=3)
    load_weights(flat, theirs.state_dict())
    report = load_weights(volume, theirs.state_dict())
    assert set(report.adapted.values()) == {"inflated to 3D"}
    x = torch.randn(1, 3, 64, 64)
    stem_2d, stem_3d = (network.encoder.stem.conv for network in (flat, volume))
    repeated = x.unsqueeze(2).expand(-1, -1, 64, -1, -1)
    middle = stem_3d(repeated)[:, :, 8]
    torch.testing.assert_close(middle, stem_2d(x), rtol=1e-4, atol=1e-4)
    for flat_weight, weight in zip(flat.parameters(), volume.parameters(), strict=True):
        if weight.ndim == 5:
            torch.testing.assert_close(weight.sum(2), flat_weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_first_convolution_is_adapted_to_the_channels(spatial_dims):
    theirs = timm_model()
    rgb = theirs.stem.conv.weight
    one, four = (build("poolformer_s12", spatial_dims=spatial_dims, in_channels=c) for c in (1, 4))
    report = load_weights(one, theirs.state_dict())
    load_weights(four, theirs.state_dict())
    assert "input channels 3 -> 1" in report.adapted["encoder.stem.conv.weight"]
    total = one.encoder.stem.conv.weight
    total = total.sum(2) if spatial_dims == 3 else total
    torch.testing.assert_close(total, rgb.sum(1, keepdim=True), rtol=1e-5, atol=1e-6)
    repeated = four.encoder.stem.conv.weight
    repeated = repeated.sum(2) if spatial_dims == 3 else repeated
    torch.testing.assert_close(repeated, rgb[:, [0, 1, 2, 0]] * 3 / 4, rtol=1e-5, atol=1e-6)


def test_other_class_count_and_segmentation_leave_the_head_out():
    theirs = timm_model()
    classifier, segmenter = build("poolformer_s12", out_channels=4), build("metaformer_segformer_s12", out_channels=4)
    report = load_weights(classifier, theirs.state_dict())
    assert set(report.skipped) == {"head.weight", "head.bias"}
    assert set(report.kept) == {"head.weight", "head.bias"}
    report = load_weights(segmenter, theirs.state_dict())
    assert all(key.startswith(("decoder.", "norms.")) for key in report.kept)
    torch.testing.assert_close(
        segmenter.encoder.stages[3].blocks[1].mlp.fc1.weight, theirs.stages[3].blocks[1].mlp.fc1.weight
    )
    loaded = len(theirs.state_dict()) - len(report.skipped)
    assert str(report).startswith(f"{loaded} tensors loaded, 0 adapted")


def hybrid():
    """The hybrid [P, P, A, A] without its embedding, and a checkpoint of it with one."""
    torch.manual_seed(1)
    network = build("metaformer_ppaa_s12", positional_embedding=False)
    return network, {**network.state_dict(), "encoder.stages.2.pos_embedding": torch.randn(1, 320, 14, 14)}


@pytest.mark.parametrize("mixer", ["local_attention", "grouped_conv", "random_mixing", "pooling"])
def test_warm_start_takes_all_but_the_mixers(mixer):
    source, state = hybrid()
    target = build(
        "metaformer_s12", norm="layer_norm", head_order="pool_norm", input_size=(64, 64),
        mixer=("pooling", "pooling", mixer, mixer),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"warm_start=True allows other token mixers"):
        load_weights(target, state)
    report = load_weights(target, state, warm_start=True)
    blocks = [network.encoder.stages[2].blocks[3] for network in (source, target)]
    assert torch.equal(blocks[0].mlp.fc1.weight, blocks[1].mlp.fc1.weight)
    mixers = [block.token_mixer for block in blocks]
    if mixer == "local_attention":
        assert torch.equal(mixers[0].qkv.weight, mixers[1].qkv.weight)
        assert mixers[1].heads == 2 * mixers[0].heads  # heads of 16 share what heads of 32 had
        assert not mixers[1].qkv.bias.any()
        assert set(report.skipped) == {"encoder.stages.2.pos_embedding"}
    else:
        assert all(".token_mixer." in key or key.endswith("pos_embedding") for key in report.skipped)


def test_warm_start_into_global_attention_is_the_same_network():
    source, state = hybrid()
    target = build(
        "metaformer_s12", norm="layer_norm", norm_eps=1e-5, head_norm="layer_norm", head_norm_eps=1e-5,
        mixer_options={"head_dim": 32}, mixer=("pooling", "pooling", "global_attention", "global_attention"),
    )  # fmt: skip
    load_weights(target, state, warm_start=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(x), source.eval()(x))


def test_mismatch_raises_and_changes_nothing():
    network = build("poolformer_s12", **TINY)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"keys do not fit, the first: encoder.stages.0.blocks.0.layer_scale1.scale"):
        load_weights(network, timm_model().state_dict())
    state = {f"encoder.{key}": value for key, value in network.encoder.state_dict().items()}
    del state["encoder.stem.conv.bias"]
    with pytest.raises(ValueError, match=r"encoder\.stem\.conv\.bias is not in the checkpoint"):
        load_weights(network, state)
    state = {**network.state_dict(), "encoder.extra": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"encoder\.extra is not in the network"):
        load_weights(network, state)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_bad_sources_end_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no weights file 'nowhere.pth'; valid: a file, or 'timm:NAME'"):
        build("poolformer_s12", pretrained="nowhere.pth")
    with pytest.raises(ValueError, match="timm has no model 'poolformer_s13'"):
        build("poolformer_s12", pretrained="timm:poolformer_s13")

    def offline(name, pretrained):
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match=r"could not download 'poolformer_s12.sail_in1k' \(no route to the hub\); fetch"):
        build("poolformer_s12", pretrained="timm:poolformer_s12.sail_in1k")


CONTENTS = [
    ([1, 2], "holds an object of list, no state dict; valid: a state dict (names and tensors), alone or under"),
    ({}, "holds nothing, no state dict"),
    ({"model": {}}, "holds nothing, no state dict"),
    ({"ema_of_model": {"stem.conv.weight": torch.zeros(1)}, "epoch": 3}, "holds the keys 'ema_of_model', 'epoch', no"),
    (dict.fromkeys(range(9)), "holds the keys 0, 1, 2, 3, 4 ..., no state dict"),
    (nn.Linear(2, 2), "cannot be read as weights: it holds an object of torch.nn.modules.linear.Linear; valid: a"),
    (b"hello\n", "cannot be read as weights: torch.save did not write it, or it is damaged; valid: a state dict"),
    (b"version https://git-lfs.github.com/spec/v1\n", "cannot be read as weights: torch.save did not write it"),
    (b"", "cannot be read as weights: torch.save did not write it"),
]


@pytest.mark.parametrize(("content", "message"), CONTENTS)
def test_a_file_without_a_state_dict_ends_in_one_line_with_its_name(content, message, tmp_path):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=re.escape(f"'{file}' {message}")) as caught:
        read_source(file)
    assert str(caught.value).isprintable()  # neither a second line nor a terminal's colours


def test_a_file_cut_short_is_named(tmp_path):
    file = tmp_path / "cut.pth"
    torch.save({"weight": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.pth' cannot be read as weights: .*zip archive.*; valid: a state dict"):
        read_source(file)


def test_what_cannot_be_loaded_at_all_is_said_so():
    state = timm_model().state_dict()
    with pytest.raises(
        ValueError, match=r"another kind of network: none of its \d+ names, .* is in TokenUNet; valid: .*MedMax"
    ):
        load_weights(build("token_unet", channels=(4, 8), transformer_heads=2), state)
    resnet = timm.create_model("resnet10t").state_dict()
    with pytest.raises(ValueError, match=rf"another kind of network: none of its {len(resnet)} names, 'bn1.bias' for"):
        load_weights(build("poolformer_s12", **TINY), resnet)
    with pytest.raises(ValueError, match="the mapping holds the keys 'optimizer', no state dict"):
        load_weights(build("poolformer_s12", **TINY), {"optimizer": {}})


@pytest.mark.parametrize("warm_start", [False, True])
def test_warm_start_is_no_advice_where_it_does_not_help(warm_start):
    deeper = build("poolformer_s12", **{**TINY, "depths": (1, 1, 3, 1)}, mixer="global_attention")
    state = build("poolformer_s12", **TINY).state_dict()
    with pytest.raises(ValueError, match=r"the first: encoder\.stages\.2\.blocks\.2\.\S+ is not in the checkpoint$"):
        load_weights(deeper, state, warm_start=warm_start)


def test_prefixes_of_wrappers_are_no_part_of_the_names(tmp_path):
    source = build("poolformer_s12", **TINY)
    torch.save({"model": torch.compile(nn.DataParallel(source)).state_dict()}, tmp_path / "wrapped.pt")
    assert all(key.startswith("_orig_mod.module.") for key in torch.load(tmp_path / "wrapped.pt")["model"])
    target = build("poolformer_s12", **TINY, pretrained=tmp_path / "wrapped.pt")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_local_file_in_our_own_format_works_offline(tmp_path):
    source = build("poolformer_s12", **TINY)
    torch.save(source.state_dict(), tmp_path / "ours.pt")
    target = build("poolformer_s12", **TINY, pretrained=tmp_path / "ours.pt")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_moving_averages_go_first_as_in_timm(tmp_path):
    plain, averaged = (build("poolformer_s12", **TINY) for _ in range(2))
    file = tmp_path / "last.pth.tar"
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": averaged.state_dict(), "epoch": 3}, file)
    target = build("poolformer_s12", **TINY)
    report = load_weights(target, file)
    assert "from 'state_dict_ema'" in str(report)
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), target.parameters(), strict=True))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (4, 1), (4, 2), (2, 5), (4, 6), (5, 3)])
def test_own_weights_take_any_other_channels(spatial_dims, before, after):
    source, target = (
        build("metaformer_segformer_s12", spatial_dims=spatial_dims, in_channels=c, mixer="identity", **TINY)
        for c in (before, after)
    )
    report = load_weights(target, source.state_dict())
    assert report.adapted == {"encoder.stem.conv.weight": f"input channels {before} -> {after}"}
    grey = torch.randn(1, 1, *(32,) * spatial_dims)
    answers = [net.eval()(grey.expand(-1, c, *grey.shape[2:])) for net, c in ((source, before), (target, after))]
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["metaformer_segformer_s12", "unet_star_star", "token_unet"])
def test_own_weights_with_other_classes_when_asked(name):
    options = {**TINY, "mixer": "identity"} if "metaformer" in name else {"channels": (8, 8, 16)}
    options |= {"transformer_heads": 2} if name == "token_unet" else {}
    source, target = (
        build(name, spatial_dims=3, in_channels=c, out_channels=k, **options) for c, k in ((1, 3), (2, 5))
    )
    with pytest.raises(ValueError, match="do not fit"):
        load_weights(target, source.state_dict())
    report = load_weights(target, source.state_dict(), other_classes=True)
    assert len(report.kept) == 2
    assert set(report.skipped) == set(report.kept)
    body = next(key for key in report.loaded if value_is_wide(source.state_dict()[key]))
    assert torch.equal(target.state_dict()[body], source.state_dict()[body])


def value_is_wide(value):
    return value.ndim == 5 and value.shape[1] > 2
