"""`medmixers explain attention`: which files are a case, folders, and bundles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from medmixers.bundles.catalog import BUNDLES, BundleRow
from medmixers.bundles.new import write_bundle
from medmixers.errors import InputError, MissingFileError
from medmixers.explain.bundle_case import BundleModel
from medmixers.explain.cases import explained_cases
from medmixers.explain.commands import write_attention
from medmixers.explain.token_attention import attention_on_image, record_token_attention

SHAPE = (24, 20, 22)
SMALL = {"channels": [4, 4, 4, 8], "num_tokens": 3, "transformer_heads": 2}


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_channels_are_named_as_in_nnunet(tmp_path: Path) -> None:
    names = [f"{case}_{channel:04d}.nii.gz" for case in ("a", "b_1") for channel in range(2)]
    folder = touch(tmp_path / "images", *names, "notes.txt")
    both = {"a": [folder / name for name in names[:2]], "b_1": [folder / name for name in names[2:]]}
    assert explained_cases(folder, 2) == both
    assert explained_cases(folder / names[2], 2) == {"b_1": both["b_1"]}
    one = touch(tmp_path / "one", "a_0000.nii", "IXI_0001.nii")
    assert explained_cases(one, 1) == {"a": [one / "a_0000.nii"], "IXI_0001": [one / "IXI_0001.nii"]}


@pytest.mark.parametrize(
    ("names", "image", "message"),
    [
        ([], "gone.nii.gz", "there is no image"),
        ([], ".", "holds no NIfTI file"),
        (["a.txt"], "a.txt", "must be a NIfTI file"),
        (["a.png", "a.nii"], ".", "must be named CASE_0000"),
        (["a.nii"], "a.nii", r"must be named CASE_0000\.nii: the network takes 2 images"),
        (["a_0000.nii"], ".", r"there is no image .*a_0001\.nii"),
    ],
)
def test_what_is_no_case(names: list[str], image: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, MissingFileError), match=message):
        explained_cases(touch(tmp_path / "images", *names) / image, 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small Token-UNet with weights."""
    row: BundleRow = replace(BUNDLES["brain_tumor_segmentation_token_unet"], network_options=SMALL)
    folder = write_bundle(row, tmp_path_factory.mktemp("bundles"))
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(parsed(folder, "network_def").state_dict(), folder / "models" / "model.pt")
    return folder


def parsed(bundle: Path, key: str):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    return parser.get_parsed_content(key)


def write_case(folder: Path, *, flipped: bool = False) -> Path:
    """Four channels of 1 mm, stored from left to right or the other way; the first file."""
    folder.mkdir()
    voxels = np.random.default_rng(0).uniform(1, 9, (4, *SHAPE)).astype(np.float32)
    affine = np.eye(4)
    if flipped:
        voxels, affine = voxels[:, ::-1], np.diag([-1.0, 1, 1, 1])
        affine[0, 3] = SHAPE[0] - 1
    for channel in range(4):
        nib.save(nib.Nifti1Image(voxels[channel], affine), folder / f"a_{channel:04d}.nii.gz")
    return folder / "a_0000.nii.gz"


def test_a_bundles_maps_lie_on_the_voxels_of_the_file(bundle: Path, tmp_path: Path) -> None:
    first = write_case(tmp_path / "plain")
    said = write_attention(bundle, first, tmp_path / "maps.nii.gz")
    assert said.startswith("3 token attention maps of ")
    image = nib.load(tmp_path / "maps.nii.gz")
    maps = np.moveaxis(np.asarray(image.dataobj), -1, 0)

    network = parsed(bundle, "network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt"))
    files = [str(path) for path in sorted((tmp_path / "plain").iterdir())]
    voxels = parsed(bundle, "preprocessing")({"image": files})["image"]
    with record_token_attention(network) as recorded, torch.no_grad():
        network(voxels[None].as_tensor())
    expected = attention_on_image(recorded[-1], SHAPE, stride=network.stride)[0]
    np.testing.assert_allclose(maps[:3], expected, atol=1e-4)
    np.testing.assert_array_equal(image.affine, nib.load(first).affine)

    write_case(tmp_path / "flipped", flipped=True)
    write_attention(bundle, tmp_path / "flipped", tmp_path / "out", checkpoint=str(bundle / "models" / "model.pt"))
    other = np.moveaxis(np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj), -1, 0)
    np.testing.assert_allclose(other[:, ::-1], maps, atol=1e-4)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_voxel_of_the_file_has_its_place_in_a_bundles_case(bundle: Path, tmp_path: Path, flipped: bool) -> None:
    first = write_case(tmp_path / "images", flipped=flipped)
    case = BundleModel(bundle).case(sorted(first.parent.iterdir()))
    voxels = nib.load(first).get_fdata()
    entry, place = case.place(np.unravel_index(int(voxels.argmax()), voxels.shape))
    assert (entry, case.image[0, 0][place]) == (0, case.image[0, 0].max())


def test_refusals_of_bundles(bundle: Path, tmp_path: Path) -> None:
    first = write_case(tmp_path / "images")
    for arguments, options, message in (
        ((bundle, first, tmp_path / "a.nii.gz"), {"fold": "0"}, "--fold is of nnU-Net models"),
        ((bundle, first, tmp_path / "a.nii.gz"), {"checkpoint": "gone.pt"}, "no weights at 'gone.pt'"),
        ((bundle, first, tmp_path / "a.txt"), {}, "must be a NIfTI file"),
        ((bundle, first, first), {}, "is the input"),
        ((bundle, first.parent, first.parent), {}, "is the input|holds the input"),
        ((tmp_path, first, tmp_path / "a.nii.gz"), {}, "is neither a trained nnU-Net model"),
    ):
        with pytest.raises((InputError, MissingFileError), match=message):
            write_attention(*arguments, **options)
