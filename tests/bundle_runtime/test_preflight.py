"""Bad input ends the process with one line that names it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import SHAPE, last_words, save, write_dataset

from medmixers.bundle_runtime.cases import find_images
from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.bundle_runtime.preflight import check_evaluation, check_inference, check_training
from medmixers.bundle_runtime.preflight_raw import RawCases
from medmixers.bundles.verify.synthetic import oblique_affine
from medmixers.datasets.audit import audit_nnunet_dataset

NETWORK = torch.nn.Conv3d(1, 3, 1)
SHARED = {"image_reader": BundleImageReader(spatial_dims=3, channels=1), "validation_every": 5, "network": NETWORK}
EXPECTED = {**SHARED, "label_values": [0, 1, 2], "raw": RawCases()}
TRAINING = {**EXPECTED, "pretrained_ckpt": None, "resume_ckpt": None}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=1)


def test_sound_data_passes(dataset: Path, tmp_path: Path) -> None:
    torch.save(NETWORK.state_dict(), tmp_path / "model.pt")
    torch.save({"model": NETWORK.state_dict(), "trainer": {"epoch": 1}}, tmp_path / "resume.pt")
    check_training(dataset_dir=str(dataset), **TRAINING)
    for name in ("model.pt", "resume.pt"):
        evaluate(dataset, tmp_path / name)


def test_nan_in_a_training_image(dataset: Path) -> None:
    image = np.ones(SHAPE, np.float32)
    image[3, 4, 5] = np.nan
    save(dataset / "imagesTr" / "case_1_0000.nii.gz", image)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **TRAINING)
    message = last_words(error)
    assert "case_1_0000.nii.gz" in message
    assert "NaN" in message


def test_unknown_label(dataset: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[3, 4, 5] = 7
    save(dataset / "labelsTr" / "case_1.nii.gz", label)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **TRAINING)
    message = last_words(error)
    assert "case_1.nii.gz" in message
    assert "7" in message


def test_voxels_are_read_of_the_first_cases_and_headers_of_all(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Tiny", training=6, held_out=0)
    last = dataset / "imagesTr" / "case_5_0000.nii.gz"
    save(last, np.full(SHAPE, np.nan, np.float32))
    check_training(dataset_dir=str(dataset), **TRAINING)  # a start must not wait for terabytes
    with pytest.raises(ValueError, match=r"case_5_0000\.nii\.gz holds NaN"):
        audit_nnunet_dataset(dataset)
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4)), last)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **TRAINING)
    assert "case_5.nii.gz lies elsewhere than case_5_0000.nii.gz" in last_words(error)


def test_a_package_that_is_not_there(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What neither nibabel nor Pillow reads needs SimpleITK, which a packed bundle does not require."""
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**description, "file_ending": ".mha"}))
    for path in sorted(dataset.rglob("*.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".mha")))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **TRAINING)
    assert "SimpleITK" in last_words(error)


def test_data_set_of_another_task(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    for key, value, message in (
        ("channel_names", {"0": "T1", "1": "T2"}, "names 2 channels; the network takes 1"),
        ("labels", {"background": 0, "brain": 1}, r"has the labels [0, 1]; the network has [0, 1, 2]"),
    ):
        (dataset / "dataset.json").write_text(json.dumps({**description, key: value}))
        with pytest.raises(SystemExit) as error:
            check_training(dataset_dir=str(dataset), **TRAINING)
        assert message in last_words(error)


def test_network_of_other_dimensions(dataset: Path) -> None:
    with pytest.raises(SystemExit) as error:
        check_training(
            dataset_dir=str(dataset), **{**TRAINING, "image_reader": BundleImageReader(spatial_dims=2, channels=1)}
        )
    assert "are 3D; the network takes 2D images" in last_words(error)


def test_weights_come_first(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        evaluate(tmp_path / "nowhere", tmp_path / "none.pt")
    assert "none.pt" in last_words(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as weights"),
        (b"no weights", "cannot be read as weights"),
        (Path("a pickled object"), "cannot be read as weights"),
        ([1, 2], "holds no weights: a dict of tensors"),
        ({"epoch": 1}, "holds no weights: a dict of tensors"),
        (torch.nn.Conv3d(1, 3, 3).state_dict(), "1 tensors are missing, unknown or of another shape, 'weight'"),
        (
            {**NETWORK.state_dict(), "bias": torch.zeros(3, dtype=torch.int64)},
            "'bias' as torch.int64 for torch.float32",
        ),
        ({**NETWORK.state_dict(), "bias": torch.zeros(3, dtype=torch.complex64)}, "'bias' as torch.complex64 for"),
        (torch.nn.PReLU(3).state_dict(), "2 tensors are missing, unknown or of another shape, 'bias'"),
        ({**NETWORK.state_dict(), "bias": torch.tensor([0, np.nan, 1])}, "NaN or infinity in 1 tensors, 'bias' for"),
        ({**NETWORK.state_dict(), "bias": torch.tensor([0, np.inf, 1])}, "NaN or infinity in 1 tensors, 'bias' for"),
    ],
)
def test_weights_that_do_not_fit(content: object, message: str, dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(SystemExit) as error:
        evaluate(dataset, path)
    assert message in last_words(error)
    with pytest.raises(SystemExit) as error:
        infer([str(dataset / "imagesTs" / "case_2_0000.nii.gz")], dataset, ckpt_path=path)
    assert message in last_words(error)


def test_truncated_weights(dataset: Path, tmp_path: Path) -> None:
    torch.save(NETWORK.state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-200])
    with pytest.raises(SystemExit) as error:
        evaluate(dataset, tmp_path / "model.pt")
    assert "model.pt' cannot be read as weights" in last_words(error)


def test_one_training_case_cannot_be_split(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Tiny", training=1, held_out=0)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **TRAINING)
    assert "at least 2 training cases are needed" in last_words(error)


def test_each_check_reads_its_own_folders(dataset: Path, tmp_path: Path) -> None:
    nan = np.full(SHAPE, np.nan, np.float32)
    torch.save(NETWORK.state_dict(), tmp_path / "model.pt")
    image = (dataset / "imagesTs" / "case_2_0000.nii.gz").read_bytes()
    save(dataset / "imagesTs" / "case_2_0000.nii.gz", nan)
    check_training(dataset_dir=str(dataset), **TRAINING)
    with pytest.raises(SystemExit) as error:
        evaluate(dataset, tmp_path / "model.pt")
    assert "case_2_0000.nii.gz holds NaN" in last_words(error)
    (dataset / "imagesTs" / "case_2_0000.nii.gz").write_bytes(image)
    save(dataset / "imagesTr" / "case_0_0000.nii.gz", nan)
    evaluate(dataset, tmp_path / "model.pt")


def test_broken_dataset_json_at_inference(dataset: Path) -> None:
    (dataset / "dataset.json").write_text("{")
    images = find_images(dataset, missing_ok=True)  # what the config resolves first
    with pytest.raises(SystemExit) as error:
        infer(images, dataset)
    assert "dataset.json is not valid JSON" in last_words(error)


def test_labels_that_are_no_table(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**description, "labels": ["background"]}))
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **TRAINING)
    assert 'labels must name "background" as 0' in last_words(error)


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((6, 5), 1.0, "has the shape (6, 5); the network takes 3D images"),
        ((6, 5, 4), np.inf, "NaN or infinity in 120 of 120 voxels"),
        ((6, 5, 4), 0.0, "is 0 in all of its 120 voxels"),
    ],
)
def test_image_to_predict(shape: tuple[int, ...], value: float, message: str, tmp_path: Path) -> None:
    data = np.ones(shape, np.float32)
    data *= value
    path = tmp_path / "case_0000.nii.gz"
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(SystemExit) as error:
        infer([str(path)], tmp_path)
    assert message in last_words(error)


def test_a_name_in_capitals_is_checked_like_any(tmp_path: Path) -> None:
    path = tmp_path / "CASE.NII.GZ"
    save(path, np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(SystemExit) as error:
        infer([str(path)], tmp_path)
    assert f"{path} holds NaN or infinity" in last_words(error)


def test_unreadable_image_to_predict(tmp_path: Path) -> None:
    path = tmp_path / "case_0000.nii.gz"
    path.write_text("no image")
    with pytest.raises(SystemExit) as error:
        infer([str(path)], tmp_path)
    assert f"{path} cannot be read" in last_words(error)


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (("IXI_0001.nii.gz", "IXI_0002.nii.gz"), False),
        (("IXI_0000.nii.gz", "IXI.nii.gz"), True),
        (("a.nii", "a.nii.gz"), True),
        (("1/a.nii.gz", "2/a.nii.gz"), True),
    ],
)
def test_two_cases_of_one_name(names: tuple[str, str], refused: bool, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, np.ones(SHAPE, np.float32))
    images = [str(tmp_path / name) for name in names]
    infer(images, tmp_path)  # a table of probabilities names the files
    if not refused:
        infer(images, tmp_path, writes_images=True)
        return
    with pytest.raises(SystemExit) as error:
        infer(images, tmp_path, writes_images=True)
    assert f"the predictions of '{images[0]}' and '{images[1]}' would have one name" in last_words(error)


def test_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        infer([], tmp_path)
    assert f"{tmp_path} has no dataset.json" in last_words(error)


def test_an_empty_list_to_predict(dataset: Path) -> None:
    with pytest.raises(SystemExit) as error:
        infer([], dataset)
    assert "there is no image to predict" in last_words(error)


def test_checkpoints_are_looked_at_before_a_training(dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for option, message in (
        ("pretrained_ckpt", f"--pretrained_ckpt: there is no file '{path}'"),
        ("resume_ckpt", f"--resume_ckpt: there is no file '{path}'"),
    ):
        with pytest.raises(SystemExit) as error:
            check_training(dataset_dir=str(dataset), **{**TRAINING, option: str(path)})
        assert message in last_words(error)
    torch.save(NETWORK.state_dict(), path)
    check_training(dataset_dir=str(dataset), **{**TRAINING, "pretrained_ckpt": str(path)})
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **{**TRAINING, "resume_ckpt": str(path)})
    assert "holds no state of a training" in last_words(error)
    torch.save(torch.nn.Conv3d(1, 4, 1).state_dict(), path)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **{**TRAINING, "pretrained_ckpt": str(path)})
    assert "holds the weights of another network" in last_words(error)


def test_a_state_of_more_epochs_than_are_to_be_trained(dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    trainer = {"iteration": 12, "epoch_length": 4, "max_epochs": 5}
    state = {"model": NETWORK.state_dict(), "optimizer": {}, "lr_scheduler": {}, "best_weights": {}}
    torch.save({**state, "trainer": trainer}, path)
    options = {**TRAINING, "resume_ckpt": str(path)}
    check_training(dataset_dir=str(dataset), epochs=3, **options)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), epochs=2, **options)
    assert f"'{path}' is the state after 3 epochs; give --epochs 3 or more, not 2" in last_words(error)


def test_folders_that_cannot_be_written(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(NETWORK.state_dict(), tmp_path / "model.pt")
    image = str(dataset / "imagesTs" / "case_2_0000.nii.gz")
    checks = (
        lambda folder: check_training(dataset_dir=str(dataset), folders=[folder], **TRAINING),
        lambda folder: evaluate(dataset, tmp_path / "model.pt", folders=[folder]),
        lambda folder: infer([image], dataset, folders=[folder]),
    )
    folder = tmp_path / "a" / "b"
    for check in checks:
        check(str(folder))
    assert not folder.parent.exists()
    (tmp_path / "file").touch()
    for check in checks:
        with pytest.raises(SystemExit) as error:
            check(str(tmp_path / "file" / "b"))
        assert f"'{tmp_path / 'file' / 'b'}': '{tmp_path / 'file'}' is no folder" in last_words(error)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write where the mode says nobody may
    for check in checks:
        with pytest.raises(SystemExit) as error:
            check(str(folder))
        assert f"'{folder}': '{tmp_path}' is not writable" in last_words(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (23, 20, 22)}, "case_0001.nii.gz has shape (23, 20, 22), case_0000.nii.gz has (24, 20, 22)"),
        ({"affine": np.eye(4)}, "case_0001.nii.gz lies elsewhere than case_0000.nii.gz"),
    ],
)
def test_channels_on_different_grids(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    grid = {"shape": SHAPE, "affine": oblique_affine()}
    files = [str(tmp_path / f"case_000{channel}.nii.gz") for channel in range(2)]
    for file in files:
        nib.save(nib.Nifti1Image(np.ones(grid["shape"], np.float32), grid["affine"]), file)
    infer([files], tmp_path, channels=2)
    nib.save(nib.Nifti1Image(np.ones((grid | change)["shape"], np.float32), (grid | change)["affine"]), files[1])
    with pytest.raises(SystemExit) as error:
        infer([files], tmp_path, channels=2)
    assert message in last_words(error)


def evaluate(dataset: Path, weights: Path, **options: Any) -> None:
    check_evaluation(dataset_dir=str(dataset), part="test", ckpt_path=str(weights), **EXPECTED, **options)


def infer(images: list[Any], folder: Path, *, ckpt_path: Path | None = None, channels: int = 1, **options: Any) -> None:
    check_inference(
        dataset_dir=str(folder),
        images=images,
        ckpt_path=str(ckpt_path or ""),
        network=NETWORK,
        load_pretrain=ckpt_path is not None,
        image_reader=BundleImageReader(spatial_dims=3, channels=channels),
        **options,
    )


@pytest.mark.parametrize("place", ["imagesTs", "labelsTs", "imagesTr/predictions", "link"])
def test_predictions_never_replace_data(place: str, dataset: Path, tmp_path: Path) -> None:
    """nnU-Net's raw folders, and a folder that holds the images, also through a link."""
    torch.save(NETWORK.state_dict(), tmp_path / "model.pt")
    (tmp_path / "link").symlink_to(dataset / "imagesTs")
    images = find_images(dataset)
    before = Path(images[0]).read_bytes()
    target = tmp_path / "link" if place == "link" else dataset / place
    shared = {"ckpt_path": str(tmp_path / "model.pt"), "network": NETWORK, "image_reader": SHARED["image_reader"]}
    with pytest.raises(SystemExit) as error:
        check_inference(dataset_dir=str(dataset), images=images, load_pretrain=True, folders=[str(target)], **shared)
    assert "lies in" in last_words(error) or "holds the input" in last_words(error)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.nii.gz").write_bytes(before)
    with pytest.raises(SystemExit) as error:
        check_inference(
            dataset_dir=str(flat), images=[str(flat / "a.nii.gz")], load_pretrain=True, folders=[str(flat)], **shared
        )
    assert "holds the input" in last_words(error)
