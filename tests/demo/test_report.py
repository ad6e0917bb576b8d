"""The demo's report: Dice from files, whatever exists of a run, and one clear line for what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medmixers import create_network
from medmixers.demo.report import DATASET, report
from medmixers.nnunet.architecture import plans_architecture

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
TOKEN_UNET = {"channels": [4, 4, 4, 8], "num_tokens": 2, "transformer_layers": 0}
CASES = ("brain_001", "brain_002")


def save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)


def truth(index: int) -> np.ndarray:
    label = np.zeros((20, 18, 16), dtype=np.uint8)
    label[4:16, 4:14, 4 + index : 12] = 1
    label[8:12, 6:12, 6:10] = 2
    return label


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose bundle predicts the truth and whose nnU-Net misses half of label 2."""
    data = tmp_path / "nnUNet_raw" / DATASET
    for index, case in enumerate(CASES):
        label = truth(index)
        save(data / "imagesTs" / f"{case}_0000.nii.gz", (label * 50 + 20).astype(np.float32))
        save(data / "labelsTs" / f"{case}.nii.gz", label)
        save(tmp_path / "bundle" / "predictions" / f"{case}.nii.gz", label)
        half = label.copy()
        half[8:10][half[8:10] == 2] = 0
        save(tmp_path / "nnunet" / "predictions" / f"{case}.nii.gz", half)
    described = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "grey_matter": 1, "white_matter": 2},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    (data / "dataset.json").write_text(json.dumps(described))
    return tmp_path


def test_table_of_known_dice(run: Path) -> None:
    (run / "nnunet" / "seconds.txt").write_text("61\n")
    result = report(str(run), pictures=False)
    bundle, nnunet = result.rows
    assert bundle.dice == {"grey_matter": 1.0, "white_matter": 1.0}
    assert nnunet.dice == {
        "grey_matter": 1.0,
        "white_matter": pytest.approx(2 / 3),
    }  # half found: 2 n/2 / (n/2 + n)
    assert nnunet.mean_dice == pytest.approx(5 / 6)
    assert (bundle.seconds, nnunet.seconds) == (None, 61.0)
    assert result.cases == CASES
    lines = str(result).splitlines()
    assert lines[0] == "2 held-out cases: brain_001, brain_002"
    assert lines[2].split()[-5:] == ["-", "1.000", "1.000", "1.000", "-"]
    assert lines[3].split()[-5:] == ["-", "1.000", "0.667", "0.833", "61"]
    assert len({len(line) for line in lines[1:4]}) == 1  # columns are aligned
    assert not (run / "pictures").exists()


def test_pictures_without_a_model(run: Path) -> None:
    result = report(run)
    assert [path.name for path in result.pictures] == ["brain_001.png", "brain_002.png"]
    assert all(path.stat().st_size < 400_000 for path in result.pictures)
    assert str(result).splitlines()[-1] == f"pictures: {run / 'pictures'}"


def write_model(run: Path) -> None:
    pools = [[1] * 3, [2] * 3, [2] * 3, [2] * 3]
    architecture, _ = plans_architecture("token_unet", patch_size=[16] * 3, pools=pools, options=TOKEN_UNET)
    resample = {"order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [16, 16, 16],
        "spacing": [2.0, 2.0, 2.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture,
    }
    for kind in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{kind}_kwargs"] = {**resample, "is_seg": kind == "seg"}
    plans = {
        "dataset_name": DATASET,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": configuration},
    }
    model = run / "nnUNet_results" / DATASET / "nnUNetTrainerTokenUNet__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text((run / "nnUNet_raw" / DATASET / "dataset.json").read_text())
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in TOKEN_UNET.items()}
    network = create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=3, aux_heads=True, **options)
    saved = {"network_weights": network.state_dict(), "init_args": {"configuration": "3d_fullres"}}
    torch.save(saved, model / "fold_0" / "checkpoint_final.pth")


def test_pictures_and_parameters_with_a_model(run: Path) -> None:
    write_model(run)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in TOKEN_UNET.items()}
    network = create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=3, aux_heads=True, **options)
    nnunet = (result := report(run)).rows[1]
    assert nnunet.name == "nnU-Net: token_unet"
    assert nnunet.parameters == sum(parameter.numel() for parameter in network.parameters())
    maps = nib.load(run / "nnunet" / "attention" / "brain_001.nii.gz")
    assert maps.shape == (20, 18, 16, 2)
    assert len(result.pictures) == 2


def test_one_method_is_enough_and_the_other_is_noted(run: Path) -> None:
    (run / "bundle" / "predictions").rename(run / "elsewhere")
    result = report(run, pictures=False)
    assert len(result.rows) == 1
    assert "MONAI: metaformer_segformer_s12, grouped_conv: no predictions in" in str(result)


def test_what_is_missing_is_named(run: Path, tmp_path: Path) -> None:
    (run / "nnunet" / "predictions" / "brain_002.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"nnU-Net: .* lacks a prediction: .*brain_002\.nii\.gz"):
        report(run)
    for method in ("bundle", "nnunet"):
        (run / method / "predictions").rename(run / f"{method}_away")
    with pytest.raises(FileNotFoundError, match="holds no predictions yet"):
        report(run)
    with pytest.raises(FileNotFoundError, match="nowhere is not a run of the demo"):
        report(tmp_path / "nowhere")


def test_another_shape_is_named(run: Path) -> None:
    save(run / "bundle" / "predictions" / "brain_001.nii.gz", truth(0)[1:])
    with pytest.raises(ValueError, match=r"brain_001\.nii\.gz has shape \(19, 18, 16\), its label .* \(20, 18, 16\)"):
        report(run)


def demo_script(folder: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """scripts/demo.sh of a copy whose environment ends at once: it installs and runs nothing."""
    (cwd / "scripts").mkdir()
    script = cwd / "scripts" / "demo.sh"
    script.write_text((Path(__file__).parents[2] / "scripts" / "demo.sh").read_text())
    (cwd / "scripts" / "environment.sh").write_text("make_environment() { echo installing; exit 7; }\n")
    return subprocess.run(["bash", script, folder], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["nnUNet_results/Dataset001/weights.pth", "bundle/mine.txt", ".hidden"])
def test_a_folder_that_is_not_the_demos_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    folder, checkout = tmp_path / "my data", tmp_path / "checkout"
    checkout.mkdir()
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("two years")
    out = demo_script(folder, checkout)
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == f"demo.sh: error: {folder} exists and is no run of this demo; name a new or an empty folder\n"
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / name]


def test_new_empty_and_own_folders_are_taken(tmp_path: Path) -> None:
    new, empty, own = (tmp_path / name for name in ("new/run", "empty", "own"))
    empty.mkdir()
    own.mkdir()
    (own / ".medmixers-demo").touch()
    (own / "logs").mkdir()
    for folder in (new, empty, own):
        checkout = tmp_path / f"checkout of {folder.name}"
        checkout.mkdir()
        out = demo_script(folder, checkout)
        assert (out.returncode, out.stdout) == (7, "installing\n"), out.stderr
        assert (folder / ".medmixers-demo").is_file()


def test_importing_it_does_not_import_torch_or_matplotlib() -> None:
    code = "import sys, medmixers.demo.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
