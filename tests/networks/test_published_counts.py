"""Every network with a published count, built on the meta device and compared with the printed digits."""

import json
from collections import defaultdict
from decimal import Decimal

import pytest
import torch

from medmixers import create_network
from medmixers.networks.med_blocks import SDFFN
from medmixers.profiling import count_gmacs
from medmixers.results.published import published

COUNTS = ("parameters", "frozen_parameters", "macs")
UNITS = {"1": 1.0, "M": 1e6, "G": 1e9}
FIGURES = published()
BUILDS = defaultdict(list)  # arguments of create_network -> its counts, empty where a paper prints scores only
for _figure in FIGURES:
    if _figure.build is not None:
        BUILDS[json.dumps(_figure.build)] += [_figure] if _figure.quantity in COUNTS else []


def on_meta(build):
    arguments = json.loads(build)
    name = arguments.pop("network")
    with torch.device("meta"):
        return create_network(name, **arguments)


def count(network, figure):
    """The figure's quantity of ``network``, as a plain number."""
    if figure.quantity == "macs":
        image = torch.empty(1, figure.build["in_channels"], *figure.size, device="meta")
        return count_gmacs(network, image) * 1e9
    if figure.quantity == "frozen_parameters":
        return sum(buffer.numel() for buffer in network.buffers())
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def rounds_to(number, printed, unit):
    """Whether ``number`` is within half a unit of the last printed digit."""
    last = 10.0 ** printed.as_tuple().exponent
    return abs(number / UNITS[unit] - float(printed)) <= 0.5 * last * (1 + 1e-9)


def name_of(build):
    arguments = json.loads(build)
    return " ".join([arguments.pop("network"), *(f"{key}={value}" for key, value in arguments.items())])


@pytest.mark.parametrize("build", [build for build, figures in BUILDS.items() if figures], ids=name_of)
def test_published_counts(build):
    network, counted = on_meta(build), {}
    for figure in BUILDS[build]:
        key = figure.quantity, figure.size  # several tables print the same count
        if key not in counted:
            counted[key] = count(network, figure)
        ours = counted[key]
        where = f"{figure.paper}, {figure.where}, {figure.quantity} of {figure.name}: printed {figure.value}, {ours=}"
        if figure.rederived is None:
            assert rounds_to(ours, figure.value, figure.unit), where
        else:
            assert rounds_to(ours, figure.rederived, figure.unit), f"{where}, rederived {figure.rederived}"
            assert not rounds_to(ours, figure.value, figure.unit), f"{where} needs no rederived value"


def test_networks_of_score_tables_can_be_built():
    scored = [build for build, figures in BUILDS.items() if not figures]
    assert scored
    for build in scored:
        on_meta(build)


def test_counts_of_the_papers_own_networks_are_left_out_for_these_reasons_only():
    missing = {f.not_built for f in FIGURES if f.quantity in COUNTS and f.build is None}
    others = {reason for reason in missing if "another paper's" in reason or "around the named backbone" in reason}
    assert {reason.split(";")[0] for reason in missing - others} == {
        "only the head is counted, over a frozen encoder that the caller supplies",
        "a module",
    }


@pytest.mark.parametrize("name", ["unet_star_star", "token_unet"])
def test_shortcuts_in_the_papers_order_cost_what_was_derived(name):
    """The 1x1x1 of a shortcut after the upsampling sees eight times the voxels that it sees in ours."""
    (figure,) = (f for f in FIGURES if f.quantity == "macs" and f.build and f.build["network"] == name)
    after = 256 * 128 * 32**3 + 128 * 64 * 64**3 + 64 * 32 * 128**3
    ours = count(on_meta(json.dumps(figure.build)), figure)
    assert rounds_to(ours + 7 / 8 * after, figure.value, figure.unit)


def test_sdffn_is_smaller_than_the_plain_ffn_by_what_can_be_counted():
    plain, smooth = (f for f in FIGURES if f.where == "SDFFN")
    assert plain.value == 2 * 4 * 512**2
    assert sum(p.numel() for p in SDFFN(512, spatial_dims=2).parameters()) == smooth.rederived != smooth.value
    assert smooth.rederived == Decimal(2 * 512**2 + 9 * 512)
