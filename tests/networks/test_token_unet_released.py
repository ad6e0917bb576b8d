"""The released Token-UNet: the authors' counts, each module against plain algebra, any size."""

from functools import partial

import pytest
import torch
from network_checks import check_segmentation
from torch.nn import functional as F

from medmixers import create_network
from medmixers.networks.token_unet import TokenSpreading
from medmixers.networks.token_unet_released import (
    AttentionLayer,
    GatedBlock,
    GatedMLP,
    MaskedTokenLearner,
    MLPMixerLayer,
    TokenMasks,
    TokenUNetReleased,
    UnitLinear,
)
from medmixers.variants import NETWORKS

# The authors' own counts (outputs/profiling_results.csv of MedMaxLab/tokenunet), 4 -> 4 channels.
COUNTS = {
    "token_unet_released_no_tokens": 1_669_075,
    "token_unet_released_8": 1_687_723,
    "token_unet_released_8_mlp_mixer": 1_826_991,
    "token_unet_released_8_attention": 1_949_871,
    "token_unet_released_32": 1_694_899,
    "token_unet_released_32_mlp_mixer": 1_858_743,
    "token_unet_released_32_attention": 1_957_047,
    "token_unet_released_32_attention_long": 2_743_491,
}
TINY = {"channels": (4, 8, 12, 16)}
EACH_KIND = [name for name in COUNTS if "_32" not in name]
build = partial(create_network, spatial_dims=3, in_channels=4, out_channels=3)


def randomise(module):
    """Values of order one everywhere, so that no gate, bias or gain can hide."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def rms_one(vectors):
    """(P, C): each row divided by its root mean square."""
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt()


def gated(gate, x, branch):
    a = 1 / (1 + torch.exp(-gate.logit))
    return x + a * (branch - x)


def gated_mlp(mlp, rows):
    """He et al.'s variances by hand: 1 / width before the ReLU, 2 / width behind it."""
    first, second = mlp.fc1.weight, mlp.fc2.weight
    hidden = (rows @ first.T / rows.shape[-1] ** 0.5).clamp(min=0)
    return gated(mlp.gate, rows, hidden @ second.T * (2 / hidden.shape[-1]) ** 0.5)


def masks(layer, rows):
    return 1 / (1 + torch.exp(-(rms_one(rows) @ layer.weight.T + layer.bias)))


@pytest.mark.parametrize("name", COUNTS)
def test_the_authors_counts(name):
    with torch.device("meta"):
        network = build(name, out_channels=4)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]


def test_every_released_row_is_counted():
    assert {name for name in NETWORKS if "released" in name} == set(COUNTS)


@pytest.mark.parametrize("name", EACH_KIND)
@pytest.mark.parametrize("size", [(1, 1, 1), (16, 20, 9), (1, 40, 17), (21, 33), (8, 8)])
def test_any_size_trains_and_borders_count(name, size):
    torch.manual_seed(0)
    network = build(name, spatial_dims=len(size), in_channels=2, **TINY)
    check_segmentation(network, torch.randn(2, 2, *size))


@pytest.mark.parametrize("resample", ["none", "down", "up"])
@pytest.mark.parametrize("size", [(8, 6), (4, 6, 8)])
def test_block_written_out(resample, size):
    n = len(size)
    conv, up = {2: (F.conv2d, F.conv_transpose2d), 3: (F.conv3d, F.conv_transpose3d)}[n]
    pool, mode = {2: (F.avg_pool2d, "bilinear"), 3: (F.avg_pool3d, "trilinear")}[n]
    block = randomise(GatedBlock(6, 4, spatial_dims=n, resample=resample))
    x = torch.randn(2, 6, *size)

    def norm(y):
        axes = tuple(range(2, n + 2))
        return (y - y.mean(axes, keepdim=True)) / (y.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()

    _, expand, _, _, project = block.branch
    branch = conv(norm(x), expand.weight, expand.bias, padding=1)
    branch = branch[(..., *(slice(None, None, 2) for _ in size))] if resample == "down" else branch
    branch = norm(torch.where(branch > 0, branch, 0.1 * branch))
    if resample == "up":
        branch = up(branch, project.weight, project.bias, stride=2)
        shortcut = block.shortcut(F.interpolate(x, scale_factor=2, mode=mode))
    else:
        branch = conv(branch, project.weight, project.bias)
        shortcut = block.shortcut(pool(x, 2) if resample == "down" else x)
    expected = gated(block.gate, shortcut, branch)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(5, 7), (3, 4, 5)])
def test_token_learner_and_fuser_written_out(grid):
    learner = randomise(MaskedTokenLearner(16, 8))
    fuser = randomise(TokenSpreading(TokenMasks(16, 8), torch.nn.Linear(8, 8)))
    x = torch.randn(2, 16, *grid)
    tokens, maps = learner(x)
    fused = fuser(x, tokens)
    for b in range(2):
        rows = x[b].flatten(1).T  # (P, C)
        weights = masks(learner.scores, rows)
        attention = (weights / weights.sum(0)).T  # (N, P)
        torch.testing.assert_close(maps[b].flatten(1), attention, rtol=1e-4, atol=1e-6)
        expected = attention @ rows @ learner.project.weight.T + learner.project.bias
        torch.testing.assert_close(tokens[b], expected, rtol=1e-4, atol=1e-4)
        mixed = fuser.mix.weight @ tokens[b] + fuser.mix.bias[:, None]  # (N, C)
        expected = x[b] + (masks(fuser.scores, rows) @ mixed).T.view_as(x[b])
        torch.testing.assert_close(fused[b], expected, rtol=1e-4, atol=1e-3)


def test_mlp_mixer_layer_written_out():
    layer = randomise(MLPMixerLayer(16, 8))
    assert layer.tokens.fc1.weight.shape == layer.channels.fc1.weight[:, :8].shape == (32, 8)
    x = torch.randn(2, 8, 16)
    for b in range(2):
        expected = gated_mlp(layer.channels, gated_mlp(layer.tokens, x[b].T).T)
        torch.testing.assert_close(layer(x)[b], expected, rtol=1e-4, atol=1e-4)


def test_attention_layer_written_out():
    layer = randomise(AttentionLayer(16, 4))
    x = torch.randn(2, 8, 16)
    for b in range(2):
        query, key, value = (x[b] @ part.T / 4 for part in layer.qkv.weight.split(16))
        heads = []
        for h in range(4):
            q, k, v = (part[:, 4 * h : 4 * h + 4] for part in (query, key, value))
            cosine = F.cosine_similarity(q[:, None], k[None], dim=-1)
            heads.append((2 * cosine).softmax(-1) @ v)  # sqrt(4) cosine, 4 channels a head
        attended = rms_one(torch.cat(heads, -1)) @ layer.out.weight.T / 4
        expected = gated_mlp(layer.mlp, gated(layer.gate, x[b], attended))
        torch.testing.assert_close(layer(x)[b], expected, rtol=1e-4, atol=1e-4)


def test_network_written_out_of_its_parts():
    """The input's norm, the skips and where they go, the processor's norm."""
    network = randomise(build("token_unet_released_8_attention", **TINY))
    x = torch.randn(1, 4, 16, 16, 24)
    assert isinstance(network.stem, GatedBlock)
    first = network.stem((x - x.mean((2, 3, 4), keepdim=True)) / x.std((2, 3, 4), correction=0, keepdim=True))
    second = network.encoder[0](first)
    third = network.encoder[1](second)
    deepest = network.encoder[2](third)
    tokens, _ = network.token_learner(deepest)
    _, *layers = network.token_processor
    tokens = layers[1](layers[0](rms_one(tokens)))
    up = network.decoder[0](network.token_fuser(deepest, tokens))
    up = network.decoder[2](network.decoder[1](up + third) + second)
    torch.testing.assert_close(network(x), network.head(up), rtol=1e-4, atol=1e-3)
    assert len(layers) == 2


def test_start_values():
    torch.manual_seed(0)
    network = build("token_unet_released_8_attention")
    gates = {key: value for key, value in network.named_parameters() if key.endswith("gate.logit")}
    assert len(gates) == 7 + 2 * 2
    assert all(gate.item() == -2.5 for gate in gates.values())
    for block in (network.stem, *network.encoder, *network.decoder):
        _, expand, _, _, project = block.branch
        for layer in (expand, project):  # He et al., by torch's fan in
            weight = layer.weight
            assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.2)
    for layer in (layer for layer in network.modules() if isinstance(layer, UnitLinear)):
        assert layer.weight.std().item() == pytest.approx(1, rel=0.05)
    rows = torch.randn(1000, 64)
    change = GatedMLP(64, 4096)
    change.gate.logit.data.fill_(50.0)  # the branch alone keeps the variance
    assert change(rows).std().item() == pytest.approx(1, rel=0.1)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="no tokens to process: num_tokens=0, token_processor='attention'"):
        TokenUNetReleased(3, 1, 2, num_tokens=0)
    with pytest.raises(ValueError, match="tokens of width 128 cannot be split into attention_heads=7"):
        TokenUNetReleased(3, 1, 2, attention_heads=7)
    with pytest.raises(ValueError, match=r"token_processor must be one of .*'mlp_mixer'.* got 'mixer'"):
        TokenUNetReleased(3, 1, 2, token_processor="mixer")
    with pytest.raises(ValueError, match="processor_layers must be an integer >= 1, got 0"):
        TokenUNetReleased(3, 1, 2, processor_layers=0)
    with pytest.raises(ValueError, match=r"at least 2 levels and 0 tokens .* num_tokens=-1"):
        TokenUNetReleased(3, 1, 2, num_tokens=-1)
    with pytest.raises(ValueError, match=r"at least 2 levels"):
        TokenUNetReleased(3, 1, 2, channels=(16,))
    with pytest.raises(ValueError, match=r"3 spatial dimensions, 4 channel.*got shape \(1, 4, 16, 16\)"):
        build("token_unet_released_8", **TINY)(torch.randn(1, 4, 16, 16))
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 4"):
        build("token_unet_released_8", spatial_dims=4)
