"""Token attention of an nnU-Net model: a blob's map lies on the blob, whatever nnU-Net did between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers import create_network
from medmixers.explain.commands import write_attention, write_block_attention, write_receptive_field
from medmixers.explain.nnunet_case import NnunetModel
from medmixers.explain.tokens import tokens_of
from medmixers.networks.token_unet import TokenLearner
from medmixers.nnunet.architecture import plans_architecture

BLOB = np.array([26, 13, 30])
SHAPE = (44, 36, 40)
POOLS = [[1] * 3, [2] * 3, [2] * 3, [2] * 3]
TOKEN_UNET = {"channels": [4, 4, 4, 8], "num_tokens": 3, "transformer_heads": 2}


class IntensityLearner(TokenLearner):
    """Attention on what is bright: its map is known."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = x[:, :1].relu() ** 4
        weights = weights / weights.flatten(1).sum(1).reshape(-1, *[1] * (x.ndim - 1))
        return x.flatten(2).mean(-1)[:, None], weights


class BlobNetwork(nn.Module):
    """Stands for Token-UNet with a stride of 2, so that the blob is found to about a voxel."""

    stride = 2

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False) -> None:
        super().__init__()
        self.learner = IntensityLearner(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        pool = {4: F.avg_pool2d, 5: F.avg_pool3d}[x.ndim]
        missing = [(0, -size % 2) for size in reversed(x.shape[2:])]
        self.learner(pool(F.pad(x, [p for pair in missing for p in pair]), 2))
        return x


def resampling(order: int) -> dict[str, Any]:
    return {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}


def plans(architecture: dict[str, Any], *, reader: str, spacing: list[float], transpose: list[int]) -> dict[str, Any]:
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16] * len(spacing),
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture,
    }
    for kind, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{kind}_kwargs"] = {**resampling(order), "is_seg": kind == "seg"}
    return {
        "dataset_name": "Dataset001_Blob",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": reader,
        "transpose_forward": transpose,
        "transpose_backward": np.argsort(transpose).tolist(),
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": configuration},
    }


def write_model(folder: Path, network: nn.Module, described: dict[str, Any]) -> Path:
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(described))
    dataset = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "blob": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    saved = {"network_weights": network.state_dict(), "init_args": {"configuration": "3d_fullres"}}
    torch.save(saved, folder / "fold_0/checkpoint_final.pth")
    return folder


def write_image(path: Path) -> Path:
    """A blob in a box of ones, zeros around it for nnU-Net to crop; oblique, flipped, anisotropic."""
    position = np.indices(SHAPE).T - BLOB
    data = np.zeros(SHAPE, dtype=np.float32)
    data[7:41, 4:30, 9:] = 1
    data += 20 * np.exp(-((position**2).sum(-1).T) / (2 * 2.5**2)) * (data > 0)
    turn = nib.eulerangles.euler2mat(z=0.2, y=-0.1, x=0.15)
    affine = nib.affines.from_matvec(turn @ np.diag([-1.5, 1.0, 2.0]), [30, -20, 11])
    nib.save(nib.Nifti1Image(np.ascontiguousarray(data.transpose(0, 2, 1)), affine), path)  # axes R, S, A
    return path


def blob_model(folder: Path, *, reader: str, transpose: list[int], spacing: list[float]) -> Path:
    architecture = {
        "network_class_name": f"{__name__}.BlobNetwork",
        "arch_kwargs": {},
        "_kw_requires_import": [],
    }
    described = plans(architecture, reader=reader, spacing=spacing, transpose=transpose)
    return write_model(folder, BlobNetwork(1, 2), described)


def nnunet_token_attention(model: Path, image: Path) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, X, Y, Z) and the affine."""
    case = NnunetModel(model).case([image])
    maps = case.on_file(tokens_of(case.network, case.image).attention)
    return np.moveaxis(np.asarray(maps.dataobj), -1, 0), maps.affine


def centre_of_mass(weight: np.ndarray) -> np.ndarray:
    return np.array([np.average(grid, weights=weight) for grid in np.indices(weight.shape)])


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1]])
def test_the_map_lies_on_the_blob(tmp_path: Path, reader: str, transpose: list[int]) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    model = blob_model(tmp_path / "model", reader=reader, transpose=transpose, spacing=[1.5, 1.2, 1.0])
    maps, affine = nnunet_token_attention(model, image)
    write_attention(model, image, tmp_path / "maps" / "blob.nii.gz")
    source = nib.load(image)
    assert maps.shape == (1, *source.shape)
    assert np.allclose(affine, source.affine)
    assert np.linalg.norm(centre_of_mass(maps[0] ** 2) - BLOB[[0, 2, 1]]) < 1
    written = nib.load(tmp_path / "maps" / "blob.nii.gz")
    assert np.array_equal(np.moveaxis(written.get_fdata(dtype=np.float32), -1, 0), maps)
    assert np.allclose(written.affine, source.affine, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["blob.nii.gz", "blob.png"]


@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1]])
def test_a_2d_model_attends_in_each_slice(tmp_path: Path, transpose: list[int]) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    model = blob_model(tmp_path / "m", reader="SimpleITKIO", transpose=transpose, spacing=[1.3, 1.1])
    maps, _ = nnunet_token_attention(model, image)
    assert maps.shape == (1, *nib.load(image).shape)
    expected = BLOB[[0, 2, 1]]
    sliced = 2 - transpose[0]  # readers give z, y, x
    through = maps[0].take(expected[sliced], axis=sliced)
    assert np.linalg.norm(centre_of_mass(through**2) - np.delete(expected, sliced)) < 1


def test_outside_the_crop_there_is_no_attention(tmp_path: Path) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    model = blob_model(tmp_path / "m", reader="SimpleITKIO", transpose=[0, 1, 2], spacing=[1.5, 1.2, 1.0])
    maps, _ = nnunet_token_attention(model, image)
    empty = np.asarray(nib.load(image).dataobj) == 0
    assert not maps[0][empty].any()


@pytest.fixture
def token_unet_model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in TOKEN_UNET.items()}
    network = create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=2, aux_heads=True, **options)
    architecture, _ = plans_architecture("token_unet", patch_size=[16] * 3, pools=POOLS, options=TOKEN_UNET)
    described = plans(architecture, reader="SimpleITKIO", spacing=[2.0, 2.0, 2.0], transpose=[0, 1, 2])
    return write_model(tmp_path / "model", network, described)


def test_a_token_unet_from_its_plans(token_unet_model: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    maps, _ = nnunet_token_attention(token_unet_model, image)
    assert maps.shape == (3, *nib.load(image).shape)
    assert np.isfinite(maps).all()
    inside = np.asarray(nib.load(image).dataobj) > 0
    assert all(0.5 < one[inside].mean() < 2 for one in maps)  # near the mean of the whole grid, 1


def test_the_older_name_of_channels_is_read_and_ignored_voxels_do_not_count(
    token_unet_model: Path, tmp_path: Path
) -> None:
    image, file = write_image(tmp_path / "blob_0000.nii.gz"), token_unet_model / "dataset.json"
    write_attention(token_unet_model, image, tmp_path / "now.nii")
    dataset = json.loads(file.read_text())
    dataset["modality"] = dataset.pop("channel_names")
    dataset["labels"]["ignore"] = 2
    file.write_text(json.dumps(dataset))
    given = nib.load(image)
    values = np.full(given.shape, 2, np.uint8)
    values[:4] = 0
    values[:2] = 1
    nib.save(nib.Nifti1Image(values, given.affine), tmp_path / "label.nii")
    said = write_attention(token_unet_model, image, tmp_path / "older.nii", labels=tmp_path / "label.nii")
    assert f"left out: {np.count_nonzero(values == 2)} voxels with the ignore label" in said
    assert "values of no structure" not in said
    assert (tmp_path / "older.nii").read_bytes() == (tmp_path / "now.nii").read_bytes()


def test_a_fold_is_explained_by_its_own_plans(token_unet_model: Path) -> None:
    """Not by those of a fold that was trained later, with another patch: the weights alone would not show it."""
    checkpoint, file = (token_unet_model / name for name in ("fold_0/checkpoint_final.pth", "plans.json"))
    saved, described = torch.load(checkpoint), json.loads(file.read_text())
    saved["init_args"]["plans"] = described
    torch.save(saved, checkpoint)
    later = json.loads(file.read_text())
    later["configurations"]["3d_fullres"]["patch_size"] = [32, 16, 16]
    file.write_text(json.dumps(later))
    assert NnunetModel(token_unet_model).configuration.patch_size == [16, 16, 16]


def test_what_is_missing_is_named(token_unet_model: Path, tmp_path: Path) -> None:
    image, out = write_image(tmp_path / "blob_0000.nii.gz"), tmp_path / "out.nii.gz"
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a trained nnU-Net model: it has no plans\.json"):
        NnunetModel(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"checkpoint_final\.pth of fold_3; folds that have: fold_0"):
        write_attention(token_unet_model, image, out, fold="3")
    with pytest.raises(
        FileNotFoundError, match=r"no best\.pth of any fold; there are: --checkpoint checkpoint_final\.pth$"
    ):
        write_attention(token_unet_model, image, out, checkpoint="best.pth")
    with pytest.raises(FileNotFoundError, match=r"there is no image .*absent\.nii\.gz"):
        write_attention(token_unet_model, tmp_path / "absent.nii.gz", out)
    with pytest.raises(ValueError, match="takes 1 image files, got 2"):
        NnunetModel(token_unet_model, fold=0).case([image, image])
    with pytest.raises(ValueError, match=r"output .* is the input .*; give another place"):
        write_attention(token_unet_model, image, image)


def test_images_that_the_model_cannot_take_are_named(token_unet_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps" / "m.nii.gz"

    def refuse(data: np.ndarray, message: str) -> None:
        image = tmp_path / "bad_0000.nii.gz"
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), image)
        with pytest.raises(ValueError, match=message):
            write_attention(token_unet_model, image, out)

    whole = np.ones((16, 16, 16))
    whole[2, 3, 4:6] = np.nan, np.inf
    refuse(whole, r"bad_0000\.nii\.gz holds 2 values that are NaN or infinite")
    refuse(np.ones((16, 16)), r"must be one 3D image without time or channels, got \(16, 16\)")
    refuse(np.ones((16, 16, 1)), r"is a single slice, shape \(16, 16, 1\); the model takes 3D images")
    refuse(np.ones((16, 16, 16, 2)), r"must be one 3D image without time or channels, got \(16, 16, 16, 2\)")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.nii cannot be read"):
        write_attention(token_unet_model, tmp_path / "text.nii", out)
    assert not out.parent.exists()


def test_nothing_is_written_on_failure(token_unet_model: Path, tmp_path: Path) -> None:
    described = json.loads((token_unet_model / "plans.json").read_text())
    options = {"channels": [4, 4, 4, 8]}
    architecture, _ = plans_architecture("unet_star_star", patch_size=[16] * 3, pools=POOLS, options=options)
    described["configurations"]["3d_fullres"]["architecture"] = architecture
    network = create_network(
        "unet_star_star", spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 4, 4, 8), aux_heads=True
    )
    model = write_model(tmp_path / "plain", network, described)
    with pytest.raises(ValueError, match="has no TokenLearner"):
        write_attention(model, write_image(tmp_path / "i_0000.nii.gz"), tmp_path / "maps" / "m.nii")
    assert not (tmp_path / "maps").exists()


class AttentionNetwork(nn.Module):
    """A small MetaFormer with local and global attention; its strides are 4 to 32."""

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False) -> None:
        super().__init__()
        self.network = create_network(
            "metaformer_segformer_s12", spatial_dims=3, in_channels=input_channels, out_channels=num_classes,
            depths=(1, 1, 1, 1), dims=(16, 16, 16, 16), layer_scale_init=1.0,
            mixer=("local_attention", "pooling", "pooling", "global_attention"),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class ConvNetwork(nn.Module):
    """One convolution: its receptive field is the kernel."""

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv3d(input_channels, num_classes, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("spacing", [[1.5, 1.2, 1.0], [1.3, 1.1]])
@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1]])
def test_a_voxel_of_the_file_has_its_place_in_the_case(
    tmp_path: Path, reader: str, spacing: list[float], transpose: list[int]
) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    model = blob_model(tmp_path / "model", reader=reader, transpose=transpose, spacing=spacing)
    case = NnunetModel(model).case([image])
    brightest = np.unravel_index(int(case.image.argmax()), case.image.shape)
    entry, place = case.place(BLOB[[0, 2, 1]])
    expected = np.array([brightest[0], *brightest[2:]])
    assert np.abs(np.array([entry, *place]) - expected).max() <= 1
    with pytest.raises(ValueError, match=r"voxel 1,1,1 is in the border of zeros that nnU-Net crops away"):
        case.place((1, 1, 1))


def test_a_voxels_attention_and_receptive_field(tmp_path: Path) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    torch.manual_seed(0)
    models = []
    for network in (AttentionNetwork(1, 2), ConvNetwork(1, 2)):
        name = f"{__name__}.{type(network).__name__}"
        architecture = {"network_class_name": name, "arch_kwargs": {}, "_kw_requires_import": []}
        described = plans(architecture, reader="SimpleITKIO", spacing=[1.0, 1.0, 1.0], transpose=[0, 1, 2])
        described["configurations"]["3d_fullres"]["patch_size"] = [32, 32, 32]
        models.append(write_model(tmp_path / name, network, described))
    model, conv = models
    voxel = tuple(map(int, BLOB[[0, 2, 1]]))
    said = write_block_attention(model, image, tmp_path / "a.nii.gz", voxel)
    assert "volume 0: stage 1, block 1, LocalAttention, feature map of 8 x 8 x 8" in said
    assert "volume 1: stage 4, block 1, GlobalAttention, feature map of 1 x 1 x 1" in said
    said = write_receptive_field(conv, image, tmp_path / "f.nii.gz", voxel)
    assert "99% within 2 voxels of 1 x 1 x 1 mm on each axis, in a window of 32 x 32 x 32" in said
    for file, volumes, closeness in (("a", 2, 6), ("f", 1, 1)):
        written, source = nib.load(tmp_path / f"{file}.nii.gz"), nib.load(image)
        assert written.shape == (*source.shape, volumes)
        assert np.allclose(written.affine, source.affine, atol=1e-5)
        maps = np.asarray(written.dataobj)
        assert np.linalg.norm(centre_of_mass(maps[..., 0]) - voxel) < closeness
        with Image.open(tmp_path / f"{file}.png") as picture:
            assert picture.mode == "RGB"
            assert picture.height > 100 * volumes
    for wrong, message in (((1, 1, 99), "is not in the image of"), ((1, 1), "is not in the image of")):
        with pytest.raises(ValueError, match=message):
            write_receptive_field(model, image, tmp_path / "g.nii.gz", wrong)
    with pytest.raises(ValueError, match="--voxel needs one image file"):
        write_receptive_field(model, tmp_path, tmp_path / "g.nii.gz", voxel)
    with pytest.raises(ValueError, match="has no TokenLearner"):
        write_attention(model, image, tmp_path / "g.nii.gz")
    assert not list(tmp_path.glob("g.*"))
