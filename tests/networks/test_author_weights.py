"""The authors' checkpoints: logits of hand-written twins with equal weights, and refusals where they would differ."""

import re
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from author_twins import (
    CONVS,
    AddEmbedding,
    BaselineAttend,
    BaselineSepConv,
    BaselineTwin,
    GlobalAttend,
    Last,
    LightningTwin,
    LocalAttend,
    Pool,
    PoolFormerTwin,
    Random,
    SegFormerTwin,
    SpatialLinear,
    filled,
)
from token_unet_twin import TokenUNetTwin
from torch import nn

from medmixers import create_network
from medmixers.cli.list import formats_of
from medmixers.networks.weights import load_weights
from medmixers.networks.weights.formats import FORMATS
from medmixers.networks.weights.transformer import FORMAT as TRANSFORMER_FORMAT
from medmixers.variants import NETWORKS

TINY = {"depths": (1, 1, 2, 1), "dims": (32, 32, 64, 64)}
build = partial(create_network, spatial_dims=2, in_channels=3, out_channels=5, **TINY)
NORM_POOL = {"head_order": "norm_pool"}


def check_logits(ours, theirs, x, report=None):
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.02
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-5, atol=1e-5)
    assert report is None or not (report.kept or [key for key in report.skipped if not key.startswith("criterion")])


def image(*size, channels=3):
    torch.manual_seed(1)
    return torch.randn(2, channels, *size)


def sail_mixer(letters, size=64):
    def mixer(stage, block, dim):
        tokens = (size // 4 // 2**stage) ** 2
        return {"p": Pool(2), "a": GlobalAttend(dim, 32), "f": SpatialLinear(tokens)}[letters[stage]]

    return mixer


def test_poolformer_norms_then_averages():
    theirs = filled(PoolFormerTwin(sail_mixer("pppp")))
    ours = build("poolformer_s12", **NORM_POOL)
    report = load_weights(ours, theirs.state_dict())
    check_logits(ours, theirs, image(64, 64), report)
    assert report.format == "sail-sg/poolformer"
    with pytest.raises(ValueError, match=r"sail-sg/poolformer's format.*build the network with head_order='norm_pool'"):
        load_weights(build("poolformer_s12"), theirs.state_dict())


@pytest.mark.parametrize("letters", ["pppa", "ppaa", "pppf", "ppff"])
def test_hybrids_of_yu_et_al(letters):
    attends = "a" in letters
    first = letters.find("a")
    embedding = {first: (16 // 2**first,) * 2} if attends else {}
    theirs = filled(PoolFormerTwin(sail_mixer(letters), norm="channel" if attends else "group", embedding=embedding))
    ours = build(f"metaformer_{letters}_s12", input_size=(64, 64))
    check_logits(ours, theirs, image(64, 64), load_weights(ours, theirs.state_dict()))


def test_an_epsilon_or_a_norm_of_its_own_is_refused():
    theirs = filled(PoolFormerTwin(sail_mixer("ppaa"), norm="channel", embedding={2: (4, 4)}))
    for wrong, named in (
        ({"norm_eps": 1e-6}, "norm_eps=1e-05"),
        ({"norm": "group_norm"}, "norm='layer_norm'"),
        ({"mixer_options": {"head_dim": 16}}, "mixer_options={'head_dim': 32}"),
        ({"head_norm_eps": 1e-6}, "head_norm_eps=1e-05"),
        ({"activation": "relu"}, "activation='gelu'"),
    ):
        ours = build("metaformer_ppaa_s12", input_size=(64, 64), **wrong)
        with pytest.raises(ValueError, match=re.escape(f"build the network with {named}")):
            load_weights(ours, theirs.state_dict())


def test_another_number_of_classes_needs_no_head_of_theirs():
    theirs = filled(PoolFormerTwin(sail_mixer("pppp")))
    ours = build("poolformer_s12", out_channels=7)
    report = load_weights(ours, theirs.state_dict())
    assert set(report.kept) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def baseline_mixer(letters, size=64):
    def mixer(stage, dim):
        tokens = (size // 4 // 2**stage) ** 2
        made = {
            "i": nn.Identity, "p": lambda: Last(Pool(2)), "r": lambda: Last(Random(tokens)),
            "c": lambda: BaselineSepConv(dim), "a": lambda: BaselineAttend(dim),
        }  # fmt: skip
        return made[letters[stage]]()

    return mixer


BASELINES = [
    ("identityformer_s12", "iiii", {}),
    ("poolformerv2_s12", "pppp", {}),
    ("randformer_s12", "iirr", {"input_size": (64, 64)}),
    ("convformer_s18", "cccc", {"head_mlp_eps": 1e-5}),
    ("caformer_s18", "ccaa", {"head_mlp_eps": 1e-5}),
]


@pytest.mark.parametrize(("name", "letters", "options"), BASELINES)
def test_baselines_of_yu_et_al(name, letters, options):
    is_channel = letters[0] == "c"
    theirs = BaselineTwin(baseline_mixer(letters), axes=(-1,) if is_channel else (1, 2, 3), mlp_head=is_channel)
    theirs = filled(theirs)
    ours = build(name, **options)
    report = load_weights(ours, theirs.state_dict())
    check_logits(ours, theirs, image(64, 64), report)
    assert report.format == "sail-sg/metaformer"
    if is_channel:
        with pytest.raises(ValueError, match="build the network with head_mlp_eps=1e-05"):
            load_weights(build(name), theirs.state_dict())


def test_a_foreign_random_matrix_is_marked_and_needs_room():
    theirs = filled(BaselineTwin(baseline_mixer("iirr"), axes=(1, 2, 3), mlp_head=False))
    ours = build("randformer_s12", input_size=(64, 64))
    load_weights(ours, theirs.state_dict())
    again = build("randformer_s12", input_size=(64, 64))
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again(image(64, 64)), ours(image(64, 64)))
    with pytest.raises(ValueError, match=r"token_mixer\.mixing is not in the network"):
        load_weights(build("randformer_s12", input_size=(64, 64), mixer_options={"stored": False}), theirs.state_dict())


def keuth_mixer(name, *, dims=2, kernel=5, size=64, embed=True, hybrid=False, limit=64):
    def mixer(stage, block, dim):
        edge = size // 4 // 2**stage
        if hybrid and stage < 2:
            return Pool(dims)
        if name == "full_attn":
            attend = GlobalAttend(dim, 16)
            return nn.Sequential(AddEmbedding(dim, (edge,) * dims), attend) if embed and block == 0 else attend
        if name == "pooling":
            return nn.Identity() if dims == 3 and kernel > edge else Pool(dims, kernel)
        made = {
            "loc_attn": lambda: LocalAttend(dim, kernel, limit), "identity": nn.Identity,
            "conv": lambda: CONVS[dims](dim, dim, kernel, padding=kernel // 2),
            "sep_conv": lambda: CONVS[dims](dim, dim, kernel, padding=kernel // 2, groups=dim),
            "random": lambda: Random(edge**dims),
        }  # fmt: skip
        return made[name]()

    return mixer


OURS = {
    "loc_attn": "local_attention", "full_attn": "global_attention", "pooling": "pooling", "conv": "conv",
    "sep_conv": "grouped_conv", "identity": "identity", "random": "random_mixing",
}  # fmt: skip
KERNELS = ("loc_attn", "pooling", "conv", "sep_conv")


def lightning(theirs, mixer, **more):
    """A checkpoint as Lightning saves it."""
    arguments = {"tokenmixer": mixer, "kernel_size": 5, "head_dim": 16, **more}
    return {"epoch": 1, "state_dict": theirs.state_dict(), "hyper_parameters": arguments, "optimizer_states": []}


def keuth_options(mixer):
    return {
        "mixer": OURS[mixer],
        **({"kernel_size": 5} if mixer in KERNELS else {}),
        **({"positional_embedding": True} if mixer == "full_attn" else {}),
    }


@pytest.mark.parametrize("mixer", OURS)
def test_keuth_classifier_in_2d(mixer, tmp_path):
    theirs = LightningTwin(filled(PoolFormerTwin(keuth_mixer(mixer)))).eval()
    torch.save(lightning(theirs, mixer), tmp_path / "best.ckpt")
    ours = build("metaformer_s12", input_size=(64, 64), **keuth_options(mixer))
    report = load_weights(ours, tmp_path / "best.ckpt")
    check_logits(ours, theirs, image(64, 64), report)
    assert report.format == "keuth2025"
    assert report.part == "state_dict"
    wrong = "identity" if mixer == "pooling" else "pooling"
    with pytest.raises(ValueError, match=r"mixer=\(|do not fit"):
        load_weights(build("metaformer_s12", mixer=wrong), tmp_path / "best.ckpt")


@pytest.mark.parametrize("mixer", OURS)
def test_keuth_classifier_in_3d_by_the_released_rules(mixer):
    """At 64^3 stage 3 has 4^3 = 64 tokens and stage 4 is 2^3, below the kernel."""
    theirs = PoolFormerTwin(keuth_mixer(mixer, dims=3, limit=63), channels=1, dims=3)
    theirs = LightningTwin(filled(theirs)).eval()
    released = {"loc_attn": {"full_attention_tokens": 63}, "pooling": {"identity_on_small_maps": True}}
    options = {**keuth_options(mixer), "spatial_dims": 3, "in_channels": 1, "input_size": (64,) * 3}
    ours = build("metaformer_s12", **options, mixer_options=released.get(mixer))
    check_logits(ours, theirs, image(64, 64, 64, channels=1), load_weights(ours, lightning(theirs, mixer)))
    if mixer in released:
        with pytest.raises(ValueError, match=re.escape(f"mixer_options={released[mixer]!r}")):
            load_weights(build("metaformer_s12", **options), lightning(theirs, mixer))


@pytest.mark.parametrize("mixer", ["identity", "pooling", "conv", "sep_conv", "loc_attn", "full_attn"])
def test_keuth_hybrid(mixer):
    theirs = PoolFormerTwin(
        keuth_mixer(mixer, hybrid=True), norm="channel", embedding={2: (4, 4)}, removed=True
    )  # fmt: skip
    theirs = LightningTwin(filled(theirs)).eval()
    checkpoint = lightning(theirs, mixer, attention_weights_warm_start=False)
    options = {"kernel_size": (3, 3, 5, 5)} if mixer in KERNELS else {}
    cold = {"mixer_options": {"head_dim": 16}, "positional_embedding": (False, False, True, True)}
    options |= {**cold, "input_size": (64, 64)} if mixer == "full_attn" else {}
    ours = build(f"hybrid_{OURS[mixer]}_s12", **options)
    check_logits(ours, theirs, image(64, 64), load_weights(ours, checkpoint))
    with pytest.raises(ValueError, match=r"norm=.layer_norm.|do not fit"):
        load_weights(build("metaformer_s12", mixer=("pooling", "pooling", OURS[mixer], OURS[mixer])), checkpoint)
    if mixer in ("loc_attn", "pooling"):
        with pytest.raises(ValueError, match=re.escape("kernel_size=(3, 3, 5, 5)")):
            load_weights(build(f"hybrid_{OURS[mixer]}_s12"), checkpoint)


@pytest.mark.parametrize("name", ["hybrid_global_attention_s12", "hybrid_local_attention_s12", "hybrid_conv_s12"])
def test_hybrids_start_from_the_pretrained_ppaa(name):
    theirs = filled(PoolFormerTwin(sail_mixer("ppaa"), norm="channel", embedding={2: (4, 4)}))
    ours = build(name)
    report = load_weights(ours, theirs.state_dict(), warm_start=True)
    assert "encoder.stages.2.pos_embedding" in report.skipped
    assert not [key for key in report.kept if ".token_mixer." not in key]
    assert ("encoder.stages.3.blocks.0.token_mixer.qkv.weight" in report.loaded) == ("attention" in name)
    if name == "hybrid_global_attention_s12":
        theirs.network[4] = nn.Identity()
        check_logits(ours, theirs, image(64, 64))


@pytest.mark.parametrize(("dims", "mixer"), [(2, "conv"), (2, "loc_attn"), (3, "full_attn"), (3, "pooling")])
def test_keuth_segmenter(dims, mixer):
    theirs = PoolFormerTwin(keuth_mixer(mixer, dims=dims, limit=63 if dims == 3 else 64), channels=1, dims=dims)
    theirs = filled(SegFormerTwin(theirs, dims=dims))
    released = {"mixer_options": {"identity_on_small_maps": True}} if mixer == "pooling" else {}
    ours = build(
        "metaformer_segformer_s12", spatial_dims=dims, in_channels=1, out_channels=4, decoder_channels=16,
        input_size=(64,) * dims, **keuth_options(mixer), **released,
    )  # fmt: skip
    checkpoint = {"state_dict": theirs.state_dict(), "hyper_parameters": {"token_mixer": mixer, "kernel_size": 5}}
    report = load_weights(ours, checkpoint)
    check_logits(ours, theirs, image(*(64,) * dims, channels=1), report)
    assert report.format == "keuth2025"


def test_older_local_attention_which_subtracts_its_input_is_refused():
    state = LightningTwin(filled(PoolFormerTwin(keuth_mixer("loc_attn")))).state_dict()
    old = {re.sub("in_proj_qkv", "in_proj_qk", key): value for key, value in state.items()}
    with pytest.raises(ValueError, match=r"in_proj_qk_bias is not in the network"):
        load_weights(build("metaformer_s12", mixer="local_attention", kernel_size=5), old)


TOKENS = [
    ("no_tokens", 0, "", 2),
    ("8", 8, "", 2),
    ("8_mlp_mixer", 8, "mlp", 2),
    ("32_attention_long", 32, "attention", 8),
]


@pytest.mark.parametrize(("suffix", "tokens", "kind", "layers"), TOKENS)
def test_released_token_unet_from_its_nnunet_checkpoint(suffix, tokens, kind, layers, tmp_path):
    theirs = filled(TokenUNetTwin(tokens=tokens, kind=kind, layers=layers))
    state = {f"_orig_mod.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"network_weights": state, "trainer_name": "nnUNet_8TokenUNetTrainer"}, tmp_path / "checkpoint_best.pth")
    ours = create_network(
        f"token_unet_released_{suffix}", spatial_dims=3, in_channels=2, out_channels=3, channels=(4, 8, 12, 16)
    )
    report = load_weights(ours, tmp_path / "checkpoint_best.pth")
    check_logits(ours, theirs, image(16, 24, 16, channels=2), report)
    assert (report.format, report.part) == ("MedMaxLab/tokenunet", "network_weights")
    if kind == "attention":
        other = create_network(
            f"token_unet_released_{suffix}", spatial_dims=3, in_channels=2, out_channels=3, channels=(4, 8, 12, 16),
            attention_heads=2,
        )  # fmt: skip
        with pytest.raises(ValueError, match="attention_heads=4"):
            load_weights(other, tmp_path / "checkpoint_best.pth")


def test_resnet18_of_timm_gives_timms_logits():
    theirs = filled(timm.create_model("resnet18", num_classes=5))
    ours = create_network("resnet18_keuth2025", spatial_dims=2, in_channels=3, out_channels=5)
    x = image(64, 64) / 10
    report = load_weights(ours, {f"model.{key}": value for key, value in theirs.state_dict().items()})
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert not report.kept
    assert not report.skipped


def test_the_list_of_networks_names_every_format_that_loads():
    """`medmixers list networks` and the guide name the formats of formats.py."""
    formats = {row.name for row in FORMATS} - {"medmixers"} | {TRANSFORMER_FORMAT}
    assert {each for name in NETWORKS for each in formats_of(name)} == formats
    guide = (Path(__file__).resolve().parents[2] / "plugin" / "docs" / "networks.md").read_text()
    described = {"keuth2025 (UNet@PatchEmb)", "MONAI's UNet"}  # "their U-Nets have rows of their own"
    assert all(f"| `{each}` |" in guide for each in formats - described)
    assert all(formats_of(name) for name, row in NETWORKS.items() if row.weights)
    assert formats_of("metaformer_s12") == ("keuth2025",) != formats_of("metaformer_ppaa_s12")
