"""Tokens on an image: TokenFuser's maps, near-copies, and soft Dice against labels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from PIL import Image
from torch import nn

from medmixers import create_network
from medmixers.explain.labels import Masks, dice_table, label_file, read_masks, soft_dice
from medmixers.explain.picture import Row, write_picture
from medmixers.explain.source import read_source
from medmixers.explain.tokens import diversity_text, near_copies, tokens_of


def token_unet(name: str, spatial_dims: int) -> nn.Module:
    torch.manual_seed(0)
    return create_network(
        name, spatial_dims=spatial_dims, in_channels=1, out_channels=3, channels=(4, 8, 8, 16), num_tokens=5
    ).eval()


@pytest.mark.parametrize("name", ["token_unet", "token_unet_released_8_attention"])
@pytest.mark.parametrize("size", [(24, 32), (16, 8, 24)])
@torch.no_grad()
def test_the_fusers_maps_are_what_tokens_are_added_by(name: str, size: tuple[int, ...]) -> None:
    network, image = token_unet(name, len(size)), torch.randn(1, 1, *size)
    seen = {}
    network.token_fuser.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs, y=output))
    tokens = tokens_of(network, image)
    assert tokens.attention.shape == tokens.spread.shape == (1, 5, *size)
    (x, mixed), y = seen["x"], seen["y"]
    centres = tokens.spread[(..., *(slice(3, None, 8) for _ in size))]  # of cells, all but half a voxel away
    cells = network.token_fuser.scores(x.flatten(2).transpose(1, 2)).transpose(1, 2)
    added = torch.einsum("bnp,bcn->bcp", cells, network.token_fuser.mix(mixed.transpose(1, 2)))
    torch.testing.assert_close(x.flatten(2) + added, y.flatten(2), rtol=1e-4, atol=1e-5)
    near = np.corrcoef(centres.flatten(2).flatten(), cells.flatten())[0, 1]
    assert near > 0.99
    pooled = tokens.vectors if name == "token_unet" else None
    if pooled is not None:
        weights = network.token_learner.attention.flatten(2)
        torch.testing.assert_close(pooled, weights @ x.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in network.token_learner.modules())


def test_near_copies_of_known_tokens() -> None:
    vectors = torch.tensor([[1.0, 0, 0], [2, 0.1, 0], [0, 1, 0], [0, -1, 0], [0, 3, 0], [0, 0, 0], [0, 0, 0]])
    found = near_copies(vectors)
    assert [(each.token, each.original) for each in found] == [(1, 0), (4, 2), (6, 5)]
    assert found[0].similarity == pytest.approx(2 / 4.01**0.5)
    assert near_copies(vectors[:2], 0.9999) == []
    assert diversity_text(vectors[None], 0) == [
        "3 of 7 tokens are near-copies of an earlier one (cosine similarity above 0.95)",
        "near-copies: 1 of 0 (0.999), 4 of 2 (1.000), 6 of 5 (1.000)",
    ]
    slices = torch.stack([vectors, torch.eye(7)[:, :3] + 1])
    assert diversity_text(slices, 0)[0].startswith("slice 0: 3 of 7 tokens are")
    assert diversity_text(torch.eye(4)[None], 0) == [
        "0 of 4 tokens are near-copies of an earlier one (cosine similarity above 0.95)"
    ]


def test_soft_dice_is_monais() -> None:
    rng = np.random.default_rng(0)
    attention, mask = rng.uniform(0, 5, (6, 7, 8)).astype(np.float32), rng.uniform(size=(6, 7, 8)) > 0.7
    loss = DiceLoss(smooth_nr=0, smooth_dr=0)
    scaled = torch.from_numpy(attention / attention.max())[None, None]
    expected = 1 - loss(scaled, torch.from_numpy(mask)[None, None].float()).item()
    assert soft_dice(attention, mask) == pytest.approx(expected, abs=1e-6)
    assert soft_dice(7 * mask.astype(np.float32), mask) == 1
    assert soft_dice(np.zeros((2, 2), np.float32), np.ones((2, 2), bool)) == 0


def test_the_table_names_the_token_of_each_label() -> None:
    left, right = np.zeros((2, 4, 4, 1), bool)
    left[:2], right[2:] = True, True
    maps = np.stack([right + 0.1, left + 0.5], -1).astype(np.float32)
    masks = {"left": left, "right": right, "none": left & right}
    lines = dice_table(maps, Masks(masks, [9], left | right)).splitlines()
    assert lines[1].split() == ["token", "left", "right", "none"]
    assert [line.split()[0] for line in lines[2:4]] == ["0", "1"]
    assert "*" in lines[2].split()[2]
    assert "*" in lines[3].split()[1]
    assert lines[-2:] == ["not in this case: none", "values of no structure: 9"]
    assert lines[3].split()[1] == f"{2 * 8 / (8 + 8 / 3 + 8):.3f}*"


def test_ignored_voxels_do_not_count(tmp_path: Path) -> None:
    """The oracle is the same table of the part without them."""
    maps = np.random.default_rng(0).random((6, 5, 4, 3), np.float32)
    maps[5] += 4  # most attention where nothing is known
    data = np.zeros(maps.shape[:3], np.uint8)
    data[1:3, 1:4], data[3:] = 1, 2
    image = save(tmp_path / "a_0000.nii.gz", data.astype(np.float32))
    found = read_masks(save(tmp_path / "a.nii.gz", data), image, {"one": [1]}, [2])
    part = read_masks(save(tmp_path / "b.nii.gz", data[:3]), save(tmp_path / "b_0000.nii.gz", data[:3]), {"one": [1]})
    lines = dice_table(maps, found).splitlines()
    assert lines[:-1] == dice_table(maps[:3], part).splitlines()
    assert lines[-1] == "left out: 60 voxels with the ignore label"
    nothing = found._replace(counted=np.zeros_like(found.counted))
    assert dice_table(maps, nothing).startswith("every voxel has the ignore label")


def save(path: Path, voxels: np.ndarray, shift: float = 0) -> Path:
    affine = np.eye(4)
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def test_label_files(tmp_path: Path) -> None:
    image = save(tmp_path / "a_0000.nii.gz", np.ones((4, 5, 6), np.float32))
    data = np.zeros((4, 5, 6), np.uint8)
    data[0, 0, 0], data[1], data[2] = 1, 3, 7
    label = save(tmp_path / "a.nii.gz", data)
    masks, others, counted = read_masks(label, image, {"all": [1, 3], "core": [3]})
    assert counted.all()
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"all": 31, "core": 30}
    assert others == [7]
    assert list(read_masks(label, image, {})[0]) == ["value 1", "value 3", "value 7"]
    assert label_file(tmp_path, image, "a", is_folder=True) == label
    for wrong, message in (
        (save(tmp_path / "moved.nii.gz", data, shift=3), "lies elsewhere than a_0000"),
        (save(tmp_path / "small.nii.gz", data[1:]), "has shape"),
        (save(tmp_path / "half.nii.gz", data + 0.5), "numbers that are not whole"),
    ):
        with pytest.raises(ValueError, match=message):
            read_masks(wrong, image, {})
    with pytest.raises(FileNotFoundError, match=r"there is no label file .*b\.nii\.gz"):
        label_file(tmp_path, image, "b", is_folder=True)


@pytest.mark.parametrize("kind", ["volume", "slice", "picture"])
def test_maps_lie_on_their_place_in_a_picture(kind: str, tmp_path: Path) -> None:
    shape = (30, 20, 12 if kind == "volume" else 1)
    if kind == "picture":
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "i.png")
        source = read_source(tmp_path / "i.png")
    else:
        source = read_source(save(tmp_path / "i.nii.gz", np.zeros(shape, np.float32)))
    assert source.grey.shape == shape
    heat = np.zeros(shape)
    heat[24:28, 2:5] = 3.0  # centre 25.5, 3
    heat[2:6, 15:18] = -5.0  # centre 3.5, 16
    write_picture(tmp_path / "o.png", source, [Row("one", [heat]), Row("two", [heat, -heat])], (15, 10, 0))
    pixels = np.asarray(Image.open(tmp_path / "o.png")).astype(int)
    left, height = (2 * (192 + 4), 128) if kind == "volume" else (0, 256)  # the third plane is across z
    width = height * 3 // 2
    plane = pixels[20 : 20 + height, left : left + width]
    red, blue = plane[..., 0] - plane[..., 2] > 100, plane[..., 2] - plane[..., 0] > 100
    for tinted, place in ((red, (25.5, 3.0)), (blue, (3.5, 16.0))):
        row, column = (float(found.mean()) for found in np.nonzero(tinted))
        assert column / width * 30 == pytest.approx(place[0] + 0.5, abs=1)
        expected = place[1] + 0.5 if kind == "picture" else 19.5 - place[1]
        assert row / height * 20 == pytest.approx(expected, abs=1)
