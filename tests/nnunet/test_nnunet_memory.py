"""The count of a training step's memory: against nnU-Net's own estimate, and against tensors that exist."""

import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from torch import nn

from medmixers import create_network
from medmixers.kernels import tile_attention as tiles
from medmixers.nnunet.memory import training_memory


def stock_unet(spatial_dims, stages):
    """What ExperimentPlanner plans for an isotropic patch."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    widest = {2: 512, 3: 320}[spatial_dims]
    return PlainConvUNet(
        1, stages, [min(32 * 2**i, widest) for i in range(stages)],
        {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims], 3, [1] + [2] * (stages - 1), [2] * stages, 3, [2] * (stages - 1),
        conv_bias=True, norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[spatial_dims],
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "stages", "batch_size", "reference", "reference_batch"),
    [((128, 128, 128), 6, 2, 560_000_000, 2), ((512, 512), 8, 12, 85_000_000, 12)],  # ExperimentPlanner.__init__
)
def test_the_count_agrees_with_nnunets_for_its_own_network(size, stages, batch_size, reference, reference_batch):
    source = ExperimentPlanner.__init__.__code__.co_consts
    assert reference in source
    assert reference_batch in source
    network = stock_unet(len(size), stages)
    theirs = 8 * network.compute_conv_feature_map_size(size) / reference * batch_size / reference_batch
    ours = training_memory(lambda: network.to("meta"), 1, size).gib(batch_size)
    assert ours == pytest.approx(theirs, rel=0.12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("metaformer_segformer_s12", {"mixer": "pooling", "depths": (1, 1), "dims": (16, 32)}),
        (
            "metaformer_segformer_s12",
            {"mixer": "local_attention", "kernel_size": 3, "depths": (1, 1), "dims": (16, 32)},
        ),
        ("token_unet", {"channels": (4, 8), "transformer_heads": 4}),
    ],
)
def test_the_meta_device_counts_what_a_step_keeps(name, options, monkeypatch):
    monkeypatch.setattr(tiles, "is_eager_on_cpu", lambda *tensors: False)  # all windows at once, as on a GPU

    def build():
        return create_network(name, spatial_dims=3, in_channels=1, out_channels=3, **options)

    size = (16, 16, 24)
    network, kept = build().train(), {}
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(1, 1, *size))
    real = sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in own)
    memory = training_memory(build, 1, size)
    assert memory.sample == pytest.approx(real, rel=0.02)
    assert memory.fixed == 16 * sum(p.numel() for p in network.parameters())


def test_attention_is_counted_as_a_fused_kernel_and_a_random_matrix_in_full():
    options = {"depths": (1,), "dims": (16,), "stem_stride": 1}

    def memory(mixer, edge, **more):
        def build():
            return create_network(
                "metaformer_segformer_s12",
                spatial_dims=2,
                in_channels=1,
                out_channels=2,
                mixer=mixer,
                **options,
                **more,
            )

        return training_memory(build, 1, (edge, edge))

    assert memory("global_attention", 64).sample == pytest.approx(4 * memory("global_attention", 32).sample, rel=0.02)
    matrix = memory("random_mixing", 32, input_size=(32, 32)).fixed - memory("identity", 32).fixed
    assert matrix == 4 * 32**4 + 8  # float32, tokens squared, and the seed
