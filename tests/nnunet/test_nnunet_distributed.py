"""Two gloo ranks train a planned network as nnU-Net does, with and without deep supervision."""

import socket
import subprocess
from pathlib import Path

import pytest
import torch.distributed as dist

import preloaded

RANK = Path(__file__).with_name("two_ranks.py")
NETWORKS = ("metaformer_segformer_s12", "token_unet")
OTHERS = pytest.param(("med_unext", "unet_tshimanga2026"), marks=pytest.mark.slow)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo backend")
@pytest.mark.parametrize("names", [NETWORKS, OTHERS])
def test_two_ranks_stay_equal_in_both_settings(names):
    port = free_port()
    ranks = [subprocess.Popen([preloaded.python(), RANK, str(rank), str(port), *names]) for rank in (0, 1)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
