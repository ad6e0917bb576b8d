"""Images of any size: the logits and labels are MONAI's, and no tensor of classes x image is made in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai import inferers
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CropForegroundd,
    Invertd,
    MapTransform,
    Orientationd,
    Resized,
    ScaleIntensityd,
    Spacingd,
)
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from medmixers.bundle_runtime import averaging, file_tensors, inverted_labels, resampling, windows
from medmixers.bundle_runtime.file_tensors import is_in_file, release, zeros_in_file
from medmixers.bundle_runtime.inverted_labels import InvertedLabelsd
from medmixers.bundle_runtime.nnunet_inference import segmented
from medmixers.bundle_runtime.regions import regions_to_ids
from medmixers.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's

SHAPE = (19, 23, 17)
REGIONS = [[1, 2, 3], [1, 3], [3]]
KINDS = {  # channels, sigmoid, regions
    "exclusive": (5, False, None),
    "regions": (3, True, REGIONS),
    "masks": (4, True, None),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces of a small image."""
    for module in (resampling, inverted_labels):
        monkeypatch.setattr(module, "PIECE", 2**13)
    monkeypatch.setattr(averaging, "SLAB", 2**10)


def oblique(order: Sequence[int], signs: Sequence[int]) -> Tensor:
    """An affine of voxels of 0.8 x 1.7 x 2.9 mm, rotated about two axes, whose axes are in this order and direction."""
    turn, tilt = np.eye(3), np.eye(3)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    tilt[1:, 1:] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ (np.eye(3)[:, list(order)] * signs) @ np.diag([0.8, 1.7, 2.9])
    affine[:3, 3] = 10, -20, 5
    return torch.from_numpy(affine)


def oblique_image(*, single: bool = False) -> MetaTensor:
    """A volume with a border of zeros; ``single``: with an affine as NIfTI files hold it."""
    torch.manual_seed(0)
    image = torch.zeros(1, *SHAPE)
    image[:, 3:16, 4:20, 2:15] = torch.rand(1, 13, 16, 13) + 0.1
    affine = oblique((1, 2, 0), (1, -1, 1))
    return MetaTensor(image, affine=affine.float().double() if single else affine)


def preprocessing(spacing: type[MapTransform], *, crop: bool) -> Compose:
    foreground = {"source_key": "image", "select_fn": torch.Tensor.bool, "allow_smaller": True}
    return Compose(
        [
            Orientationd("image", axcodes="RAS", labels=None),
            *([CropForegroundd("image", **foreground)] if crop else []),
            spacing("image", pixdim=[1.5, 1.5, 1.5], mode="bilinear"),
        ]
    )


def by_monai(data: dict[str, Any], transform: Compose, kind: str) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of MONAI's own transforms, on the whole image."""
    _, sigmoid, regions = KINDS[kind]
    decision = {"threshold": 0.5} if sigmoid else {"argmax": True}
    chain = [
        Activationsd("pred", sigmoid=sigmoid, softmax=not sigmoid),
        Invertd("pred", transform, orig_keys="image", nearest_interp=False),
    ]
    probabilities = Compose(chain)(data)["pred"]
    labels = AsDiscreted("pred", **decision)({"pred": probabilities})["pred"]
    return probabilities, labels if regions is None else regions_to_ids(labels, regions)


def by_pieces(data: dict[str, Any], transform: Compose, kind: str) -> tuple[Tensor, Tensor]:
    """Probabilities and labels; the labels are the same where no probability is kept."""
    _, sigmoid, regions = KINDS[kind]
    options = {"transform": transform, "orig_keys": "image", "sigmoid": sigmoid, "regions": regions}
    alone = InvertedLabelsd("pred", **options)(data)["pred"]
    result = InvertedLabelsd("pred", **options, probabilities_key="kept")(data)
    assert torch.equal(alone, result["pred"])
    return result["kept"], result["pred"]


def history(source: Any) -> dict[str, Any]:
    """What is undone, by name."""
    found = {}
    while source is not None:
        found[type(source).__name__] = source
        source = getattr(source, "source", None)
    return found


def collated(image: MetaTensor) -> MetaTensor:
    """An image as the evaluator's post-processing gets it."""
    (batch,) = DataLoader([{"image": image}], batch_size=1)
    return decollate_batch(batch)[0]["image"]


@pytest.mark.parametrize("scale", [1, 60])  # 60: probabilities of exactly 0 and 1, and so equal ones between voxels
@pytest.mark.parametrize(("crop", "single"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_monais_whole_volume(kind: str, crop: bool, single: bool, scale: int) -> None:
    transform = preprocessing(resampling.Spacingd, crop=crop)
    image = collated(transform({"image": oblique_image(single=single)})["image"])
    logits = MetaTensor(torch.randn(KINDS[kind][0], *image.shape[1:]) * scale).copy_meta_from(image, False)
    source = inverted_labels.inverse(logits, image, transform, sigmoid=True)
    assert source is not None, "the whole volume was inverted"
    assert history(source)["Resampled"].grids.are_parallel != single
    assert ("Shifted" in history(source)) == crop
    assert len(list(resampling.pieces(source.shape, most=2**10 // len(logits)))) > 20
    wanted = by_monai({"image": image, "pred": logits.clone()}, transform, kind)
    found = by_pieces({"image": image, "pred": logits}, transform, kind)
    torch.testing.assert_close(found[0].as_tensor(), wanted[0].as_tensor(), atol=2e-7, rtol=0)  # the last digit
    assert torch.equal(found[1].as_tensor(), wanted[1].as_tensor().to(found[1].dtype))
    assert len(found[1].unique()) > 1
    for ours, monais in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.affine, monais.affine, atol=1e-12, rtol=0)
        assert ours.meta.keys() == monais.meta.keys()
        assert ours.applied_operations == []


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_class_is_left_out_only_where_no_mean_of_voxels_has_its_label(sigmoid: bool) -> None:
    torch.manual_seed(0)
    left_out = 0
    for _ in range(50):
        values = inverted_labels.activated(torch.randn(6, 1, 1, 1) * 3 + torch.randn(6, 2, 2, 2), sigmoid=sigmoid)
        kept = set(inverted_labels.candidates(values, sigmoid=sigmoid).tolist())
        left_out += 6 - len(kept)
        weights = torch.rand(200, 8) ** 4
        weights[0] = 0  # cut off
        means = (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)) @ values.flatten(1).T
        found = means >= 0.5 if sigmoid else nn.functional.one_hot(means.argmax(dim=1), 6)
        assert set(found.any(dim=0).nonzero().flatten().tolist()) <= kept
    assert left_out > 50


def test_nan_hides_no_class() -> None:
    values = torch.tensor([[0.9, 0.8], [0.1, float("nan")], [0.0, 0.1]])[:, :, None]
    assert inverted_labels.candidates(values, sigmoid=False).tolist() == [0, 1, 2]
    assert inverted_labels.candidates(values, sigmoid=True).tolist() == [0, 1]


@pytest.mark.parametrize("image", [torch.rand(3, 40, 50), torch.rand(1, 9, 8, 7)], ids=["picture", "volume"])
def test_images_that_keep_their_grid(image: Tensor) -> None:
    transform = Compose([ScaleIntensityd("image")])
    done = transform({"image": MetaTensor(image)})["image"]
    data = {"image": done, "pred": MetaTensor(torch.randn(5, *done.shape[1:]))}
    assert inverted_labels.inverse(data["pred"], done, transform, sigmoid=False) is not None
    wanted, found = by_monai(dict(data), transform, "exclusive"), by_pieces(data, transform, "exclusive")
    assert torch.equal(found[1].as_tensor(), wanted[1].as_tensor().byte())


@pytest.mark.parametrize(
    "transform",
    [
        Compose([Resized("image", spatial_size=(8, 9, 10), mode="trilinear")]),
        Compose([Orientationd("image", axcodes="RAS", labels=None), Spacingd("image", pixdim=2.0, mode=3)]),
        Compose([Spacingd("image", pixdim=2.0, padding_mode="zeros")]),
    ],
    ids=["resized", "splines", "zeros beyond the border"],
)
def test_other_preprocessing_is_inverted_by_monai(transform: Compose) -> None:
    image = transform({"image": oblique_image()})["image"]
    logits = MetaTensor(torch.randn(5, *image.shape[1:]))
    assert inverted_labels.inverse(logits, image, transform, sigmoid=False) is None
    wanted = by_monai({"image": image, "pred": logits.clone()}, transform, "exclusive")
    found = by_pieces({"image": image, "pred": logits}, transform, "exclusive")
    assert torch.equal(found[1].as_tensor(), wanted[1].as_tensor().byte())
    assert found[1].shape[1:] == SHAPE


def test_an_image_with_another_history_is_left_to_monai() -> None:
    """A client may turn an image before, which the bundle's preprocessing does not know."""
    transform = preprocessing(resampling.Spacingd, crop=False)
    before = Orientationd("image", axcodes="LPS", labels=None)({"image": oblique_image()})
    image = transform(before)["image"]
    logits = MetaTensor(torch.randn(5, *image.shape[1:]))
    assert inverted_labels.inverse(logits, image, transform, sigmoid=False) is None
    wanted = by_monai({"image": image, "pred": logits.clone()}, transform, "exclusive")
    found = by_pieces({"image": image, "pred": logits}, transform, "exclusive")
    assert torch.equal(found[1].as_tensor(), wanted[1].as_tensor().byte())


@pytest.mark.parametrize(
    "options",
    [
        {"pixdim": [1.5, 1.5, 1.5]},
        {"pixdim": [0.5, 3.0, 2.9]},
        {"pixdim": [-1, 1.7, 2.0]},
        {"pixdim": 2.0, "diagonal": True},
    ],
    ids=["all axes", "finer and coarser", "one axis", "axes that are not parallel"],
)
def test_spacing_is_monais(options: dict[str, Any]) -> None:
    image = MetaTensor(torch.rand(2, *SHAPE) * 1000, affine=oblique((0, 1, 2), (1, 1, 1)))
    wanted, found = (
        kind("image", **options)({"image": image.clone()})["image"] for kind in (Spacingd, resampling.Spacingd)
    )
    torch.testing.assert_close(found.as_tensor(), wanted.as_tensor(), atol=0, rtol=1e-6)
    torch.testing.assert_close(found.affine, wanted.affine, atol=1e-12, rtol=0)
    (ours,), (monais,) = found.applied_operations, wanted.applied_operations
    assert ours.keys() == monais.keys()
    assert {**ours, "id": 0, "extra_info": 0} == {**monais, "id": 0, "extra_info": 0}
    ours["extra_info"].pop("src_affine"), monais["extra_info"].pop("src_affine")
    assert ours["extra_info"] == monais["extra_info"]


def test_spacing_of_labels_and_of_one_grid_is_monais_own() -> None:
    image = MetaTensor(torch.rand(1, *SHAPE), affine=oblique((0, 1, 2), (1, 1, 1)))
    for options in ({"pixdim": 1.5, "mode": "nearest"}, {"pixdim": [0.8, 1.7, 2.9]}):
        wanted, found = (
            kind("image", **options)({"image": image.clone()})["image"] for kind in (Spacingd, resampling.Spacingd)
        )
        assert torch.equal(found, wanted)


def test_spacing_leaves_the_texts_of_a_client_alone(tmp_path: Path) -> None:
    """MONAI Label calls the path of a NIfTI file image_path; MONAI updates image_meta_dict where it is a dict."""
    image = MetaTensor(torch.rand(1, *SHAPE), affine=oblique((0, 1, 2), (1, 1, 1)))
    image.meta["filename_or_obj"] = "case.nii.gz"
    item = {"image": image, "image_path": "case.nii.gz", "image_meta_dict": {"own": 1}, "model": "m", "result": None}
    with pytest.raises(AttributeError):
        Spacingd("image", pixdim=1.5)(item)
    found = resampling.Spacingd("image", pixdim=1.5)(item)
    assert found.keys() == item.keys()
    assert (found["image_path"], found["model"], found["result"]) == ("case.nii.gz", "m", None)
    assert found["image_meta_dict"].items() >= {"own": 1, "filename_or_obj": "case.nii.gz"}.items()
    assert torch.equal(found["image"].as_tensor(), resampling.Spacingd("image", pixdim=1.5)({"image": image})["image"])


class Largest(TorchDispatchMode):
    """The most elements of a tensor that lies in memory, among those that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, Tensor) and not is_in_file(each):
                self.elements = max(self.elements, each.untyped_storage().nbytes() // each.element_size())
        return result


def test_no_tensor_of_all_classes_and_the_whole_image_is_made() -> None:
    """From the image to its labels: 40 classes, a 1 x 1 x 1 convolution as the network."""
    classes = 40
    transform = preprocessing(resampling.Spacingd, crop=False)
    network = nn.Conv3d(1, classes, 1)
    inferer = windows.SlidingWindowInferer((8, 8, 8), 1, mode="gaussian", logits_memory_gb=0)
    inverted = InvertedLabelsd("pred", transform=transform, orig_keys="image", sigmoid=False)
    image = oblique_image()
    with Largest() as largest, torch.no_grad():
        data = transform({"image": image})
        data["pred"] = inferer(data["image"][None], network)[0]
        labels = inverted(data)["pred"]
    assert labels.shape == image.shape
    on_grid = data["image"].numel()
    assert data["pred"].numel() == classes * on_grid
    assert largest.elements < 4 * max(on_grid, image.numel()), "memory grows with the number of classes"
    assert largest.elements >= image.numel() / 2, "the operations were not seen"


def window_pairs(**options: Any) -> Iterator[tuple[Any, Any, nn.Module]]:
    """MONAI's inferer, ours, and a network."""
    shared = {"overlap": 0.25, "mode": "gaussian"}
    torch.manual_seed(1)
    for batch in (1, 3):
        volume = ((9, 10, 8), batch)
        yield (
            inferers.SlidingWindowInferer(*volume, **shared),
            windows.SlidingWindowInferer(*volume, **shared, **options),
            nn.Conv3d(2, 5, 3, padding=1),
        )
        slices = {"roi_size": (9, 10), "sw_batch_size": batch, "spatial_dim": 2, **shared}
        yield inferers.SliceInferer(**slices), windows.SliceInferer(**slices, **options), nn.Conv2d(2, 5, 3, padding=1)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("shape", [SHAPE, (5, 24, 11)])  # the second is padded
@torch.no_grad()
def test_logits_are_monais_bit_by_bit(
    shape: tuple[int, ...], memory: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "HELD", 2**14)  # a few rows at a time
    inputs = MetaTensor(torch.randn(1, 2, *shape), affine=oblique((0, 1, 2), (1, 1, 1)))
    for monais, ours, network in window_pairs(logits_memory_gb=memory):
        untouched = inputs.clone()
        wanted, found = monais(inputs, network), ours(inputs=inputs, network=network)
        assert torch.equal(inputs, untouched)
        assert torch.equal(found, wanted)
        assert is_in_file(found) == (memory == 0)
        assert is_in_file(decollate_batch({"pred": found}, detach=True)[0]["pred"]) == (memory == 0)
        torch.testing.assert_close(found.affine, wanted.affine, atol=0, rtol=0)


@torch.no_grad()
def test_outputs_that_are_not_one_tensor_of_the_windows_size_go_monais_way() -> None:
    networks = (
        lambda x: (x[:, :1], x[:, 1:] * 2),
        lambda x: {"one": x},
        lambda x: nn.functional.avg_pool3d(x, 2),
    )
    for shape, options in (
        ((1, 2, 16, 16, 16), {}),
        ((2, 2, 16, 12, 16), {}),
        ((1, 2, 16, 16, 16), {"buffer_steps": 1}),
    ):
        inputs = torch.randn(shape)
        for network in networks if not options else [torch.tanh]:
            wanted, found = (
                kind((8, 8, 8), 2, overlap=0.5, mode="gaussian", **options)(inputs, network)
                for kind in (inferers.SlidingWindowInferer, windows.SlidingWindowInferer)
            )
            torch.testing.assert_close(found, wanted, atol=0, rtol=0)


def test_where_logits_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 80 * 2**30))
    assert [windows.fits(size * 2**30, cpu, None) for size in (1, 2)] == [True, False]
    assert [windows.fits(size * 2**30, gpu, None) for size in (5, 6)] == [True, False]
    assert [windows.fits(size * 2**30, device, 3) for device in (cpu, gpu) for size in (3, 4)] == [True, False] * 2


def test_a_tensor_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tensors.tempfile, "tempdir", str(tmp_path))
    tensor = zeros_in_file((3, 50, 70))
    assert not tensor.any()
    tensor += torch.arange(70)
    release(tensor)
    assert torch.equal(tensor[1, 7], torch.arange(70.0))
    assert list(tmp_path.iterdir()) == []
    view = tensor.transpose(0, 1)[None]
    assert is_in_file(view)
    assert not is_in_file(view.clone())
    address = tensor.untyped_storage().data_ptr()
    del tensor, view
    assert address not in file_tensors._MAPPINGS, "the file outlives its tensor"


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_tensors.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=rf"need 2\.0 GiB in {tmp_path}, which has too little space: set .* TMPDIR"):
        zeros_in_file((2, 2**14, 2**14))


@pytest.mark.parametrize("sigmoid", [False, True])
def test_models_are_averaged_in_files_as_in_memory(sigmoid: bool) -> None:
    torch.manual_seed(0)
    each = [torch.randn(1, 4, *SHAPE) for _ in range(3)]
    wanted = averaging.mean_as_logits(iter([one.clone() for one in each]), 3, sigmoid=sigmoid)
    in_files = [zeros_in_file((SHAPE[0], 4, *SHAPE[1:])).transpose(0, 1)[None].copy_(one) for one in each]
    with Largest() as largest:
        found = averaging.mean_as_logits(iter(in_files), 3, sigmoid=sigmoid)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    assert is_in_file(found)
    assert largest.elements < found.numel() / 2


NNUNET_LABELS = {
    "exclusive": {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]},
}


@contextmanager
def most_channels(plans: Any) -> Iterator[list[int]]:
    """The numbers of channels that are resampled at a time."""
    seen: list[int] = []
    resample = plans.configuration.resampling_fn_probabilities

    def counted(channels: Any, *geometry: Any) -> Any:
        seen.append(len(channels))
        return resample(channels, *geometry)

    plans.configuration.resampling_fn_probabilities = counted
    yield seen
    plans.configuration.resampling_fn_probabilities = resample


@pytest.mark.parametrize("size", [(12, 10, 14), (9, 8, 11)])  # the first needs no resampling
@pytest.mark.parametrize("kind", NNUNET_LABELS)
def test_nnunets_segmentation_channel_by_channel(kind: str, size: tuple[int, ...]) -> None:
    description = NNUNET_LABELS[kind]

    def resample(channels: Any, *geometry: Any) -> Any:
        return resample_data_or_seg_to_shape(channels, *geometry, order=1, order_z=0)

    plans: Any = SimpleNamespace(
        manager=SimpleNamespace(transpose_forward=[1, 0, 2], transpose_backward=[1, 0, 2]),
        configuration=SimpleNamespace(spacing=[1.5, 1.5, 1.5], resampling_fn_probabilities=resample),
        labels=LabelManager(description["labels"], description.get("regions_class_order")),
    )
    properties = {
        "spacing": [1.0, 1.2, 1.1],
        "shape_before_cropping": (13, 12, 16),
        "shape_after_cropping_and_before_resampling": (12, 10, 14),
        "bbox_used_for_cropping": [[1, 13], [0, 10], [2, 16]],
    }
    torch.manual_seed(0)
    channels = plans.labels.num_segmentation_heads
    logits = torch.randn(channels, *size).half().round(decimals=1).numpy()  # rounded: some are equal
    wanted = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.copy(), plans.manager, plans.configuration, plans.labels, properties, num_threads_torch=1
    )
    with most_channels(plans) as seen:
        found = segmented(logits, plans, properties)
    assert seen == [1] * channels
    assert found.dtype == wanted.dtype
    assert len(np.unique(wanted)) == len(description["labels"])
    np.testing.assert_array_equal(found, wanted)
