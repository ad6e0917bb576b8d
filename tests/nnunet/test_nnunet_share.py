"""Sharing trained models: without a trainer in reach, and as a MONAI Bundle; nnU-Net's own prediction is the oracle.

Half a minute on two cores. The models are of nnU-Net's trainers and train_step; test_nnunet_end_to_end.py shares one
that stock commands trained.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from monai.bundle import ConfigParser
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import nnUNetTrainerBN
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from trained_models import OBLIQUE, REGIONS, write_images
from trained_models import train as train_model

import preloaded
from medmixers.bundle_runtime.nnunet_images import NnUNetImages, find_cases
from medmixers.bundle_runtime.nnunet_inference import PROPERTIES, NnUNetPreprocessd, NnUNetSaved, Plans
from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.pack import pack_bundle
from medmixers.bundles.verify.checks import verify_bundle
from medmixers.bundles.verify.run_checks import check_nnunet
from medmixers.bundles.verify.subject import FailedCheck, Subject
from medmixers.cli.main import main
from medmixers.errors import InputError, MissingFileError
from medmixers.nnunet import portable
from medmixers.nnunet.bundle import write_nnunet_bundle
from medmixers.nnunet.environment import trainer_path
from medmixers.nnunet.portable import make_portable
from medmixers.nnunet.trained import external_trainers, load_checkpoint
from medmixers.nnunet.trainer_classes import nnUNetTrainerTokenUNetNoTransformer

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def environment():
    """Without any of nnU-Net's variables."""
    clean = {key: value for key, value in os.environ.items() if key not in ("nnUNet_extTrainer", *FOLDERS)}
    return {**clean, "OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1"}


def run(*command):
    done = subprocess.run(
        list(map(str, command)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def predict(model, images, out, *, trainers=None, **options):
    """What nnUNetv2_predict calls, on both folds; the bytes of its segmentation."""
    out.mkdir()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("nnUNet_extTrainer", raising=False)
        if trainers is not None:
            patch.setenv("nnUNet_extTrainer", trainers)
        predictor.initialize_from_trained_model_folder(str(model), (0, 1))
    predictor.predict_from_files_sequential(str(images), str(out))
    found = nib.load(out / "case.nii.gz")
    assert len(np.unique(np.asanyarray(found.dataobj))) > 1, "an empty segmentation would prove nothing"
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-4)
    return (out / "case.nii.gz").read_bytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("share")


def train(place, *arguments, **options):
    """A model in folders of its own: nnU-Net names a model's folder by its trainer."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOLDERS:
            patch.setenv(name, str(place / name))
        return train_model(place, *arguments, **options)


@pytest.fixture(scope="module")
def images(root):
    write_images(root / "images")
    return root / "images"


@pytest.fixture(scope="module")
def ours(root):
    """A model of our trainer, which nnU-Net finds through nnUNet_extTrainer only."""
    return train(root / "ours", nnUNetTrainerTokenUNetNoTransformer)


def test_portable_model_predicts_alone_what_the_model_predicts(ours, images, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    out = tmp_path / "shared"
    text = make_portable(ours, out=out)
    assert "folds 0, 1 of nnUNetTrainerTokenUNetNoTransformer" in text
    assert "nnUNet_extTrainer" not in os.environ
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "dataset.json", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth", "plans.json",
    ]  # fmt: skip
    for fold in ("fold_0", "fold_1"):
        before, after = ours / fold / "checkpoint_final.pth", out / fold / "checkpoint_final.pth"
        kept = torch.load(after, weights_only=True)  # nothing but tensors and plain values
        saved = torch.load(before, weights_only=False)
        assert kept["trainer_name"] == "nnUNetTrainer"
        assert kept["network_weights"].keys() == saved["network_weights"].keys()
        assert kept["inference_allowed_mirroring_axes"] == saved["inference_allowed_mirroring_axes"] == (0, 1, 2)
        assert after.stat().st_size < 0.6 * before.stat().st_size, "weights and momentum before, weights after"
    expected = predict(ours, images, tmp_path / "original", trainers=trainer_path({}))
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
        predict(ours, images, tmp_path / "not_found")
    assert predict(out, images, tmp_path / "copy") == expected


def test_a_model_that_the_plans_do_not_describe_is_refused(root, tmp_path, capsys):
    model = train(root / "bn", nnUNetTrainerBN, folds=1)
    message = f"trainer 'nnUNetTrainerBN' of {model} builds its network itself"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make_portable(model, out=tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main(["nnunet", "to_bundle", str(model), "-o", str(tmp_path / "out")])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("medmixers")]
    assert said[-1:] == lines
    assert lines[0].startswith(f"medmixers: error: {message}")
    assert not list(tmp_path.iterdir())


def test_warnings_of_nnunets_imports_are_hidden(recwarn):
    with external_trainers(None):
        warnings.warn("another package will change", FutureWarning, stacklevel=1)
    assert not list(recwarn)


def test_a_copy_that_predicts_otherwise_is_not_kept(ours, tmp_path, monkeypatch):
    def altered(file):
        saved = load_checkpoint(file)
        saved["network_weights"] = {key: 1.1 * value for key, value in saved["network_weights"].items()}
        return saved

    monkeypatch.setattr(portable, "load_checkpoint", altered)
    with pytest.raises(ValueError, match=r"portable copy gives another (segmentation|probabilities)"):
        make_portable(ours, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def spoil(model, fault):
    """One thing wrong with a copy of a model folder."""
    if fault == "unfinished":
        for file in model.glob("fold_*/checkpoint_final.pth"):
            file.unlink()
    elif fault == "no plans":
        (model / "plans.json").unlink()
    else:
        (model / "fold_0/checkpoint_final.pth").write_bytes(b"no pickle")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("unfinished", FileNotFoundError, "no fold is trained to the end"),
        ("no plans", FileNotFoundError, "is not a trained nnU-Net model: it has no plans.json"),
        ("damaged", ValueError, "checkpoint_final.pth' cannot be read as weights"),
    ],
)
@pytest.mark.parametrize("share", [make_portable, write_nnunet_bundle])
def test_a_folder_that_is_no_model_is_refused(share, fault, error, message, ours, tmp_path):
    shutil.copytree(ours, tmp_path / "model")
    spoil(tmp_path / "model", fault)
    with pytest.raises(error, match=message) as caught:
        share(tmp_path / "model", out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "dataset.json",
            {"labels": {"background": 0, "$exit()": 1}},
            "must not hold '#' or begin",
        ),
        ("dataset.json", {"channel_names": {"0": "@bundle_root", "1": "b"}}, "must not hold '#' or begin"),
        ("plans.json", {"note": {"_target_": "os.system"}}, "must not look like MONAI's '_target_'"),
    ],
)
def test_texts_that_monai_would_evaluate_are_refused(file, change, message, ours, tmp_path):
    """dataset.json and plans.json come with a model from elsewhere, and their texts enter the bundle's configs."""
    shutil.copytree(ours, tmp_path / "model")
    content = json.loads((tmp_path / "model" / file).read_text())
    (tmp_path / "model" / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match=message):
        write_nnunet_bundle(tmp_path / "model", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_with_nan_become_no_bundle(ours, tmp_path):
    shutil.copytree(ours, tmp_path / "model")
    for file in (tmp_path / "model").glob("fold_*/checkpoint_final.pth"):
        saved = torch.load(file, weights_only=False)
        name = next(key for key, value in saved["network_weights"].items() if value.is_floating_point())
        saved["network_weights"][name] *= float("nan")
        torch.save(saved, file)
    with pytest.raises(ValueError, match=r"holds NaN or infinity in \d+ tensors"):
        write_nnunet_bundle(tmp_path / "model", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("share", [make_portable, write_nnunet_bundle])
def test_what_is_there_is_not_overwritten(share, ours, tmp_path):
    with pytest.raises(FileExistsError, match="exists: give another folder"):
        share(ours, out=tmp_path)


@pytest.fixture(scope="module")
def stock_bundle(root):
    """Of a stock PlainConvUNet with two folds: the model and its bundle."""
    model = train(root / "stock", nnUNetTrainer)
    write_nnunet_bundle(model, out=root / "made_stock")
    return model, root / "made_stock"


def test_bundle_of_a_stock_model_segments_as_nnunet_does(stock_bundle, images, tmp_path):
    model, bundle = stock_bundle
    run(
        preloaded.python(), "-m", "monai.bundle", "run", "--config_file", bundle / "configs/inference.json",
        "--bundle_root", bundle, "--dataset_dir", images, "--output_dir", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert (tmp_path / "out/case.nii.gz").read_bytes() == predict(model, images, tmp_path / "expected")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case.nii.gz"]


def test_bundle_saves_the_probabilities_that_nnunet_saves(stock_bundle, images, tmp_path):
    model, bundle = stock_bundle
    options = {"bundle_root": str(bundle), "dataset_dir": str(images), "use_mirroring": False, "device": "cpu"}
    monai.bundle.run(
        config_file=str(bundle / "configs/inference.json"),
        **{**options, "output_dir": str(tmp_path / "out"), "save_probabilities": True},
    )
    expected = tmp_path / "expected"
    expected.mkdir()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(model), (0, 1))
    predictor.predict_from_files_sequential(str(images), str(expected), save_probabilities=True)
    found, wanted = (np.load(folder / "case.npz")["probabilities"] for folder in (tmp_path / "out", expected))
    np.testing.assert_array_equal(found, wanted)
    assert {path.name for path in expected.iterdir()} - {path.name for path in (tmp_path / "out").iterdir()} == {
        "predict_from_raw_data_args.json"
    }
    files = [str(folder / "case.npz") for folder in (tmp_path / "out", expected)]
    plans = PlansManager(str(tmp_path / "out/plans.json"))
    labels = plans.get_label_manager(load_json(str(tmp_path / "out/dataset.json")))
    merge_files(files, str(tmp_path / "merged"), ".nii.gz", plans.image_reader_writer_class(), labels)
    assert (tmp_path / "merged.nii.gz").read_bytes() == (expected / "case.nii.gz").read_bytes()


@pytest.mark.parametrize("kind", ["3d", "2d"])
def test_our_models_with_regions(kind, root, images, tmp_path):
    model = train(
        root / kind, nnUNetTrainerTokenUNetNoTransformer, kind=kind, labels=REGIONS, regions_class_order=[1, 2]
    )
    bundle = tmp_path / "made_regions"
    write_nnunet_bundle(model, out=bundle)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    parser.update({"bundle_root": str(bundle), "output_dir": str(tmp_path / "out"), "use_mirroring": False})
    parser.update({"datalist": [[str(images / f"case_000{channel}.nii.gz") for channel in (0, 1)]]})
    parser.update({"device": "cpu", "inferer::device": "cpu", "dataloader::num_workers": 0})
    parser.get_parsed_content("evaluator").run()  # as 3D Slicer: its keys, no folder, and neither initialize nor run
    expected = predict(model, images, tmp_path / "expected", trainers=trainer_path({}), use_mirroring=False)
    assert (tmp_path / "out/case.nii.gz").read_bytes() == expected
    make_portable(model, out=tmp_path / "portable")
    assert predict(tmp_path / "portable", images, tmp_path / "copied", use_mirroring=False) == expected
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "whole", "1": "core"}


def test_second_stage_of_a_cascade(root, tmp_path):
    model = train(root / "cascade", nnUNetTrainerTokenUNetNoTransformer, kind="cascade", folds=1)
    assert "identical" in make_portable(model, out=tmp_path / "portable")
    with pytest.raises(ValueError, match="second stage of a cascade"):
        write_nnunet_bundle(model, out=tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["portable"]


@pytest.mark.slow
def test_packed_bundle_segments_as_nnunet_does(stock_bundle, images, tmp_path):
    model, bundle = stock_bundle
    packed = pack_bundle(bundle, weights=bundle / "models/model.pt", out=tmp_path)
    root = open_archive(packed.path, tmp_path)
    assert list(root.glob("medmixers_*/bundle_runtime/nnunet_inference.py"))
    run(
        sys.executable, "-m", "monai.bundle", "run", "--config_file", root / "configs/inference.json",
        "--bundle_root", root, "--dataset_dir", images, "--output_dir", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert (tmp_path / "out/case.nii.gz").read_bytes() == predict(model, images, tmp_path / "expected")


def test_bundle_is_one(stock_bundle, tmp_path):
    model, bundle = stock_bundle
    report = verify_bundle(bundle, static=True)
    assert {result.check.number: result.outcome for result in report.results} == {
        1: "passed", 2: "passed", 3: "skipped", 4: "passed", 5: "passed", 13: "passed",
    }, str(report)  # fmt: skip
    assert report.results[2].note == "made of a trained nnU-Net model: it has no training configs"
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    for fold in ("0", "1"):
        saved = torch.load(model / f"fold_{fold}/checkpoint_final.pth", weights_only=False)["network_weights"]
        assert all(torch.equal(weights.pop(f"folds.{fold}.{key}"), value) for key, value in saved.items())
    assert not weights
    readme = (bundle / "docs/README.md").read_text()
    assert "`CASE_0000.nii.gz` (T1), `CASE_0001.nii.gz` (CT)" in readme
    assert str(bundle.parent) not in "".join(path.read_text() for path in bundle.rglob("*.json"))


@pytest.mark.usefixtures("preload")
def test_the_check_against_nnunet_tells_another_inference(stock_bundle, tmp_path):
    shutil.copytree(stock_bundle[1], tmp_path / "made")
    file = tmp_path / "made/configs/inference.json"
    file.write_text(file.read_text().replace('"use_mirroring": true', '"use_mirroring": false'))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(FailedCheck, match=r"case_4\.nii\.gz is not what nnU-Net's predictor writes"):
        check_nnunet(Subject(tmp_path / "made", tmp_path / "scratch"))


@pytest.mark.slow
def test_all_checks_that_apply_pass(stock_bundle):
    report = verify_bundle(stock_bundle[1])
    assert not report.failed, str(report)
    assert [result.check.number for result in report.results if result.outcome == "skipped"] == [3, 6, 7, 12, 14]
    assert report.results[-1].note == "2 cases, identical files"


def test_a_number_that_is_a_cases_own_stays_in_its_name(stock_bundle, images, tmp_path):
    plans = Plans(str(stock_bundle[1] / "configs/nnunet"), configuration="3d_fullres")
    files = [str(images / f"case_000{channel}.nii.gz") for channel in (0, 1)]
    data = NnUNetPreprocessd("image", plans=plans)({"image": files})
    properties = json.loads(data[PROPERTIES])
    for name in ("IXI_0001", "IXI_0002_0000", "_0000"):
        data[PROPERTIES] = json.dumps({**properties, "file": f"/elsewhere/{name}.nii.gz"})
        data["pred"] = torch.zeros(1, *reversed(nib.load(files[0]).shape))
        NnUNetSaved("pred", plans=plans, output_dir=str(tmp_path))(data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["IXI_0001.nii.gz", "IXI_0002.nii.gz", "_0000.nii.gz"]


def test_images_that_are_missing_are_named(stock_bundle, images, tmp_path):
    _, bundle = stock_bundle
    plans = Plans(str(bundle / "configs/nnunet"), configuration="3d_fullres")
    with pytest.raises(FileNotFoundError, match=r"has no image; expected files named CASE_0000\.nii\.gz"):
        find_cases(str(tmp_path), plans)
    with pytest.raises(FileNotFoundError, match="there is no folder of images"):
        find_cases(str(tmp_path / "none"), plans)
    shutil.copy(images / "case_0000.nii.gz", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"case_0001\.nii\.gz: each case has 2 files"):
        find_cases(str(tmp_path), plans)


def test_a_colour_picture_is_one_file(stock_bundle, tmp_path):
    plans = Plans(str(stock_bundle[1] / "configs/nnunet"), configuration="3d_fullres")
    plans.dataset |= {"file_ending": ".png", "channel_names": {"0": "R", "1": "G", "2": "B"}}
    (tmp_path / "skin_0000.png").touch()
    assert find_cases(str(tmp_path), plans) == [[str(tmp_path / "skin_0000.png")]]
    (tmp_path / "skin_0001.png").touch()
    with pytest.raises(FileNotFoundError, match=r"skin_0002\.png: each case has 3 files"):
        find_cases(str(tmp_path), plans)


def write_volume(file, data, affine=OBLIQUE):
    nib.save(nib.Nifti1Image(data, affine), file)


NOISE = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
SHEARED = np.array([[1, 0, 0.6, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-600]), "case_0001.nii.gz cannot be read"),
        (lambda f: write_volume(f, np.where(NOISE > 1, np.nan, NOISE)), "holds NaN or infinity"),
        (lambda f: write_volume(f, 0 * NOISE), "is 0 in all of its 504 voxels"),
        (lambda f: write_volume(f, NOISE[..., 0]), "has shape (9, 8), case_0000.nii.gz has (9, 8, 7)"),
        (lambda f: write_volume(f, np.stack([NOISE] * 2, -1)), "has 4 axes (9, 8, 7, 2)"),
        (lambda f: write_volume(f, NOISE, np.eye(4)), "lies elsewhere than case_0000.nii.gz"),
        (lambda f: [write_volume(each, NOISE, SHEARED) for each in f.parent.iterdir()], "not at right angles"),
        (lambda f: [write_volume(each, NOISE[..., 0]) for each in f.parent.iterdir()], "the model takes 3D images"),
        (lambda f: f.rename(f.with_name("case_0001.nii")), "case_0001.nii.gz: each case has 2 files"),
        (lambda f: [each.rename(each.with_name(f"{n}.nii.gz")) for n, each in enumerate(f.parent.iterdir())],
         "has no image; expected files named CASE_0000.nii.gz; it holds 2 other files, 0.nii.gz for example"),
    ],
)  # fmt: skip
def test_images_are_checked_before_a_prediction(spoil, message, stock_bundle, tmp_path):
    """As generated bundles check them; nnU-Net's reader reads the first three without an error."""
    folder = tmp_path / "images"
    folder.mkdir()
    for channel in range(2):
        write_volume(folder / f"case_{channel:04d}.nii.gz", NOISE)
    plans = Plans(str(stock_bundle[1] / "configs/nnunet"), configuration="3d_fullres")
    NnUNetImages(plans=plans).check_case([Path(file) for file in find_cases(str(folder), plans)[0]])
    spoil(folder / "case_0001.nii.gz")
    with pytest.raises(InputError, match=re.escape(message)):
        NnUNetImages(plans=plans).check_case([Path(file) for file in find_cases(str(folder), plans)[0]])


def test_hidden_files_are_no_cases_and_a_fault_is_one_line(stock_bundle, images, tmp_path):
    _, bundle = stock_bundle
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images/._case_0000.nii.gz").write_bytes(b"\0\5\26\7")
    plans = Plans(str(bundle / "configs/nnunet"), configuration="3d_fullres")
    assert len(find_cases(str(tmp_path / "images"), plans)) == 1
    write_volume(tmp_path / "images/case_0001.nii.gz", 0 * NOISE)
    command = [preloaded.python(), "-m", "monai.bundle", "run", "--config_file", bundle / "configs/inference.json"]
    command += ["--bundle_root", bundle, "--dataset_dir", tmp_path / "images", "--output_dir", tmp_path / "out"]
    done = subprocess.run([*map(str, command), "--device", "cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "case_0001.nii.gz is 0 in all of its 504 voxels" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_bundles_name_must_be_one(ours, tmp_path):
    with pytest.raises(ValueError, match="letters, digits and '_' only, got 'a-b'"):
        write_nnunet_bundle(ours, out=tmp_path / "a-b")


def test_the_best_weights_of_a_training_that_did_not_end_are_shared(ours, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(ours, model)
    for fold in ("fold_0", "fold_1"):
        (model / fold / "checkpoint_final.pth").rename(model / fold / "checkpoint_best.pth")
    with pytest.raises(MissingFileError, match=r"trained to the end; there are: --checkpoint checkpoint_best\.pth$"):
        make_portable(model, out=tmp_path / "none")
    make_portable(model, out=tmp_path / "shared", checkpoint="checkpoint_best.pth")
    write_nnunet_bundle(model, out=tmp_path / "bundle", checkpoint="checkpoint_best.pth")
    bundled = torch.load(tmp_path / "bundle/models/model.pt", weights_only=True)
    for fold in ("0", "1"):
        expected = torch.load(ours / f"fold_{fold}/checkpoint_final.pth", weights_only=False)["network_weights"]
        copied = torch.load(tmp_path / f"shared/fold_{fold}/checkpoint_final.pth", weights_only=True)["network_weights"]
        for key, value in expected.items():
            assert torch.equal(copied[key], value)
            assert torch.equal(bundled[f"folds.{fold}.{key}"], value)
