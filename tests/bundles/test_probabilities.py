"""Probabilities on disk: nnU-Net's own ensembling reads them, and they give the label maps that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from bundle_helpers import BRAIN, run_here, write_dataset
from monai.transforms import LoadImage
from nnunetv2.ensembling.ensemble import average_probabilities, ensemble_folders, merge_files
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_datasets import convert_tiny

from medmixers.bundle_runtime.cases import find_images
from medmixers.bundle_runtime.saved_probabilities import geometry
from medmixers.bundles.catalog import BUNDLES
from medmixers.datasets.readings import read_json

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run

WITH_LABEL_MAPS = [
    BRAIN,  # 3D, the background is cut off first
    "brain_tumor_segmentation_token_unet",  # 3D, regions, four channels
    "breast_tissue_segmentation_grouped_conv",  # 2D, an ignored value
    "cardiac_mri_segmentation_med_unext",  # a 2D network on volumes
]
MASKS = "wrist_bone_segmentation_grouped_conv"
CASES = 2
SEED = 1


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundle -> its images, and folders with predictions of random weights."""
    done: dict[str, tuple[list[Any], list[Path]]] = {}

    def run(bundle: str) -> tuple[list[Any], list[Path]]:
        if bundle not in done:
            folder = tmp_path_factory.mktemp("run")
            if bundle == BRAIN:
                data = write_dataset(folder / "Dataset001_Tiny", training=1, held_out=CASES)
                black_border(data)
            else:
                data = convert_tiny(BUNDLES[bundle].task_spec.name, folder / "data")
            images = first_images(data)
            outs = [folder / "first", folder / "second"]
            for seed, out in enumerate(outs, start=SEED):
                torch.manual_seed(seed)
                options = {"datalist": images, "output_dir": str(out), "allow_untrained": True}
                run_here("inference", bundle=bundle, **options, save_probabilities=True)
            done[bundle] = images, outs
        return done[bundle]

    return run


def black_border(data: Path) -> None:
    for path in (data / "imagesTs").iterdir():
        image = nib.load(path)
        voxels = image.get_fdata(dtype=np.float32)
        voxels[:, :, :5] = 0
        nib.save(nib.Nifti1Image(voxels, image.affine), path)


def first_images(data: Path) -> list[Any]:
    try:
        images = find_images(data)
    except ValueError:  # the data set has no test part
        images = [[str(path) for path in sorted((data / "imagesTr").glob("*"))[:4]]]
    return images[:CASES]


def stem(image: Any) -> str:
    path = Path(image[0] if isinstance(image, list) else image)
    return path.name.removesuffix(".png").removesuffix(".nii.gz").removesuffix("_0000")


def read(file: Path) -> np.ndarray:
    return np.asarray(LoadImage(image_only=True)(str(file)))


@pytest.mark.parametrize("bundle", WITH_LABEL_MAPS)
def test_nnunets_rule_gives_the_label_map_that_was_written(bundle: str, predicted: Any) -> None:
    images, outs = predicted(bundle)
    task = BUNDLES[bundle].task_spec
    seen: set[float] = set()
    for out in outs:
        dataset, plans = read_json(str(out / "dataset.json")), PlansManager(str(out / "plans.json"))
        labels = plans.get_label_manager(dataset)
        assert labels.has_regions == (task.regions is not None)
        assert labels.num_segmentation_heads == task.out_channels
        assert labels.has_ignore_label == (task.ignore_label is not None)
        for image in images:
            saved = np.load(out / f"{stem(image)}.npz")["probabilities"]
            assert saved.dtype == np.float32
            if task.regions is None:
                np.testing.assert_allclose(saved.sum(axis=0), 1, atol=1e-5)
            written, _ = plans.image_reader_writer_class().read_seg(str(out / f"{stem(image)}{dataset['file_ending']}"))
            np.testing.assert_array_equal(labels.convert_probabilities_to_segmentation(saved), written[0])
            seen |= set(written.ravel())
    assert len(seen) > 1, "one label everywhere would prove nothing"


@pytest.mark.parametrize("bundle", WITH_LABEL_MAPS)
def test_nnunet_merges_two_folders(bundle: str, predicted: Any, tmp_path: Path) -> None:
    images, outs = predicted(bundle)
    dataset, plans = read_json(str(outs[0] / "dataset.json")), PlansManager(str(outs[0] / "plans.json"))
    ending, labels = dataset["file_ending"], plans.get_label_manager(dataset)
    for image in images:
        files = [str(out / f"{stem(image)}.npz") for out in outs]
        merge_files(files, str(tmp_path / stem(image)), ending, plans.image_reader_writer_class(), labels)
        mean = labels.convert_probabilities_to_segmentation(average_probabilities(files))
        merged, one = tmp_path / f"{stem(image)}{ending}", outs[0] / f"{stem(image)}{ending}"
        as_read = read(merged)
        np.testing.assert_array_equal(as_read, mean.transpose(2, 1, 0)[..., 0] if ending == ".png" else mean.T)
        if ending == ".nii.gz":
            np.testing.assert_allclose(nib.load(merged).affine, nib.load(one).affine, atol=1e-4)


@pytest.mark.parametrize("bundle", [*WITH_LABEL_MAPS, MASKS])
def test_the_nifti_file_lies_on_the_grid_of_the_input(bundle: str, predicted: Any) -> None:
    images, outs = predicted(bundle)
    for image in images:
        file = nib.load(outs[0] / "probabilities" / f"{stem(image)}.nii.gz")
        saved = np.load(outs[0] / f"{stem(image)}.npz")["probabilities"]
        np.testing.assert_array_equal(np.asanyarray(file.dataobj), saved.T)
        source = image[0] if isinstance(image, list) else image
        grid = LoadImage(image_only=True)(source)
        assert file.shape[:2] == grid.shape[:2]
        if source.endswith(".nii.gz"):
            np.testing.assert_allclose(file.affine, nib.load(source).affine, atol=1e-5)


def test_masks_are_the_probabilities_from_a_half_on(predicted: Any) -> None:
    images, (out, _) = predicted(MASKS)
    for image in images:
        saved = np.load(out / f"{stem(image)}.npz")["probabilities"]
        for channel, name in zip(saved, BUNDLES[MASKS].task_spec.label_names.values(), strict=True):
            np.testing.assert_array_equal(read(out / f"{stem(image)}_{name}.png").T > 0, channel[0] >= 0.5)
    assert not (out / "plans.json").exists(), "nnU-Net has no label map of overlapping masks"


def test_what_was_cut_off_is_background(predicted: Any) -> None:
    images, (out, _) = predicted(BRAIN)
    saved = np.load(out / f"{stem(images[0])}.npz")["probabilities"]
    np.testing.assert_array_equal(saved[:, :5], np.broadcast_to([[[[1]]], [[[0]]], [[[0]]]], saved[:, :5].shape))


def test_the_geometry_is_what_nnunets_readers_find(predicted: Any) -> None:
    images, _ = predicted(BRAIN)
    found = geometry(nib.load(images[0]).affine, 3)
    expected = sitk.ReadImage(images[0])
    for key, value in (("spacing", expected.GetSpacing()), ("origin", expected.GetOrigin())):
        np.testing.assert_allclose(found["sitk_stuff"][key], value, atol=1e-4)
    np.testing.assert_allclose(found["sitk_stuff"]["direction"], expected.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(found["spacing"], expected.GetSpacing()[::-1], atol=1e-5)


def test_nothing_is_saved_unless_asked(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "Dataset001_Tiny", training=1, held_out=1)
    run_here("inference", bundle=BRAIN, dataset_dir=str(data), output_dir=str(tmp_path / "out"), allow_untrained=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case_1.nii.gz"]


@pytest.mark.slow
def test_nnunets_command_ensembles_the_folders(predicted: Any, tmp_path: Path) -> None:
    """It starts processes of its own, which import torch again."""
    images, outs = predicted(BRAIN)
    ensemble_folders([str(out) for out in outs], str(tmp_path), num_processes=1)
    assert {path.name for path in tmp_path.glob("*.nii.gz")} == {f"{stem(image)}.nii.gz" for image in images}
