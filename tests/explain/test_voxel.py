"""Attention of one voxel and effective receptive fields, against their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import pytest
import torch
from torch import Tensor, nn

from medmixers import create_network
from medmixers.errors import InputError
from medmixers.explain.case import Case, in_case, window_around
from medmixers.explain.mixer_attention import attention_rows, block_attention
from medmixers.explain.receptive_field import reach, receptive_field
from medmixers.mixers.build import create_mixer
from medmixers.networks.metaformer import MetaFormerEncoder

MIXERS = [
    ("local_attention", {"kernel_size": 3, "full_attention_tokens": 0}),
    ("local_attention", {"full_attention_tokens": 10**6}),
    ("dilated_attention", {"kernel_size": 3, "dilation": 2}),
    ("global_attention", {"feature_size": True}),
]


@pytest.mark.parametrize(("name", "options"), MIXERS)
@pytest.mark.parametrize("size", [(5, 7), (4, 5, 6)])
@torch.no_grad()
def test_the_rows_give_the_mixers_output(name: str, options: dict[str, object], size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    if "feature_size" in options:
        options = {"feature_size": size}
    mixer = create_mixer(name, 32, spatial_dims=len(size), **options)
    x, position = torch.randn(1, 32, *size), tuple(extent - 2 for extent in size)
    embedding = getattr(mixer, "pos_embedding", None)
    if embedding is not None:
        embedding.normal_()
    rows = attention_rows(mixer, x, position)
    assert rows.shape == (2, *size)
    torch.testing.assert_close(rows.flatten(1).sum(1), torch.ones(2))
    given = x if embedding is None else x + embedding
    values = mixer.qkv(given.movedim(1, -1)).chunk(3, -1)[2][0].unflatten(-1, (2, 16))
    mixed = torch.einsum("h...,...hd->hd", rows, values).flatten()
    torch.testing.assert_close(mixer.proj(mixed), mixer(x)[(0, slice(None), *position)], rtol=1e-4, atol=1e-5)


def hybrid(spatial_dims: int, mixer: Sequence[str]) -> nn.Module:
    torch.manual_seed(0)
    return create_network(
        "metaformer_segformer_s12", spatial_dims=spatial_dims, in_channels=1, out_channels=3, depths=(1, 1, 2, 1),
        dims=(16, 16, 16, 16), mixer=mixer, layer_scale_init=1.0,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("size", [(64, 41), (32, 36, 29)])
def test_every_block_that_attends_is_recorded(size: tuple[int, ...]) -> None:
    network = hybrid(len(size), ("pooling", "local_attention", "dilated_attention", "global_attention"))
    image = torch.randn(1, 1, *size)
    found = block_attention(network, image, [extent - 1 for extent in size])
    assert [block.block for block in found] == [
        "stage 2, block 1", "stage 3, block 1", "stage 3, block 2", "stage 4, block 1",
    ]  # fmt: skip
    for block, stride in zip(found, (8, 16, 16, 32), strict=True):
        assert block.grid == tuple(-(-extent // stride) for extent in size)
        assert block.weights.shape == size
        assert block.weights.min() >= 0
    assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(InputError, match="no block with attention as its token mixer"):
        block_attention(hybrid(len(size), ("pooling",) * 4), image, (0,) * len(size))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_receptive_field_of_a_convolution_is_its_kernel(spatial_dims: int) -> None:
    torch.manual_seed(0)
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims](2, 1, 5, padding=2)
    position = (6, 4, 5)[:spatial_dims]
    field = receptive_field(conv, torch.randn(1, 2, *(12, 9, 10)[:spatial_dims]), position)
    inside = field[tuple(slice(place - 2, place + 3) for place in position)]
    kernel = conv.weight[0].abs().sum(0)
    torch.testing.assert_close(inside / inside.sum(), (kernel / kernel.sum()).detach())
    assert field.mean().item() == pytest.approx(1, rel=1e-5)
    assert inside.sum().item() == pytest.approx(field.sum().item(), rel=1e-5)
    assert reach(field, position, (1e-9, 0.9999999)) == [0, 2]


class LastStage(nn.Module):
    """The coarsest map of an encoder without norms, which would couple all voxels."""

    def __init__(self, spatial_dims: int, mixer: str, kernel_size: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = MetaFormerEncoder(
            spatial_dims, 1, depths=(1, 1, 1, 1), dims=(4, 4, 4, 4), mixer=mixer, kernel_size=kernel_size,
            norm="none", layer_scale_init=None,
        ).eval()  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[-1]


@pytest.mark.parametrize(
    ("mixer", "kernel_size", "width"), [("identity", None, 63), ("grouped_conv", 3, 63 + 8 + 16 + 32)]
)
def test_the_receptive_field_of_a_metaformer_is_that_of_its_convolutions(
    mixer: str, kernel_size: int | None, width: int
) -> None:
    # stem 7 at stride 4, then kernels of 3 at strides of 4, 8 and 16 voxels; a mixer of kernel 3 adds 2 cells per stage
    size, position = 8 * 32, 4
    field = receptive_field(LastStage(2, mixer, kernel_size), torch.randn(1, 1, size, size), (position, position))
    rows = field.sum(1).nonzero().flatten()
    width += 64 * (mixer != "identity")  # the last stage
    assert rows.max() - rows.min() + 1 <= width
    assert rows.max() - rows.min() + 1 > width - 8
    assert (rows.max() + rows.min()) / 2 == pytest.approx(32 * position, abs=4)


def test_the_reach_of_a_known_field() -> None:
    field = torch.zeros(9, 9)
    field[4, 4], field[4, 6], field[1, 4] = 50, 45, 5
    assert reach(field, (4, 4), (0.5, 0.95, 0.99)) == [0, 2, 3]


class PlainCase(Case):
    def place(self, voxel: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        return voxel[0], tuple(voxel[1:])

    def on_file(self, maps: Tensor) -> nib.Nifti1Image:
        raise NotImplementedError


@pytest.mark.parametrize("window", [(4, 4), (30, 6), (21, 17)])
@pytest.mark.parametrize("voxel", [(0, 0, 0), (1, 19, 16), (1, 9, 3)])
def test_a_window_is_cut_and_put_back(window: tuple[int, ...], voxel: tuple[int, ...]) -> None:
    image = torch.rand(2, 3, 20, 17) + 1
    case = PlainCase(nn.Identity(), image, window, ())
    cut = window_around(case, voxel)
    assert cut.image.shape == (1, 3, *window)
    entry, *place = voxel
    assert torch.equal(cut.image[(0, slice(None), *cut.position)], image[(entry, slice(None), *place)])
    back = in_case(case, cut, cut.image[0])
    assert torch.equal(back[back > 0], image[back > 0])
    assert (back > 0).sum() == (cut.image > 0).sum() == 3 * min(20, window[0]) * min(17, window[1])
    assert not back[1 - entry].any()
