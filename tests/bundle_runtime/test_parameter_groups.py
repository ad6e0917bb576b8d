"""Layer-wise learning rates, against timm's rule on a network with the same stages and blocks."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from monai.optimizers import WarmupCosineSchedule

from medmixers import create_network
from medmixers.bundle_runtime.parameter_groups import parameter_groups

try:
    from timm.optim import param_groups_layer_decay
except ImportError:  # the oldest timm
    from timm.optim.optim_factory import param_groups_layer_decay

DEPTHS = (2, 1, 3, 1)
ONE = {"spatial_dims": 2, "in_channels": 3, "out_channels": 5}
TINY = {"depths": DEPTHS, "dims": (8, 8, 16, 16)}
BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)|stages\.(\d+)\.downsample")


def scales(network: torch.nn.Module, groups: list[dict], key: str) -> dict[str, float]:
    """ "stem", each block, downsampling and "head" -> the only scale of its parameters."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found: dict[str, set[float]] = {}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)].removeprefix("encoder.")
            match = BLOCK.match(name)
            layer = match[0] if match else "stem" if name.startswith("stem") else "head"
            found.setdefault(layer, set()).add(round(group[key], 12))
    assert all(len(values) == 1 for values in found.values())
    return {layer: values.pop() for layer, values in found.items()}


def test_scales_are_timms() -> None:
    """timm's ConvNeXt has a stem, downsamplings, blocks and a head as a MetaFormer has."""
    twin = timm.create_model("convnext_atto", depths=DEPTHS, dims=(8, 8, 16, 16), num_classes=5)
    theirs = scales(twin, param_groups_layer_decay(twin, layer_decay=0.75), "lr_scale")
    theirs["stages.0.downsample"] = theirs["stages.0.blocks.0"]  # timm's first stage has an empty one
    network = create_network("metaformer_s12", **ONE, **TINY, mixer="pooling")
    ours = scales(network, parameter_groups(network, learning_rate=1.0, layer_decay=0.75), "lr")
    assert len(ours) == 1 + sum(DEPTHS) + len(DEPTHS) - 1 + 1
    assert ours == {layer: theirs[layer] for layer in ours}
    assert ours["head"] == 1.0
    # A wrapper puts "module." in front of each name.
    wrapped = parameter_groups(torch.nn.DataParallel(network), learning_rate=1.0, layer_decay=0.75)
    assert [group["lr"] for group in wrapped] == pytest.approx(sorted(set(ours.values())))


@pytest.mark.parametrize(
    ("name", "options", "first", "layers"),
    [
        ("metaformer_segformer_s12", {**TINY, "mixer": "pooling"}, "encoder.stem", 1 + sum(DEPTHS) + 1),
        ("token_unet", {"channels": (8, 8, 8, 8)}, "stem", 9),  # stem, 3 levels, 4 of the transformer, decoder
        ("med_next", {}, "stem", None),
    ],
)
def test_every_parameter_has_one_rate(name: str, options: dict, first: str, layers: int | None) -> None:
    with torch.device("meta"):
        network = create_network(name, **{**ONE, "in_channels": 1}, **options, frozen=(first,))
    groups = parameter_groups(network, learning_rate=0.1, layer_decay=0.5)
    members = [parameter for group in groups for parameter in group["params"]]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(map(id, members)) == sorted(map(id, trained))
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates)
    assert rates[-1] == 0.1
    if layers is not None:
        assert rates[0] == pytest.approx(0.1 * 0.5 ** (layers - 2))  # the stem is frozen, and still counts


def test_the_schedule_keeps_the_ratios_and_none_is_as_before() -> None:
    network = create_network("metaformer_s12", **ONE, **TINY, mixer="pooling")
    assert [id(p) for p in parameter_groups(network, learning_rate=1.0, layer_decay=None)] == [
        id(parameter) for parameter in network.parameters()
    ]
    groups = parameter_groups(network, learning_rate=0.01, layer_decay=0.75)
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    start = [group["lr"] for group in optimizer.param_groups]
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=10, warmup_multiplier=0.1)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    ratios = [group["lr"] / rate for group, rate in zip(optimizer.param_groups, start, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert ratios[0] < 1


@pytest.mark.parametrize("value", [0, 1.5, -1, True, float("nan")])
def test_a_wrong_value_is_named(value: float) -> None:
    network = create_network("metaformer_s12", **ONE, **TINY, mixer="pooling")
    with pytest.raises(ValueError, match="layer_decay must be above 0 and at most 1, got"):
        parameter_groups(network, learning_rate=1.0, layer_decay=value)


def test_a_network_without_layers_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="layer_decay: Linear has no stem and numbered stages"):
        parameter_groups(torch.nn.Linear(2, 2), learning_rate=1.0, layer_decay=0.5)
