"""Files of nnU-Net models are whole: all of a writer's files, no doubled weights, and a full disk spoils none."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from trained_models import train

from medmixers.bundle_runtime.nnunet_inference import PROPERTIES, NnUNetSaved
from medmixers.checkpoints import compact_copies
from medmixers.errors import InputError
from medmixers.nnunet import planner
from medmixers.nnunet.bundle import write_nnunet_bundle
from medmixers.nnunet.planner import plan_network
from medmixers.nnunet.portable import make_portable


@pytest.fixture
def model(nnunet_folders):
    """Of a stock trainer, whose network has up to three names for a tensor."""
    return train(nnunet_folders, nnUNetTrainer, folds=1)


@pytest.fixture
def dataset(nnunet_folders, dataset_json):
    """The folder of preprocessed data of data set 900, with a fingerprint."""
    raw, preprocessed = (nnunet_folders / f"nnUNet_{name}" / "Dataset900_Cube" for name in ("raw", "preprocessed"))
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    for name, voxels in (("imagesTr/a_0000", np.float32), ("labelsTr/a", np.uint8)):
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), voxels), np.eye(4)), raw / f"{name}.nii.gz")
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * 5,
        "shapes_after_crop": [[32, 32, 32]] * 5,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return preprocessed


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_keeps_the_spacing_that_nnunet_writes_next_to_a_tiff(tmp_path):
    segmentation = np.random.default_rng(0).integers(0, 3, (5, 6, 7))
    (tmp_path / "theirs").mkdir()
    Tiff3DIO().write_seg(segmentation, str(tmp_path / "theirs" / "vol.tif"), {"spacing": [2.0, 1.5, 0.5]})
    plans = SimpleNamespace(
        dataset={"file_ending": ".tif"},
        manager=SimpleNamespace(image_reader_writer_class=Tiff3DIO),
        case_name=lambda properties: properties["file"],
    )
    properties = json.dumps({"spacing": [2.0, 1.5, 0.5], "file": "vol"})
    saved = NnUNetSaved("pred", plans=plans, output_dir=str(tmp_path / "ours"))
    saved({"pred": torch.from_numpy(segmentation)[None], PROPERTIES: properties})
    assert files(tmp_path / "ours").keys() == files(tmp_path / "theirs").keys() == {"vol.tif", "vol.json"}
    assert json.loads((tmp_path / "ours" / "vol.json").read_text()) == {"spacing": [2.0, 1.5, 0.5]}
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "ours" / "vol.tif"), segmentation)


def test_shared_weights_are_written_once(model, tmp_path):
    make_portable(model, out=tmp_path / "shared")
    before, after = (
        torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
        for folder in (model, tmp_path / "shared")
    )
    places = {value.data_ptr() for value in before.values()}
    assert len(places) < len(before), "no tensor has two names"
    assert len({value.data_ptr() for value in after.values()}) == len(places)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_view_is_copied_without_its_storage():
    whole = torch.arange(12.0).reshape(3, 4)
    copies = compact_copies({"row": whole[1], "same": whole[1], "column": whole[:, 0], "other": whole[2]})
    assert copies["row"].untyped_storage().nbytes() == 4 * 4
    assert copies["row"] is copies["same"]
    torch.testing.assert_close(copies["column"], torch.tensor([0.0, 4.0, 8.0]))
    torch.testing.assert_close(copies["other"], whole[2])


@pytest.mark.parametrize("share", [make_portable, write_nnunet_bundle])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(share, model, tmp_path, monkeypatch):
    def full(content, file):
        Path(file).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")  # as torch does

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"made' cannot be written, is the disk full\?"):
        share(model, out=tmp_path / "place" / "made")
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize("name", ["OtherPlans.json", "dataset_fingerprint.json", "dataset.json"])
def test_a_damaged_file_of_a_dataset_is_named(name, dataset, nnunet_folders):
    plan_network(900, "token_unet", plans_name="OtherPlans", gpu_memory_gb=1000)
    folder = dataset if name != "dataset.json" else nnunet_folders / "nnUNet_raw" / "Dataset900_Cube"
    file = folder / name
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(InputError, match=rf"{name} is not valid JSON"):
        plan_network(900, "token_unet", plans_name="Mine", gpu_memory_gb=1000)
    file.unlink()
    if name == "dataset.json":
        with pytest.raises(FileNotFoundError, match=r"there is no .*dataset\.json: set nnUNet_raw"):
            plan_network(900, "token_unet", gpu_memory_gb=1000)


def test_plans_are_written_whole_and_keep_other_configurations(dataset, monkeypatch):
    plan_network(900, "token_unet", plans_name="Mine", gpu_memory_gb=1000)
    file = dataset / "Mine.json"
    content = json.loads(file.read_text())
    content["configurations"]["by_hand"] = {"inherits_from": "3d_fullres", "batch_size": 3}
    file.write_text(json.dumps(content))
    before = set(dataset.iterdir())
    plan_network(900, "token_unet", plans_name="Mine", gpu_memory_gb=1000)
    text, names = file.read_text(), set(dataset.iterdir())
    assert json.loads(text)["configurations"].keys() == content["configurations"].keys()
    assert names == before

    def full(self, plans):
        Path(planner.nnUNet_preprocessed, self.dataset_name, "Mine.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(planner.ExperimentPlanner, "save_plans", full)
    with pytest.raises(OSError, match="No space left"):
        plan_network(900, "token_unet", plans_name="Mine", gpu_memory_gb=1000)
    assert file.read_text() == text
    assert set(dataset.iterdir()) == names
