"""Networks of MONAI, nnU-Net and timm by name: shapes, options, and clear errors."""

from __future__ import annotations

import monai.networks.nets
import pytest
import timm
import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from medmixers import create_network, list_networks
from medmixers.errors import InputError
from medmixers.networks.weights import load_weights
from medmixers.nnunet.architecture import create_network_from_plans
from medmixers.registry import locate, option_names
from medmixers.variants import MONAI_CLASSIFICATION, MONAI_SEGMENTATION, NETWORKS


@pytest.mark.parametrize("name", ["BasicUNetPlusPlus", "DynUNet", "SegResNet", "UNETR", "UNet", "ViT", "resnet18"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_peer_maps_images_of_any_size_to_logits(name, spatial_dims):
    row = NETWORKS[f"monai:{name}"]
    size = (48, 32, 48)[:spatial_dims] if row.size_bound else (33, 20, 40)[:spatial_dims]
    with torch.device("meta"):
        options = {"input_size": size} if row.size_bound else {}
        network = create_network(
            f"monai:{name}", spatial_dims=spatial_dims, in_channels=2, out_channels=3, **options
        ).eval()
        logits = network(torch.empty(1, 2, *size))
    assert logits.shape == (1, 3, *(size if row.task == "segmentation" else ()))


def test_a_peer_is_the_network_of_its_library():
    """The same weights give the same logits as MONAI's own class."""
    torch.manual_seed(0)
    ours = create_network("monai:SwinUNETR", spatial_dims=2, in_channels=1, out_channels=2, feature_size=12).eval()
    torch.manual_seed(0)
    theirs = SwinUNETR(1, 2, feature_size=12, spatial_dims=2).eval()
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=0)


@pytest.mark.parametrize("name", [*MONAI_SEGMENTATION, *MONAI_CLASSIFICATION])
def test_every_named_peer_exists(name):
    assert hasattr(monai.networks.nets, name)
    options = option_names(locate(NETWORKS[f"monai:{name}"].target))
    assert set(MONAI_SEGMENTATION.get(name, {})) <= set(options)
    assert not {"in_channels", "out_channels", "spatial_dims", "pretrained"} & set(options)


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_tiny_patch16_224"])
def test_a_classifier_of_timm_takes_any_size_it_is_built_for(name):
    network = create_network(f"timm:{name}", spatial_dims=2, in_channels=1, out_channels=5, input_size=(64, 64)).eval()
    assert network(torch.rand(2, 1, 64, 64)).shape == (2, 5)


def test_the_names_of_timm_are_read_without_it():
    """The oracle is timm's own list."""
    assert NETWORKS.libraries["timm"].names() == set(timm.list_models())


@pytest.mark.parametrize("name", sorted(NETWORKS.libraries["nnunet"].names()))
def test_a_network_of_nnunet_is_the_one_that_its_plans_name(name):
    """Equal start weights and logits as of nnU-Net's own builder, and the image's size whatever that is."""
    counts = {"n_conv_per_stage": [2] * 3} if name == "PlainConvUNet" else {"n_blocks_per_stage": [1, 3, 4]}
    plans = {
        **{"n_stages": 3, "features_per_stage": [32, 64, 128], "conv_op": "torch.nn.modules.conv.Conv2d"},
        **{"kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 1]], "conv_bias": True},
        **{"n_conv_per_stage_decoder": [2 if name == "PlainConvUNet" else 1] * 2, **counts},
        **{"norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d", "norm_op_kwargs": {"eps": 1e-5, "affine": True}},
        **{"dropout_op": None, "dropout_op_kwargs": None},
        **{"nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
    }
    torch.manual_seed(0)
    imported = ("conv_op", "norm_op", "dropout_op", "nonlin")
    path = f"dynamic_network_architectures.architectures.unet.{name}"
    theirs = get_network_from_plans(path, plans, imported, 1, 2, deep_supervision=False)
    torch.manual_seed(0)
    ours = create_network(
        f"nnunet:{name}", spatial_dims=2, in_channels=1, out_channels=2, strides=((1, 1), (2, 2), (2, 1))
    )
    assert {f"network.{key}" for key in theirs.state_dict()} == set(ours.state_dict())
    image = torch.rand(1, 1, 16, 32)
    torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=0)
    assert ours(image[..., :13, :7]).shape == (1, 2, 13, 7)
    frozen = {key for key, value in ours.named_parameters() if not value.requires_grad}
    assert frozen == {"network.decoder.seg_layers.0.weight", "network.decoder.seg_layers.0.bias"}


def test_a_peer_loads_the_weights_of_its_library(tmp_path):
    """Under the library's names, in an nnU-Net checkpoint too; other image channels and classes are adapted to."""
    options = {"spatial_dims": 2, "features_per_stage": (4, 8), "strides": (1, 2)}
    source = create_network("nnunet:PlainConvUNet", in_channels=1, out_channels=2, **options)
    torch.save({"network_weights": source.network.state_dict()}, tmp_path / "checkpoint_final.pth")
    file = tmp_path / "checkpoint_final.pth"
    same = create_network("nnunet:PlainConvUNet", in_channels=1, out_channels=2, pretrained=file, **options)
    torch.testing.assert_close(same.state_dict(), source.state_dict(), rtol=0, atol=0)
    other = create_network("nnunet:PlainConvUNet", in_channels=2, out_channels=5, **options)
    report = load_weights(other, file, other_classes=True)
    assert {key.rpartition(".")[0] for key in report.kept} == {"network.decoder.seg_layers.0"}
    assert len(report.loaded) + len(report.adapted) + len(report.kept) == len(other.state_dict())
    theirs = timm.create_model("resnet10t", in_chans=3, num_classes=7)
    ours = create_network("timm:resnet10t", spatial_dims=2, in_channels=3, out_channels=7).eval()
    load_weights(ours, theirs.state_dict())
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(image), theirs.eval()(image), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "millions"), [("PlainConvUNet", 31), ("ResidualEncoderUNet", 102)])
def test_a_network_of_nnunet_has_six_stages_by_default(name, millions):
    with torch.device("meta"):
        network = create_network(f"nnunet:{name}", spatial_dims=3, in_channels=4, out_channels=3)
        assert round(sum(weight.numel() for weight in network.parameters()) / 1e6) == millions
        assert network(torch.randn(1, 4, 32, 32, 64)).shape == (1, 3, 32, 32, 64)


def test_checkpointing_of_nnunets_blocks_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = create_network(
            "nnunet:ResidualEncoderUNet", spatial_dims=2, in_channels=1, out_channels=2, strides=(1, 2, 2),
            features_per_stage=(4, 8, 8), activation_checkpointing=checkpointing,
        ).train()  # fmt: skip
        network(torch.ones(2, 1, 16, 16)).square().sum().backward()
        gradients.append([value.grad for value in network.parameters() if value.requires_grad])
    torch.testing.assert_close(*gradients)


def test_a_peer_trains_in_nnunet_and_is_not_listed():
    """nnU-Net's deep supervision gets the logits at full and at half size."""
    strides = [[1, 1], [2, 2], [16, 16]]
    network = create_network_from_plans(
        1,
        2,
        deep_supervision=True,
        name="monai:UNet",
        spatial_dims=2,
        strides=strides,
        channels=(4, 8),
        **{"num_res_units": 0},
    ).train()
    outputs = network(torch.rand(1, 1, 64, 64))
    assert [tuple(output.shape) for output in outputs] == [(1, 2, 64, 64), (1, 2, 32, 32)]
    assert not any(":" in name for name in list_networks())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("monai:SwinUNET", {}, "unknown network 'monai:SwinUNET'; valid: monai:SwinUNETR, "),
        ("timm:convnext_tinny", {}, "unknown network 'timm:convnext_tinny'; valid: timm:convnext_tiny, "),
        ("nnunet:PlainConvUnet", {}, "unknown network 'nnunet:PlainConvUnet'; valid: nnunet:PlainConvUNet, "),
        ("convnext_tiny", {}, "unknown network 'convnext_tiny'; valid: timm:convnext_tiny, "),
        ("timm:convnext_tiny", {"depth": 3}, "network 'timm:convnext_tiny' has no option 'depth'; valid: drop_path"),
        ("nnunet:PlainConvUNet", {"stride": 2}, "network 'nnunet:PlainConvUNet' has no option 'stride'; valid: str"),
        ("nnunet:PlainConvUNet", {"features_per_stage": (8,)}, "'nnunet:PlainConvUNet' cannot be built: features_per"),
        ("monai:SwinUNETR", {"feature_sizes": 24}, "has no option 'feature_sizes'; valid: feature_size"),
        ("monai:SwinUNETR", {"feature_size": 25}, "'monai:SwinUNETR' cannot be built: "),
        ("keras:UNet", {}, "unknown network 'keras:UNet'; valid: monai:NAME, nnunet:NAME, timm:NAME, or a name of"),
    ],
)
def test_a_wrong_peer_is_named(name, options, message):
    with pytest.raises(InputError) as caught:
        create_network(name, spatial_dims=2, in_channels=1, out_channels=2, **options)
    assert message in str(caught.value)
