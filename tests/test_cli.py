"""The command ``medmixers`` as a person runs it: in a process of its own."""

import csv
import os
import subprocess
import sys

import pytest
import torch


def medmixers(*arguments, **options):
    command = [sys.executable, "-m", "medmixers", *map(str, arguments)]
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


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as closed:
        out = subprocess.run(
            [sys.executable, "-m", "medmixers", "list", "mixers"],
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert "rror" not in out.stderr


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


def test_list_networks_shows_counts_as_profile_prints_them():
    lines = medmixers("list", "networks").stdout.splitlines()
    assert lines[0].split() == ["NAME", "TASK", "2D", "3D", "SOURCE", "SUMMARY"]
    name, task, in_2d, in_3d, source, *_ = next(line for line in lines if line.startswith("token_unet ")).split()
    assert (task, source) == ("segmentation", "tshimanga2026")
    for size, millions in (("16,16", in_2d), ("16,16,16", in_3d)):
        out = medmixers("profile", name, "--size", size, "--repeats", 1)
        assert f"{float(out.stdout.split()[out.stdout.split().index('parameters') + 1]):.2f}" == millions
    assert "bound to an image size" in lines[-1]


def test_profile_to_csv(tmp_path):
    file = tmp_path / "costs.csv"
    out = medmixers("profile", "unet_star_star", "--size", "16,16", "--repeats", 1, "--csv", file)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == f"1 network(s): {file}"
    (row,) = csv.DictReader(file.open())
    assert row["name"] == "unet_star_star"
    assert row["error"] == ""


def test_profile_gives_size_to_mixers_that_need_one():
    out = medmixers("profile", "metaformer_s12", "--size", "32,32", "--mixer", "random_mixing", "--repeats", 1)
    assert out.returncode == 0, out.stderr
    assert "0.009 M frozen" in out.stdout  # 2 * 64^2 + 2 * 16^2 + 6 * 4^2 + 2 * 1 numbers


def test_profile_gives_size_to_networks_that_need_one_by_name():
    out = medmixers("profile", "randformer_s12", "--size", "64,64", "--repeats", 1)
    assert out.returncode == 0, out.stderr
    assert "0.002 M frozen" in out.stdout  # 6 * 16^2 + 2 * 4^2 numbers, in the last two stages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "metaformer_s13"], "unknown network 'metaformer_s13'; valid: "),
        (["profile", "metaformer_s12", "--mixer", "poling"], "unknown token mixer 'poling'; valid: conv"),
        (["profile", "metaformer_s12", "--kernal_size", "3"], "has no option 'kernal_size'; valid: "),
        (["profile", "token_unet", "--size", "64"], "size must be 2 or 3 extents, got 64"),
        (["profile", "token_unet", "--repeats", "0"], "repeats must be at least 1, got 0"),
        (["profile", "token_unet", "--threads", "0"], "threads must be at least 1, got 0"),
        (["profile", "token_unet", "--size", "abc"], "size must be whole numbers, as 224,224 or 96,96,96, got 'abc'"),
        (["profile", "token_unet", "--size", "0,32,32"], "size must be at least 1 voxel along each axis, got (0, 32"),
        (
            ["profile", "token_unet", "--size", "8,8,8", "--device", "foo"],
            "device 'foo' cannot be used here; valid: cpu",
        ),
        (["profile", "all", "--size", "0,8"], "size must be at least 1 voxel along each axis, got (0, 8)"),
        (["profile", "token_unet", "--size", "8,8", "--csv", "/dev/null/costs.csv"], "/dev/null"),
        (["profile", "token_unet", "-size", "8,8,8", "-x", "1"], "there is no flag -x; valid: --name, --size"),
        (["profile"], "missing a required argument: 'name'; it takes: NAME, --size"),
        (
            ["demo", "data", "d", "--cases", "2", "--held_out", "1", "--sead", "1"],
            "no flag --sead; valid: --out, --cases",
        ),
        (["demo", "data", "d", "--cases", "x"], "cases must be a whole number, got 'x'"),
        (["demo", "data", "d", "--cases"], "--cases needs a value"),
        (["demo", "data"], "missing a required argument: 'out'; it takes: OUT, --cases"),
        (["demo", "data", "d", "2", "1", "0", "upper"], "too many positional arguments; it takes: OUT, --cases"),
        (["demo", "report", "d", "--pictures=maybe"], "pictures must be True or False, got 'maybe'"),
        (["demo", "dat", "d"], "there is no command 'dat'; valid: data, report"),
        (["fly"], "there is no command 'fly'; valid: bundle, dataset, demo, explain, list, nnunet, profile"),
        (["--seed", "1"], "there is no flag --seed here"),
        (["list", "networks", "upper"], "too many positional arguments; it takes: "),
        (["dataset", "check", "900"], "900"),
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    out = medmixers("profile", "token_unet", "--size", "8,8,8", "--device", "cuda")
    assert out.returncode == 2
    assert out.stderr.splitlines()[-1] == "medmixers: error: device 'cuda' cannot be used here; valid: cpu"


def test_flags_as_they_may_be_written(tmp_path):
    out = medmixers("demo", "report", "--nopictures", "--run=900", cwd=tmp_path)
    assert "900 is no run of the demo" in out.stderr
    assert "cases must be a whole number, got 'x'" in medmixers("demo", "data", "d", "-c", "x", cwd=tmp_path).stderr
    assert "--in-channels" not in medmixers("profile", "metaformer_s13", "--in-channels", 3).stderr
    out = medmixers("profile", "token_unet", "--size", "8,8,8", "--repeats", 1, "--channels", "4,4,4,8")
    assert out.returncode == 0, out.stderr
    assert "token_unet: 1 -> 2 channels at 8 x 8 x 8" in out.stdout


@pytest.mark.parametrize("arguments", [[], ["demo"], ["demo", "--help"], ["profile", "token_unet", "--help"]])
def test_help_runs_nothing(arguments):
    out = medmixers(*arguments)
    assert out.returncode == 0
    assert "SYNOPSIS" in out.stdout + out.stderr
    assert "parameters  " not in out.stdout


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
