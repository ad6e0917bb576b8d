"""What create_network refuses before a network is silently another one."""

import math
import re

import pytest
import torch

from medmixers import create_network
from medmixers.errors import InputError
from medmixers.networks.weights import load_weights

SMALL = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "depths": (1, 1, 1, 1), "dims": (16, 16, 16, 16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": ""}, "pretrained must be a weights file, \"timm:NAME\", True or None, got ''"),
        ({"pretrained": 3}, "True or None, got 3"),
        ({"warm_start": "no"}, "warm_start must be True or False, got 'no'"),
        ({"activation_checkpointing": "False"}, "activation_checkpointing must be True or False, got 'False'"),
        (
            {"mixer": "global_attention", "mixer_options": {"head_dim": "16"}},
            "token mixer 'global_attention': head_dim must be an integer, got '16'",
        ),
        (
            {"mixer": ("pooling", "pooling", "state_space", "pooling"), "mixer_options": {"state_size": 2.5}},
            "state_size must be an integer",
        ),
        (
            {"mixer": "random_mixing", "input_size": (32, 32), "mixer_options": {"stored": "no"}},
            "token mixer 'random_mixing': stored must be True or False or None, got 'no'",
        ),
    ],
)
def test_values_of_another_type_are_one_clear_line(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        create_network("metaformer_segformer_s12", **SMALL, **options)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = create_network("metaformer_segformer_s12", **SMALL).state_dict()
    torch.save(state, tmp_path / "sound.pt")
    name = "encoder.stages.1.blocks.0.norm1.weight"
    torch.save(state | {name: state[name] * math.nan}, tmp_path / "broken.pt")
    create_network("metaformer_segformer_s12", **SMALL, pretrained=tmp_path / "sound.pt")
    with pytest.raises(InputError, match=rf"broken\.pt' holds NaN or infinity in 1 tensors, '{re.escape(name)}'"):
        create_network("metaformer_segformer_s12", **SMALL, pretrained=tmp_path / "broken.pt")
    with pytest.raises(InputError, match=r"^the state dict holds NaN or infinity in 1 tensors"):
        load_weights(create_network("metaformer_segformer_s12", **SMALL), state | {name: state[name] * math.inf})
