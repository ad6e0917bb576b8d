"""UNet** and Token-UNet: any size, TokenLearner and TokenFuser against plain algebra."""

from functools import partial

import pytest
import torch
from network_checks import check_segmentation
from torch.nn import functional as F

from medmixers import create_network
from medmixers.networks.token_unet import ResBlock, TokenFuser, TokenLearner, TokenUNet

NAMES = ("unet_star_star", "token_unet_no_transformer", "token_unet")
TINY = {"channels": (4, 8, 12, 16), "transformer_heads": 4, "token_mlp_channels": 8, "head_channels": 8}
TINY_RELEASED = {"channels": TINY["channels"]}
build = partial(create_network, spatial_dims=3, in_channels=4, out_channels=3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1, 1), (8, 8, 8), (16, 20, 9), (3, 40, 17), (21, 33), (8, 8)])
def test_any_size_trains_and_borders_count(name, size):
    torch.manual_seed(0)
    network = build(name, spatial_dims=len(size), in_channels=2, **TINY)
    check_segmentation(network, torch.randn(2, 2, *size))


@pytest.mark.parametrize("grid", [(5, 7), (3, 4, 5)])
def test_token_learner_and_fuser_written_out(grid):
    torch.manual_seed(0)
    learner, fuser = TokenLearner(16, 8, width=6), TokenFuser(16, 8, width=6)
    for module in (learner, fuser):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
    x = torch.randn(2, 16, *grid)

    def mlp(layers, positions):
        norm, first, _, last = layers
        hidden = F.layer_norm(positions, (16,), norm.weight, norm.bias) @ first.weight.T + first.bias
        return F.gelu(hidden) @ last.weight.T + last.bias

    for b in range(2):
        positions = x[b].flatten(1).T  # (P, C)
        scores = mlp(learner.scores, positions).exp()
        attention = (scores / scores.sum(0)).T  # (N, P)
        tokens, maps = learner(x)
        torch.testing.assert_close(maps[b].flatten(1), attention, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tokens[b], attention @ positions, rtol=1e-4, atol=1e-5)
        spread = mlp(fuser.scores, positions) @ fuser.mix.weight @ tokens[b]  # (P, C)
        expected = x[b] + spread.T.view_as(x[b])
        torch.testing.assert_close(fuser(x, tokens)[b], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "tiny"), [("token_unet", TINY), ("token_unet_released_8", TINY_RELEASED)])
def test_attention_maps_stay_with_the_network_after_a_forward(name, tiny):
    torch.manual_seed(0)
    network = build(name, in_channels=1, **tiny).eval()
    assert network.token_learner.attention is None
    with torch.no_grad():
        network(torch.randn(2, 1, 17, 24, 30))
    maps = network.token_learner.attention
    assert maps.shape == (2, 8, 3, 3, 4)
    torch.testing.assert_close(maps.sum((2, 3, 4)), torch.ones(2, 8))
    assert "attention" not in " ".join(network.state_dict())


def test_attention_maps_sum_to_one_on_the_coarse_grid():
    learner = build("token_unet").token_learner
    tokens, attention = learner(torch.randn(2, 256, 2, 3, 4))
    assert tokens.shape == (2, 8, 256)
    assert attention.shape == (2, 8, 2, 3, 4)
    torch.testing.assert_close(attention.sum((2, 3, 4)), torch.ones(2, 8))
    assert build("unet_star_star").token_learner is None


@pytest.mark.parametrize("size", [(8, 6), (4, 6, 8)])
def test_upsampling_block_equals_the_shortcut_in_the_papers_order(size):
    block = ResBlock(6, 4, spatial_dims=len(size), resample="up")
    x = torch.randn(1, 6, *size)
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    shortcut = block.shortcut(F.interpolate(x, scale_factor=2, mode=mode))
    branch = F.gelu(F.instance_norm(block.conv(x)))
    torch.testing.assert_close(block(x), branch + shortcut, rtol=1e-5, atol=1e-5)


def test_transformer_is_pre_norm_without_positions():
    torch.manual_seed(0)
    network = build("token_unet").eval()
    tokens = torch.randn(1, 8, 256)
    order = torch.randperm(8)
    with torch.no_grad():
        mixed = network.transformer(tokens)
        torch.testing.assert_close(network.transformer(tokens[:, order]), mixed[:, order], rtol=1e-4, atol=1e-5)
        layer = network.transformer[0]
        normed = layer.norm1(tokens)
        attended = tokens + layer.self_attn(normed, normed, normed)[0]
        hidden = F.gelu(layer.linear1(layer.norm2(attended)))
        torch.testing.assert_close(layer(tokens), attended + layer.linear2(hidden), rtol=1e-4, atol=1e-5)
    assert len(network.transformer) == 4


def test_decoupled_tokens_have_their_own_width():
    torch.manual_seed(0)
    coupled, decoupled = build("token_unet", **TINY), build("token_unet", token_dim=20, **TINY)
    layer = sum(p.numel() for p in torch.nn.TransformerEncoderLayer(20, 4, 80).parameters())
    same = sum(p.numel() for p in coupled.transformer.parameters())
    expected = sum(p.numel() for p in coupled.parameters()) - same + 4 * layer + (16 * 20 + 20) + (20 * 16 + 16)
    assert sum(p.numel() for p in decoupled.parameters()) == expected
    x = torch.randn(1, 4, 16, 20, 24)
    assert decoupled(x).shape == (1, 3, 16, 20, 24)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="no tokens to process: num_tokens=0, transformer_layers=4"):
        TokenUNet(3, 1, 2, num_tokens=0)
    with pytest.raises(ValueError, match="tokens of width 256 cannot be split into transformer_heads=7"):
        TokenUNet(3, 1, 2, transformer_heads=7)
    with pytest.raises(ValueError, match=r"got tuple\(channels\)=\(32, 64\), num_tokens=-1"):
        TokenUNet(3, 1, 2, channels=(32, 64), num_tokens=-1)
    with pytest.raises(ValueError, match="transformer_layers=-2"):
        TokenUNet(3, 1, 2, transformer_layers=-2)
    with pytest.raises(ValueError, match=r"at least 2 levels"):
        TokenUNet(3, 1, 2, channels=())
    for option in ("token_dim", "token_mlp_channels", "transformer_heads", "head_channels"):
        for value in (0, -1, True, 2.0):
            with pytest.raises(ValueError, match=f"{option} must be an integer >= 1, got {value}"):
                TokenUNet(3, 1, 2, **{option: value})
    with pytest.raises(ValueError, match=r"channels\[1\] must be an integer >= 1, got 0"):
        TokenUNet(3, 1, 2, channels=(32, 0))
    with pytest.raises(ValueError, match=r"resample must be one of .* got 'half'"):
        ResBlock(4, 4, spatial_dims=3, resample="half")
    with pytest.raises(ValueError, match=r"'token_unet' has no option 'tokens'; valid: .*num_tokens"):
        build("token_unet", tokens=8)
    with pytest.raises(ValueError, match=r"3 spatial dimensions, 4 channel.*got shape \(1, 4, 16, 16\)"):
        build("token_unet", **TINY)(torch.randn(1, 4, 16, 16))
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got '3'"):
        TokenUNet("3", 1, 2)
