"""Modules between TokenLearner and TokenFuser: blocks of timm, MLP-Mixer, and a module of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from medmixers import create_network
from medmixers.bundles.new import new_bundle
from medmixers.bundles.share.pack import read_configs, read_metadata
from medmixers.bundles.share.vendoring import vendored_sources
from medmixers.networks.timm_peers import token_blocks
from medmixers.networks.token_mlp_mixer import MLPMixer
from medmixers.networks.weights import load_weights, sources

VIT, MIXER = "vit_tiny_patch16_224", "mixer_s32_224"
OWN_MIXER = "medmixers.networks.token_mlp_mixer.MLPMixer"


def token_unet(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return create_network(
        "token_unet", spatial_dims=2, in_channels=1, out_channels=3, channels=(4, 8, 8, 16), **options
    )


def vit_unet(**options: object) -> nn.Module:
    return token_unet(token_dim=192, transformer=f"timm:{VIT}", **options)


def of_timm(name: str) -> nn.Module:
    """A network of timm with random weights everywhere, norms too."""
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_blocks_with_copied_weights_equal_timms_features() -> None:
    network, theirs = vit_unet().eval(), of_timm(VIT)
    report = load_weights(network, theirs.state_dict())
    assert report.format == "timm (Transformer over tokens)"
    assert {key.split(".")[0] for key in report.skipped} == {"cls_token", "pos_embed", "patch_embed", "head"}
    assert report.kept.keys() | set(report.loaded) == network.state_dict().keys()
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        embedded = theirs._pos_embed(theirs.patch_embed(image))
        torch.testing.assert_close(network.transformer(embedded), theirs.forward_features(image))


def test_an_mlp_mixer_of_timm_has_the_tokens_of_the_network() -> None:
    blocks, theirs = token_blocks(MIXER, 512, num_tokens=49).eval(), of_timm(MIXER)
    blocks.load_state_dict({key: value for key, value in theirs.state_dict().items() if key in blocks.state_dict()})
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(blocks(theirs.stem(image)), theirs.forward_features(image))
    network = token_unet(token_dim=512, transformer=f"timm:{MIXER}", num_tokens=5)
    assert network(torch.randn(1, 1, 17, 20)).shape == (1, 3, 17, 20)
    with pytest.raises(ValueError, match=r"has shape \(256, 49\), the Transformer over the tokens \(256, 5\)"):
        load_weights(network, theirs.state_dict())


def test_the_own_mlp_mixer_equals_timms() -> None:
    torch.manual_seed(0)
    own = MLPMixer(64, 6, layers=2)
    theirs = nn.Sequential(*(timm.models.mlp_mixer.MixerBlock(64, 6) for _ in range(2)), nn.LayerNorm(64, eps=1e-6))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), _in_timms_order(own), strict=True)))
    tokens = torch.randn(2, 6, 64)
    torch.testing.assert_close(own(tokens), theirs(tokens))


def _in_timms_order(own: MLPMixer) -> list[torch.Tensor]:
    blocks = [module for block in own.blocks for module in (block.norm1, block.tokens, block.norm2, block.channels)]
    return [value for module in (*blocks, own.norm) for value in module.state_dict().values()]


def test_published_weights_of_the_blocks_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, asked = of_timm(VIT).state_dict(), list[str]()
    monkeypatch.setattr(sources, "_download_from_timm", lambda name: asked.append(name) or theirs)
    network = vit_unet(pretrained=True, transformer_layers=2)
    torch.testing.assert_close(network.transformer.blocks[1].attn.qkv.weight, theirs["blocks.1.attn.qkv.weight"])
    assert len(network.transformer.blocks) == 2
    torch.save({"model": theirs}, tmp_path / "vit.pth")
    report = load_weights(network, tmp_path / "vit.pth")
    assert report.skipped["blocks.2.norm1.weight"] == "a later block"
    load_weights(network, f"timm:{VIT}.augreg_in21k_ft_in1k")
    with pytest.raises(ValueError, match="is 'timm:vit_tiny_patch16_224', and the weights are of 'timm:deit_tiny"):
        load_weights(network, "timm:deit_tiny_patch16_224")
    assert asked == [VIT, f"{VIT}.augreg_in21k_ft_in1k"]
    before = network.state_dict()["transformer.norm.weight"].clone()
    del theirs["norm.bias"]
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the Transformer, the first: 'transformer\.norm\.bias'"):
        load_weights(network, {**theirs, "norm.weight": theirs["norm.weight"] + 1})
    assert torch.equal(network.state_dict()["transformer.norm.weight"], before)
    load_weights(network, vit_unet(transformer_layers=2).state_dict())  # its own names


class Recurrent(nn.GRU):
    """A sequence module of a user."""

    def __init__(self, dim: int, num_tokens: int, *, layers: int = 1) -> None:
        super().__init__(dim, dim, num_layers=layers, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[0]


@pytest.mark.parametrize("name", [OWN_MIXER, f"{__name__}.Recurrent"])
def test_any_sequence_module_stands_in_the_bottleneck(name: str) -> None:
    network = token_unet(transformer=name, transformer_options={"layers": 2}, token_dim=12)
    logits = network(torch.randn(2, 1, 20, 17))
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.transformer.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transformer": f"timm:{VIT}"}, "takes tokens of width 192, got token_dim=16"),
        ({"transformer": "timm:resnet18"}, "must be a ViT or an MLP-Mixer, it is a ResNet"),
        ({"transformer": "timm:vit_tini"}, "unknown network 'timm:vit_tini'; valid: timm:gcvit"),
        ({"transformer": "monai:UNet"}, "has no blocks over tokens; valid: timm:NAME"),
        ({"transformer": "mlp_mixer"}, "cannot be imported.*valid: timm:NAME, or package"),
        ({"transformer": "os.system"}, "'os.system' is no class of torch.nn.Module; valid: timm:NAME, or"),
        ({"transformer": OWN_MIXER, "transformer_layers": 2}, "no option transformer_layers; valid: transformer_opt"),
        ({"transformer": OWN_MIXER, "transformer_options": {"depth": 2}}, "unexpected keyword argument 'depth'"),
        ({"transformer_options": {"layers": 2}}, "no option transformer_options; valid: transformer_layers, trans"),
        ({"transformer": OWN_MIXER, "num_tokens": 0}, "no tokens to process"),
        ({"transformer": f"timm:{VIT}", "token_dim": 192, "transformer_layers": 13}, "has 12 layers, got"),
        ({"transformer": f"timm:{VIT}", "token_dim": 192, "transformer_layers": 0}, "needs at least 1 layer"),
    ],
)
def test_what_cannot_stand_there_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_unet(**options)


@pytest.mark.parametrize(
    ("transformer", "token_dim", "module"),
    [(f"timm:{VIT}", 192, "networks/timm_peers.py"), (OWN_MIXER, 256, "networks/token_mlp_mixer.py")],
)
def test_a_bundle_carries_the_module_that_it_names(
    transformer: str, token_dim: int, module: str, tmp_path: Path
) -> None:
    options = {"network": "token_unet", "transformer": transformer, "token_dim": token_dim}
    bundle = new_bundle("brain_tumor_segmentation", out=tmp_path, **options)
    named = {"networks/timm_peers.py", "networks/token_mlp_mixer.py"}
    assert named & vendored_sources(read_configs(bundle)).keys() == {module}
    assert ("timm" in read_metadata(bundle)["required_packages_version"]) == transformer.startswith("timm:")
