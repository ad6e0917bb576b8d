"""A rank of test_nnunet_distributed.py: ``two_ranks.py RANK PORT NETWORK...``"""

import sys

import torch
import torch.distributed as dist
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medmixers.nnunet.architecture import create_network_from_plans, plans_architecture
from medmixers.nnunet.trainer import plain_network

TINY = {"depths": [1, 1, 1, 1], "dims": [16, 16, 16, 16], "decoder_channels": 8, "mixer": "pooling"}
NETWORKS = {
    "metaformer_segformer_s12": TINY,
    "token_unet": {"channels": [4, 8, 16], "transformer_heads": 4},
    "med_unext": {"channels": [4, 6, 8, 8, 8], "med_depth": 1},
    "unet_tshimanga2026": {},
}
SIZE = [64, 32]


def train(rank: int, port: int, *names: str) -> None:
    """Three steps of every network in both settings; an unused trainable parameter would stop the second."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name in names:
        row, _ = plans_architecture(name, patch_size=SIZE, pools=[[1, 1]] + [[2, 2]] * 5, options=NETWORKS[name])
        for supervised in (True, False):
            torch.manual_seed(0)
            network = DistributedDataParallel(
                create_network_from_plans(1, 2, deep_supervision=supervised, **row["arch_kwargs"])
            )
            loss: nn.Module = nn.CrossEntropyLoss()
            if supervised:
                scales = len(row["arch_kwargs"]["strides"]) - 1
                weights = [0.5**i for i in range(scales - 1)] + [1e-6]  # nnUNetTrainer._build_loss under DDP
                loss = DeepSupervisionWrapper(loss, weights)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
            torch.manual_seed(rank)
            for _ in range(3):
                optimizer.zero_grad()
                outputs = network(torch.randn(2, 1, *SIZE))
                assert isinstance(outputs, list) == supervised
                target = [torch.randint(2, (2, *o.shape[2:])) for o in (outputs if supervised else [outputs])]
                loss(outputs, target if supervised else target[0]).backward()
                optimizer.step()
            weights = torch.cat([p.detach().flatten() for p in plain_network(network).parameters()])
            both = [torch.empty_like(weights) for _ in range(2)]
            dist.all_gather(both, weights)
            assert torch.equal(*both), f"{name}: the ranks differ"
            assert torch.isfinite(weights).all()
    dist.destroy_process_group()


if __name__ == "__main__":
    train(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
