"""What a process imports to build a network."""

import subprocess
import sys

import pytest

from medmixers import create_network

OURS = {
    "metaformer_s12": {}, "metaformer_segformer_s12": {"mixer": "local_attention"}, "caformer_s18": {},
    "token_unet": {}, "token_unet_released_8": {}, "med_next": {}, "med_unext": {},
}  # fmt: skip
CODE = """
import sys, torch
before = set(sys.modules)
from medmixers import create_network
for name, options in {networks!r}.items():
    create_network(name, spatial_dims=2, in_channels=1, out_channels=2, **options)
print(len(set(sys.modules) - before), *{{name.split(".")[0] for name in sys.modules}})
"""


def imported(networks):
    code = CODE.format(networks=networks)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *names = out.stdout.split()
    return int(count), set(names)


def test_our_networks_import_torch_alone():
    count, names = imported(OURS)
    assert "medmixers" in names
    assert not names & {"monai", "nnunetv2", "timm", "transformers"}
    assert count < 200  # MONAI alone brings thousands of modules


@pytest.mark.parametrize("name", ["unet_tshimanga2026"])
def test_baselines_are_monais(name):
    network = create_network(name, spatial_dims=2, in_channels=1, out_channels=2)
    assert any(type(module).__module__.startswith("monai.networks.") for module in network.modules())
