"""`medmixers explain` on files: pictures and volumes, of bundles, their zips and nnU-Net models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from PIL import Image
from test_attention_command import SHAPE, parsed, write_case
from test_nnunet_attention import BLOB, POOLS, TOKEN_UNET, plans, write_image, write_model
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers import create_network
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.new import write_bundle
from medmixers.bundles.share.archive import write_archive
from medmixers.bundles.share.pack import copy_bundle, vendor, write_vendored
from medmixers.errors import InputError
from medmixers.explain.bundle_case import BundleModel
from medmixers.explain.commands import write_activation, write_attention, write_block_attention, write_receptive_field
from medmixers.explain.models import Model
from medmixers.files import file_digest
from medmixers.images.explanations import read_explanation
from medmixers.nnunet.architecture import plans_architecture
from medmixers.nnunet.bundle import write_nnunet_bundle

TINY = {"depths": [1, 1, 1, 1], "dims": [16, 16, 16, 16], "layer_scale_init": 1.0}
WIDE, HIGH = 90, 60  # of the picture
DOT = (70, 12)  # x from the left, y from the top


class Bright(nn.Module):
    """Segments what is bright; its evidence is the image itself, at half its resolution."""

    conv: type[nn.Module] = nn.Conv3d

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False) -> None:
        super().__init__()
        self.cells = self.conv(input_channels, 1, 2, stride=2, bias=False)
        nn.init.constant_(self.cells.weight, 1 / input_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cells(F.pad(x, [0, 1] * (x.ndim - 2))).relu()
        y = F.interpolate(y, scale_factor=2.0)[(..., *(slice(0, size) for size in x.shape[2:]))]
        return torch.cat([torch.full_like(y, 4.0), y], 1)


class FlatBright(Bright):
    """The same in 2D."""

    conv = nn.Conv2d


def weighted(folder: Path, name: str, **options: object) -> Path:
    """A bundle of a small network with random weights."""
    row = BUNDLES[name]
    bundle = write_bundle(replace(row, network_options=options), folder)
    torch.manual_seed(0)
    (bundle / "models").mkdir()
    torch.save(parsed(bundle, "network_def").state_dict(), bundle / "models" / "model.pt")
    return bundle


def zipped(bundle: Path, folder: Path) -> Path:
    """The bundle with its own code, as `medmixers bundle pack` writes it, without TorchScript and ONNX."""
    copy = copy_bundle(bundle, folder / "copy")
    write_vendored(copy, vendor(copy))
    files = {path.relative_to(copy).as_posix(): path for path in copy.rglob("*") if path.is_file()}
    write_archive(folder / "bundle.zip", copy.name, files)
    return folder / "bundle.zip"


def write_dot(path: Path, *, channels: int = 3) -> Path:
    """A grey picture with a bright dot."""
    y, x = np.indices((HIGH, WIDE))
    pixels = 40 + 200 * np.exp(-((x - DOT[0]) ** 2 + (y - DOT[1]) ** 2) / (2 * 4**2))
    grey = Image.fromarray(pixels.astype(np.uint8))
    (grey if channels == 1 else grey.convert("RGB")).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skin")
    mixer = ("pooling", "local_attention", "pooling", "global_attention")
    return weighted(folder, "skin_lesion_classification_conv", **TINY, mixer=list(mixer), kernel_size=3)


def peak(file: Path) -> np.ndarray:
    voxels = np.asarray(nib.load(file).dataobj)
    return np.array(np.unravel_index(voxels[..., 0].argmax(), voxels.shape[:3]))


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_pictures_pixels_have_their_place(skin: Path, tmp_path: Path, ending: str) -> None:
    case = BundleModel(skin).case([write_dot(tmp_path / f"dot{ending}")])
    back = np.asarray(case.on_file(case.image).dataobj)
    assert back.shape == (WIDE, HIGH, 1, 3)
    assert np.abs(np.array(np.unravel_index(back[..., 0].argmax(), back.shape[:3])) - [*DOT, 0]).max() <= 1
    entry, place = case.place(DOT)
    found = np.unravel_index(int(case.image[0, 0].argmax()), case.image.shape[2:])
    assert entry == 0
    assert np.abs(np.array(place) - found).max() <= 2
    assert case.place((WIDE - 1, HIGH - 1))[1] >= (220, 220)
    with pytest.raises(InputError, match="voxel 90,0 is not in the image of 90,60 voxels"):
        case.place((90, 0))


def test_a_classifiers_evidence_in_a_picture_is_monais(skin: Path, tmp_path: Path) -> None:
    picture = write_dot(tmp_path / "dot.png")
    said = write_activation(skin, picture, tmp_path / "a.nii.gz", label="melanoma")
    assert said.startswith("gradcam of class 4, melanoma (probability 0.")
    assert said.endswith("layer norm, feature map of 7 x 7")
    network = parsed(skin, "network_def").eval()
    network.load_state_dict(torch.load(skin / "models" / "model.pt"))
    image = parsed(skin, "preprocessing")({"image": str(picture)})["image"][None].as_tensor()
    theirs = GradCAM(network, "norm", postprocessing=lambda x: x)(image, class_idx=4)[0].detach()
    expected = F.interpolate((theirs / theirs.max())[None], (WIDE, HIGH), mode="bilinear")[0, 0]
    found = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert found.shape == (WIDE, HIGH, 1, 1)
    _, stated = read_explanation(tmp_path / "a.nii.gz")
    assert (stated.kind, stated.titles) == ("activation", ("gradcam: class 4, melanoma",))
    assert (stated.image_sha256, stated.notes[0]) == (file_digest(picture), "layer norm, feature map of 7 x 7")
    assert np.abs(found[..., 0, 0] - expected.numpy()).max() < 0.02
    assert write_activation(skin, picture, tmp_path / "b.nii.gz", label=4) == said.replace("a.nii", "b.nii").replace(
        "a.png", "b.png"
    )
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size[0] >= 384


def test_a_zip_explains_as_its_folder(skin: Path, tmp_path: Path) -> None:
    out = "o.jpg"
    picture, packed = write_dot(tmp_path / "dot.jpg"), zipped(skin, tmp_path)
    for model, name in ((skin, "folder"), (packed, "zip")):
        (tmp_path / name).mkdir()
        write_activation(model, picture, tmp_path / name / out, method="gradcampp", label=2)
        write_block_attention(model, picture, tmp_path / name / "b.nii", DOT)
        write_receptive_field(model, picture, tmp_path / name / "f.nii", DOT)
    assert {path.name for path in (tmp_path / "zip").iterdir()} == {out, "b.nii", "b.png", "f.nii", "f.png"}
    for name in (out, "b.png", "f.png"):
        assert (tmp_path / "folder" / name).read_bytes() == (tmp_path / "zip" / name).read_bytes()
    kinds = [read_explanation(tmp_path / "zip" / name)[1].kind for name in ("b.nii", "f.nii")]
    assert kinds == ["attention", "receptive_field"]
    attention = np.asarray(nib.load(tmp_path / "zip" / "b.nii").dataobj)
    assert attention.shape == (WIDE, HIGH, 1, 2)
    assert np.abs(peak(tmp_path / "zip" / "b.nii")[:2] - DOT).max() < 12  # local attention, in a cell of 8 of 224
    (tmp_path / "no.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="cannot be read as a zip"):
        write_activation(tmp_path / "no.zip", picture, tmp_path / "n.png")


@pytest.fixture
def warnings_each_time(recwarn: pytest.WarningsRecorder) -> Iterator[pytest.WarningsRecorder]:
    """Warnings that torch otherwise gives once per process, too."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield recwarn
    torch.set_warn_always(before)


@pytest.mark.parametrize("kind", [Bright, FlatBright])
@pytest.mark.parametrize("method", ["gradcam", "gradcampp", "occlusion"])
def test_evidence_of_an_nnunet_model_lies_on_the_blob(
    tmp_path: Path, method: str, kind: type[Bright], warnings_each_time: pytest.WarningsRecorder
) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    name = {"network_class_name": f"{__name__}.{kind.__name__}", "arch_kwargs": {}, "_kw_requires_import": []}
    axes = 3 if kind is Bright else 2
    described = plans(name, reader="SimpleITKIO", spacing=[1.5] * axes, transpose=[2, 0, 1])
    described["configurations"]["3d_fullres"]["patch_size"] = [24] * axes
    model = write_model(tmp_path / "model", kind(1, 2), described)
    voxel = tuple(map(int, BLOB[[0, 2, 1]]))
    options = {"mask_size": 10} if method == "occlusion" else {"layer": "cells"}
    said = write_activation(model, image, tmp_path / "o.nii.gz", method=method, voxel=voxel, **options)
    assert not [each for each in warnings_each_time if each.category is UserWarning]
    assert f"{method} of class 1, blob (mean probability in its voxels 0." in said
    assert np.linalg.norm(peak(tmp_path / "o.nii.gz") - voxel) < 6
    assert np.allclose(nib.load(tmp_path / "o.nii.gz").affine, nib.load(image).affine, atol=1e-5)
    with pytest.raises(InputError, match="no class 'cat'; valid: 0 background, 1 blob"):
        write_activation(model, image, tmp_path / "o.nii.gz", label="cat")


def test_an_nnunet_model_as_a_bundle_or_its_zip(tmp_path: Path) -> None:
    image = write_image(tmp_path / "blob_0000.nii.gz")
    architecture, _ = plans_architecture("token_unet", patch_size=[16] * 3, pools=POOLS, options=TOKEN_UNET)
    described = plans(architecture, reader="SimpleITKIO", spacing=[2.0] * 3, transpose=[0, 1, 2])
    torch.manual_seed(0)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in TOKEN_UNET.items()}
    network = create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=2, aux_heads=True, **options)
    model = write_model(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres", network, described)
    saved = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    more = {"trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": None}
    torch.save({**saved, **more}, model / "fold_0" / "checkpoint_final.pth")
    write_nnunet_bundle(model, out=tmp_path / "bundle")
    for source, name in (
        (model, "folder"), (tmp_path / "bundle", "bundle"), (zipped(tmp_path / "bundle", tmp_path), "zip"),
    ):  # fmt: skip
        write_attention(source, image, tmp_path / f"{name}.nii", fold="0")
        write_activation(source, image, tmp_path / f"{name}.png", layer="stem", label="blob")
    for name in ("bundle", "zip"):
        for ending in ("nii", "png"):
            assert (tmp_path / f"{name}.{ending}").read_bytes() == (tmp_path / f"folder.{ending}").read_bytes()
    with pytest.raises(InputError, match="has no fold 3; valid: 0"):
        write_attention(tmp_path / "bundle", image, tmp_path / "o.nii", fold="3")


@pytest.mark.parametrize("channels", ["channel_names", "modality"])
@pytest.mark.parametrize(
    ("labels", "names", "values"),
    [
        ({"background": 0, "b": 2, "a": 1, "ignore": 3}, ["background", "a", "b"], {"b": [2], "a": [1]}),
        ({"background": 0, "all": [1, 2], "core": [2], "ignore": 3}, ["all", "core"], {"all": [1, 2], "core": [2]}),
    ],
)
def test_names_of_an_nnunet_models_classes(
    labels: dict[str, object], names: list[str], values: dict[str, list[int]], channels: str, tmp_path: Path
) -> None:
    (tmp_path / "plans.json").write_text("{}")
    (tmp_path / "dataset.json").write_text(json.dumps({channels: {"0": "T1"}, "labels": labels}))
    model = Model(tmp_path)
    assert (model.channels, model.outputs, dict(model.structures)) == (1, names, values)
    assert model.ignored == [3]
    assert model.classes_exclude_each_other == ("background" in names)


def picture_model(folder: Path) -> Path:
    name = {"network_class_name": f"{__name__}.FlatBright", "arch_kwargs": {}, "_kw_requires_import": []}
    described = plans(name, reader="NaturalImage2DIO", spacing=[1.0, 1.0], transpose=[0, 1, 2])
    described["configurations"]["3d_fullres"] |= {
        "patch_size": [40, 64], "normalization_schemes": ["ZScoreNormalization"] * 3, "use_mask_for_norm": [False] * 3,
    }  # fmt: skip
    described["foreground_intensity_properties_per_channel"] = {str(channel): {} for channel in range(3)}
    model = write_model(folder, FlatBright(3, 2), described)
    dataset = (model / "dataset.json").read_text().replace('{"0": "T1"}', '{"0": "R", "1": "G", "2": "B"}')
    (model / "dataset.json").write_text(dataset.replace(".nii.gz", ".png"))
    return model


def test_an_nnunet_model_of_pictures(tmp_path: Path) -> None:
    model, picture = picture_model(tmp_path / "model"), write_dot(tmp_path / "dot_0000.png")
    write_activation(model, picture, tmp_path / "o.nii", voxel=DOT, layer="cells")
    assert np.abs(peak(tmp_path / "o.nii") - [*DOT, 0]).max() <= 2
    said = write_receptive_field(model, picture, tmp_path / "f.png", DOT)
    assert "99% within 1 voxels on each axis, in a window of 40 x 64" in said
    assert not (tmp_path / "f.nii").exists()
    grey, other = write_dot(tmp_path / "grey_0000.png", channels=1), write_dot(tmp_path / "dot.jpg")
    for wrong, message in ((grey, "has 1 channels; the model in .* takes 3"), (other, r"must end in \.png")):
        with pytest.raises(InputError, match=message):
            write_activation(model, wrong, tmp_path / "w.nii", voxel=DOT)
    with pytest.raises(InputError, match="is the input"):
        write_activation(model, picture, tmp_path / "dot_0000.nii.gz", voxel=DOT)


def test_token_maps_with_labels(tmp_path: Path) -> None:
    small = {"channels": [4, 4, 4, 8], "num_tokens": 3, "transformer_heads": 2}
    bundle = weighted(tmp_path / "bundles", "brain_tumor_segmentation_token_unet", **small)
    first = write_case(tmp_path / "images", flipped=True)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 3:8, 4:9] = 2
    labels[4:6, 4:6, 4:6] = 3
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(labels, nib.load(first).affine), tmp_path / "labels" / "a.nii.gz")
    said = write_attention(bundle, first.parent, tmp_path / "out", labels=tmp_path / "labels").splitlines()
    assert said[1] == "volumes 0 to 2: TokenLearner's A; 3 to 5: TokenFuser's B"
    assert "of 3 tokens are near-copies of an earlier one (cosine similarity above 0.95)" in said[2]
    assert said[-4].split() == ["token", "whole_tumour", "tumour_core", "enhancing_tumour"]
    maps = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    assert maps.shape == (*SHAPE, 6)
    _, stated = read_explanation(tmp_path / "out" / "a.nii.gz")
    assert stated.kind == "tokens"
    assert [title[:10] for title in stated.titles] == [f"token {n}, {part}" for part in "AB" for n in range(3)]
    assert stated.image_sha256 == file_digest(first)
    scaled = maps[..., 1] / maps[..., 1].max()
    dice = 2 * scaled[labels > 0].sum() / (scaled.sum() + (labels > 0).sum())
    assert said[-2].split()[:2] in (["1", f"{dice:.3f}"], ["1", f"{dice:.3f}*"])
    with Image.open(tmp_path / "out" / "a.png") as drawn:
        assert drawn.size[0] > 1000  # six planes
    with pytest.raises(InputError, match="must both be files, or both folders"):
        write_attention(bundle, first, tmp_path / "one.nii", labels=tmp_path / "labels")
    with pytest.raises(FileNotFoundError, match=r"there is no label file .*none\.nii"):
        write_attention(bundle, first, tmp_path / "one.nii", labels=tmp_path / "none.nii")
    assert not list(tmp_path.glob("one.*"))
