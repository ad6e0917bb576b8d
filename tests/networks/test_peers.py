"""Networks of MONAI and timm by name: shapes, options, and clear errors."""

from __future__ import annotations

import monai.networks.nets
import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR

from medmixers import create_network, list_networks
from medmixers.errors import InputError
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
        ("monai:SwinUNET", {}, "unknown MONAI network 'SwinUNET'; valid: SwinUNETR"),
        ("timm:convnext_tinny", {}, "timm has no network 'convnext_tinny'; valid: convnext_tiny"),
        ("monai:SwinUNETR", {"feature_sizes": 24}, "has no option 'feature_sizes'; valid: feature_size"),
        ("monai:SwinUNETR", {"feature_size": 25}, "'monai:SwinUNETR' cannot be built: "),
        ("keras:UNet", {}, "unknown network 'keras:UNet'"),
    ],
)
def test_a_wrong_peer_is_named(name, options, message):
    with pytest.raises(InputError) as caught:
        create_network(name, spatial_dims=2, in_channels=1, out_channels=2, **options)
    assert message in str(caught.value)
