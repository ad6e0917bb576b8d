"""RAD-DINO's heads over a small random ViT: published counts, each step against plain algebra, what stays frozen."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_vit import TinyViT
from torch import nn
from torch.nn import functional as F

from medmixers import create_network
from medmixers.networks.rad_dino import CosineHead, RadDinoClassifier

NAMES = ("rad_dino_classifier", "rad_dino_segformer")


def build(name, *, in_channels=1, out_channels=3, encoder=None, seed=0, **options):
    torch.manual_seed(seed)
    return create_network(
        name,
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        encoder=encoder or TinyViT(),
        **options,
    )


def trainable(network):
    return {key: p for key, p in network.named_parameters() if p.requires_grad}


def prepared(image, side, size):
    """(C, H, W) -> (1, 3, size, size), a voxel at a time: half-voxel centres, four neighbours, the edge repeated."""
    square = torch.zeros(image.shape[0], side, side)
    square[:, : image.shape[1], : image.shape[2]] = image
    at = ((torch.arange(size) + 0.5) * side / size - 0.5).clamp(0, side - 1)
    low = at.long()
    high = (low + 1).clamp(max=side - 1)
    part = at - low
    rows = square[:, low] * (1 - part)[:, None] + square[:, high] * part[:, None]
    out = rows[:, :, low] * (1 - part) + rows[:, :, high] * part
    return out.expand(3, -1, -1)[None]


@pytest.mark.parametrize(
    ("name", "out_channels", "millions"),
    [("rad_dino_classifier", 9, 2.10), ("rad_dino_segformer", 5, 1.05)],  # printed 2.1 and 1.1
)
def test_published_counts_are_of_what_trains(name, out_channels, millions):
    with torch.device("meta"):
        vit = TinyViT(hidden_size=768, layers=4)
        network = build(name, in_channels=3, out_channels=out_channels, encoder=vit)
    assert round(sum(p.numel() for p in trainable(network).values()) / 1e6, 2) == millions
    assert not [key for key in trainable(network) if key.startswith("encoder.")]


@pytest.mark.parametrize("size", [(28, 28), (20, 13), (40, 57)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_classifier_written_out(size, in_channels):
    network = build("rad_dino_classifier", in_channels=in_channels)
    with torch.no_grad():
        network.head.classify.parametrizations.weight.original0.uniform_(0.5, 2)
    x = torch.randn(2, in_channels, *size)
    head = network.head
    for b in range(2):
        token = network.encoder(prepared(x[b], max(size), 28)).last_hidden_state[0, 0]
        hidden = F.gelu(head.fc1.weight @ token + head.fc1.bias)
        bottleneck = head.fc2.weight @ hidden + head.fc2.bias
        parts = head.classify.parametrizations.weight
        rows = parts.original0 * parts.original1 / parts.original1.norm(dim=1, keepdim=True)
        expected = rows @ bottleneck / bottleneck.norm()
        torch.testing.assert_close(network(x)[b], expected, rtol=1e-4, atol=1e-5)


def test_logits_start_as_cosines():
    head = CosineHead(16, 5)
    with torch.no_grad():
        head.classify.parametrizations.weight.original1.mul_(3)
        bottleneck = torch.randn(4, 256)
        head.fc1, head.act, head.fc2 = nn.Identity(), nn.Identity(), nn.Identity()
        expected = F.cosine_similarity(bottleneck[:, None], head.classify.weight[None], dim=-1)
        torch.testing.assert_close(head(bottleneck), expected)


@pytest.mark.parametrize("size", [(28, 28), (20, 13), (1, 57)])
def test_segformer_written_out(size):
    network = build("rad_dino_segformer")
    side = max(size)
    x = torch.randn(2, 1, *size)
    logits = network(x)
    assert logits.shape == (2, 3, *size)
    decoder = network.decoder
    for b in range(2):
        state = network.encoder(prepared(x[b], side, 28), output_hidden_states=True).hidden_states
        assert len(state) == 6
        maps = [network.encoder.layernorm(layer)[:, 1:].mT.reshape(1, 16, 4, 4) for layer in state[2:]]
        joined = torch.cat([project(features) for project, features in zip(decoder.projections, maps, strict=True)], 1)
        coarse = decoder.seg_layers[0](F.gelu(decoder.norm(decoder.fuse(joined))))
        expected = F.interpolate(coarse, (side, side), mode="bilinear")[0, :, : size[0], : size[1]]
        torch.testing.assert_close(logits[b], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_stays_as_it_was(name):
    network = build(name).train()
    assert network.training
    assert not any(module.training for module in network.encoder.modules())
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    x = torch.randn(2, 1, 30, 20)
    assert torch.equal(network(x), network(x))  # the encoder's dropout is off
    network(x).square().mean().backward()
    optimizer.step()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("encoder."), key
    assert all(p.grad is None for p in network.encoder.parameters())
    x.requires_grad_()
    network(x).sum().backward()
    assert x.grad.abs().sum() > 0  # saliency maps need it


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_the_encoder_too(name):
    network, other = build(name), build(name, seed=1)
    x = torch.randn(2, 1, 20, 31)
    assert not torch.allclose(network(x), other(x))
    other.load_state_dict(network.state_dict(), strict=True)
    torch.testing.assert_close(other(x), network(x))


@pytest.mark.parametrize("name", NAMES)
def test_compiles_exports_and_runs_in_bfloat16(name):
    network = build(name).eval()
    x = torch.randn(1, 1, 30, 20)
    with torch.no_grad():
        expected = network(x)
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(network, (x,)).module()
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs medmixers[rad-dino]")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_attention_heads=3, num_hidden_layers=6, image_size=70, layerscale_value=0.5
    )
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    given, loaded = build(name, encoder=model), build(name, encoder=str(tmp_path))
    outputs = []
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    x = torch.randn(2, 1, 50, 33)
    torch.testing.assert_close(dict(loaded.encoder.state_dict()), dict(given.encoder.state_dict()))
    logits = given(x)
    layers = [output[0] if isinstance(output, tuple) else output for output in outputs][-4:]
    with torch.no_grad():
        if name == "rad_dino_classifier":
            expected = given.head(model.layernorm(layers[-1])[:, 0])
        else:
            maps = [model.layernorm(layer)[:, 1:].mT.reshape(2, 24, 5, 5) for layer in layers]
            expected = F.interpolate(given.decoder(maps), (50, 50), mode="bilinear")[..., :33]
    torch.testing.assert_close(logits, expected)
    with torch.device("meta"):
        assert build(name, encoder=str(tmp_path)).encoder.device.type == "meta"


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needed to load 'microsoft/rad-dino': pip install 'medmixers\[rad-dino\]'"):
        RadDinoClassifier(2, 1, 2)

    def fail(source):
        raise RuntimeError("no route to the hub\nand more")

    stand_in = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=fail))
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    message = r"^transformers could not load 'here' \(no route to the hub\); fetch it elsewhere and give its folder$"
    with pytest.raises(OSError, match=message):
        build("rad_dino_segformer", encoder="here")


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="RAD-DINO takes 2D images: spatial_dims must be 2, got 3"):
        create_network("rad_dino_segformer", spatial_dims=3, in_channels=1, out_channels=2)
    with pytest.raises(ValueError, match="in_channels must be 1 or 3, got 4"):
        RadDinoClassifier(2, 4, 2)
    with pytest.raises(ValueError, match=r"patch_size, num_hidden_layers, as transformers.*; got Identity"):
        RadDinoClassifier(2, 1, 2, encoder=nn.Identity())
    with pytest.raises(
        ValueError,
        match="no option 'decoder_channels'; valid: hidden_channels, bottleneck_channels, encoder",
    ):
        build("rad_dino_classifier", decoder_channels=3)
    with pytest.raises(ValueError, match=r"expected an image of shape \(B, 1, H, W\).*got shape \(1, 3, 20, 20\)"):
        build("rad_dino_classifier")(torch.randn(1, 3, 20, 20))
    with pytest.raises(ValueError, match="at least 4 layers, got 3"):
        build("rad_dino_segformer", encoder=TinyViT(layers=3))
