"""Class activation against MONAI's classes, and networks whose evidence is known."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from monai.networks.nets import DenseNet121
from monai.visualize import GradCAM, GradCAMpp, OcclusionSensitivity
from torch import Tensor, nn

from medmixers import create_network
from medmixers.errors import InputError
from medmixers.explain.class_activation import ClassScores, class_activation, default_layer, feature_maps

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
METHODS = {"gradcam": GradCAM, "gradcampp": GradCAMpp}


def metaformer(spatial_dims: int, name: str = "metaformer_s12", **options: object) -> nn.Module:
    torch.manual_seed(0)
    given = {"in_channels": 1, "out_channels": 3, "mixer": "grouped_conv", "layer_scale_init": 1.0, **TINY, **options}
    return create_network(name, spatial_dims=spatial_dims, **given).eval()


def activation(network: nn.Module, image: Tensor, *, exclusive: bool = True, **options: object) -> Tensor:
    return class_activation(ClassScores(network, image, exclusive=exclusive).eval(), image, **options).map


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(64, 96), (32, 64, 32)])
def test_a_classifiers_map_is_monais(method: str, size: tuple[int, ...]) -> None:
    network, image = metaformer(len(size)), torch.randn(1, 1, *size)
    for layer in ("encoder.stages.1", "encoder.stages.3"):
        theirs = METHODS[method](metaformer(len(size)), layer, postprocessing=lambda x: x)(image, class_idx=2)
        found = activation(network, image, method=method, label=2, layer=layer)
        torch.testing.assert_close(found, (theirs / theirs.max())[0, 0].detach(), rtol=1e-4, atol=1e-5)


def test_a_network_of_monai_with_activations_in_place() -> None:
    torch.manual_seed(0)
    network, image = DenseNet121(2, 1, 3, init_features=8, growth_rate=4).eval(), torch.randn(1, 1, 64, 64)
    found = activation(network, image, method="gradcam", label=0, layer="class_layers.relu")
    theirs = GradCAM(network, "class_layers.relu", postprocessing=lambda x: x)(image, class_idx=0)
    torch.testing.assert_close(found, (theirs / theirs.max())[0, 0].detach(), rtol=1e-4, atol=1e-5)


def test_a_segmenters_score_is_the_mean_logit_where_it_finds_the_class() -> None:
    network = metaformer(2, "metaformer_segformer_s12")
    image = torch.randn(1, 1, 64, 64)
    scores = ClassScores(network, image, exclusive=True)
    logits = network(image)
    found = logits.argmax(1)[0]
    expected = [logits[0, k][found == k].mean() if (found == k).any() else torch.tensor(0.0) for k in range(3)]
    torch.testing.assert_close(scores(image)[0], torch.stack(expected))
    at = logits.softmax(1)[0, 1][found == 1].mean()
    torch.testing.assert_close(scores.probabilities(image)[0, 1], at)
    overlapping = ClassScores(network, image, exclusive=False)
    torch.testing.assert_close(overlapping(image)[0, 0], logits[0, 0][logits[0, 0] > 0].mean())
    by_hand = GradCAM(scores, "network.norms.3", postprocessing=lambda x: x)(image, class_idx=1)
    given = activation(metaformer(2, "metaformer_segformer_s12"), image, method="gradcam", label=1)
    torch.testing.assert_close(given, (by_hand / by_hand.max())[0, 0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exclusive", [True, False])
def test_occlusion_is_monais_loss_of_probability(exclusive: bool) -> None:
    network, image = metaformer(2, drop_path_rate=0.5), torch.randn(1, 1, 40, 48)
    turn = partial(torch.softmax, dim=1) if exclusive else torch.sigmoid
    hidden, _ = OcclusionSensitivity(network, mask_size=8, verbose=False, activate=turn)(image)
    expected = turn(network(image))[0, 1] - hidden[0, 1]
    found = activation(network, image, exclusive=exclusive, method="occlusion", label=1, mask_size=8)
    torch.testing.assert_close(found, expected.detach().as_subclass(Tensor), rtol=1e-4, atol=1e-6)


class Corner(nn.Module):
    """The evidence for class 1 is what is bright in the first corner; that for class 0 a constant."""

    def __init__(self, spatial_dims: int, *, segments: bool) -> None:
        super().__init__()
        self.features = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims](1, 1, 2, stride=2, bias=False)
        nn.init.constant_(self.features.weight, 1.0)
        self.segments = segments

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        corner = torch.zeros_like(y)
        corner[(..., *(slice(0, size // 4) for size in y.shape[2:]))] = 1
        evidence = (y * corner).flatten(1).mean(1, keepdim=True)
        logits = torch.cat([torch.zeros_like(evidence) + 1e-3, evidence], 1)
        return logits[(..., *[None] * (x.ndim - 2))].expand(-1, -1, *x.shape[2:]) if self.segments else logits


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("method", ["gradcampp", "occlusion"])
@pytest.mark.parametrize("size", [(32, 48), (16, 24, 16)])
def test_evidence_in_a_corner_is_found_there(segments: bool, method: str, size: tuple[int, ...]) -> None:
    network, image = Corner(len(size), segments=segments).eval(), torch.full((1, 1, *size), 0.5)
    image[(0, 0, *(slice(0, extent // 4) for extent in size))] = 1.0
    options = {"mask_size": 4} if method == "occlusion" else {}
    found = activation(network, image, method=method, label=1, **options)
    if method == "occlusion":  # hiding the corner costs, hiding other places does not
        inside = [extent // 4 + 4 for extent in size]
        outside = found.clone()
        outside[tuple(slice(0, extent) for extent in inside)] = 0
        assert outside.abs().max() < 1e-6
        assert found.max() > 1e-4
    place = [int(index) for index in torch.unravel_index(found.argmax(), found.shape)]
    assert all(index < extent // 4 for index, extent in zip(place, size, strict=True))


def test_the_layer_by_default() -> None:
    image = torch.randn(1, 1, 64, 64)
    token_unet = create_network("token_unet", spatial_dims=2, in_channels=1, out_channels=2, channels=(4, 8, 8, 16))
    for network, is_segmenter, expected in (
        (metaformer(2), False, ("norm", (2, 2))),
        (metaformer(2, "metaformer_segformer_s12"), True, ("norms.3", (2, 2))),
        (token_unet.eval(), True, ("token_fuser", (8, 8))),
    ):
        maps = feature_maps(network, image)
        name = default_layer(maps, is_segmenter=is_segmenter)
        assert (name, maps[name].grid) == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:vit_tiny_patch16_224", {"input_size": (64, 64)}, "'network.patch_embed.proj', has 99% of the network"),
        ("monai:ViT", {"input_size": (64, 64), "num_layers": 2}, "after it; use --method occlusion"),
        # its attention matrices of 4 x 4 and its maps with channels last are no feature maps
        ("timm:swin_tiny_patch4_window7_224", {"input_size": (64, 64)}, "'network.patch_embed.proj', has 100%"),
    ],
)
def test_a_transformer_over_a_sequence_has_no_feature_map(name: str, options: dict[str, object], message: str) -> None:
    network = create_network(name, spatial_dims=2, in_channels=1, out_channels=3, **options).eval()
    with pytest.raises(InputError, match=message):
        activation(network, torch.randn(1, 1, 64, 64), method="gradcam", label=0)


def test_what_cannot_be_explained_is_named() -> None:
    network, image = metaformer(2, "metaformer_segformer_s12"), torch.randn(1, 1, 64, 64)
    network.decoder.seg_layers[0].bias.data[:] = torch.tensor([100.0, 0, 0])
    classifier = metaformer(2)
    for given, options, message in (
        (network, {"method": "gradcam", "label": 2}, "finds class 2 nowhere in the window"),
        (classifier, {"method": "cam", "label": 0}, "must be one of gradcam, gradcampp, occlusion"),
        (
            classifier,
            {"method": "gradcam", "label": 0, "layer": "head"},
            "no feature map 'head'; the last ones: .*norm",
        ),
        (classifier, {"method": "gradcam", "label": 0, "mask_size": 8}, "gradcam has no --mask_size"),
        (classifier, {"method": "occlusion", "label": 0, "layer": "norm"}, "occlusion has no --layer"),
        (classifier, {"method": "occlusion", "label": 0, "mask_size": 65}, "must be from 1 to 64"),
    ):
        with pytest.raises(InputError, match=message):
            activation(given, image, **options)
    with torch.no_grad():  # evidence against the class only
        classifier.head.weight.zero_()
    with pytest.raises(InputError, match="holds no evidence for class 0"):
        activation(classifier, image, method="gradcam", label=0)
