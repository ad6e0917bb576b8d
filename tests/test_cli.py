"""The command ``medmixers`` as a person runs it: in a process of its own."""

import subprocess
import sys

import pytest


def medmixers(*arguments, **options):
    command = [sys.executable, "-m", "medmixers.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("networks", "token_unet "),
        ("mixers", "grouped_conv "),
        ("tasks", "brain_tissue_segmentation "),
        ("bundles", "brain_tissue_segmentation_grouped_conv "),
    ],
)
def test_list(what, expected):
    out = medmixers("list", what)
    assert out.returncode == 0, out.stderr
    assert any(line.startswith(expected) for line in out.stdout.splitlines())


def test_profile():
    out = medmixers(
        "profile", "metaformer_s12", "--size", "64,64", "--in_channels", 3, "--out_channels", 9,
        "--mixer", "grouped_conv", "--kernel_size", 5, "--repeats", 2,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert "parameters   11.493 M" in out.stdout
    assert "MACs " in out.stdout
    assert "median of 2" in out.stdout
    assert "peak memory" in out.stdout


def test_profile_gives_size_to_mixers_that_need_one():
    out = medmixers("profile", "metaformer_s12", "--size", "32,32", "--mixer", "random_mixing", "--repeats", 1)
    assert out.returncode == 0, out.stderr
    assert "0.009 M frozen" in out.stdout  # 2 * 64^2 + 2 * 16^2 + 6 * 4^2 + 2 * 1 numbers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "metaformer_s13"], "unknown network 'metaformer_s13'; valid: metaformer_m36"),
        (["profile", "metaformer_s12", "--mixer", "poling"], "unknown token mixer 'poling'; valid: conv"),
        (["profile", "metaformer_s12", "--kernal_size", "3"], "has no option 'kernal_size'; valid: "),
        (["profile", "token_unet", "--size", "64"], "spatial_dims must be 2 or 3, got 1"),
        (["profile", "token_unet", "--repeats", "0"], "repeats must be at least 1, got 0"),
        (["dataset", "check", "no_such_folder"], "no_such_folder"),
        (["demo", "report", "no_such_folder"], "no_such_folder is no run of the demo"),
        (["explain", "attention", "no_model", "image.nii.gz", "out.nii.gz"], "image.nii.gz"),
        (["nnunet", "run", "nnUNetv2_fly"], "'nnUNetv2_fly' is no nnU-Net command; valid: nnUNetv2_"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message, tmp_path):
    out = medmixers(*arguments, cwd=tmp_path)
    assert out.returncode == 2
    lines = [line for line in out.stderr.splitlines() if "Warning" not in line and "warnings.warn" not in line]
    assert len(lines) == 1, out.stderr
    assert lines[0].startswith("medmixers: error: ")
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_that_is_not_ours_is_left_alone(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    out = medmixers("demo", "data", tmp_path)
    assert out.returncode == 2
    assert str(tmp_path) in out.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    assert precious.read_text() == "mine"


def test_nnunet_run_hands_flags_and_status_on():
    out = medmixers("nnunet", "run", "nnUNetv2_predict", "-h")
    assert out.returncode == 0
    assert "-save_probabilities" in out.stdout or "--save_probabilities" in out.stdout
    assert medmixers("nnunet", "run", "nnUNetv2_predict", "--no_such_flag").returncode == 2


def test_nnunet_env_is_a_shell_line():
    line = medmixers("nnunet", "env").stdout.strip()
    shown = subprocess.run(
        ["bash", "-c", f'{line}; ls "$nnUNet_extTrainer"'], capture_output=True, text=True, check=True
    )
    assert "medmixers_trainers.py" in shown.stdout
