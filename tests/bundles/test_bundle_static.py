"""What is true of the committed bundles beside the checks of verify.py (test_verify.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import pytest
import torch
from bundle_helpers import BRAIN, ONE_OF_EACH, ROOT, SHAPE, save
from monai.bundle import ConfigParser, verify_net_in_out

import generate_bundles
from medmixers.bundles.catalog import BUNDLES, BundleRow
from medmixers.bundles.render.bundle import render_bundle
from medmixers.bundles.verify import static_checks
from medmixers.tasks import TASKS

FILES = sorted([*static_checks.FILES, "configs/inference_openvino.json"])
each_bundle = pytest.mark.parametrize("name", sorted(BUNDLES))


def load(name: str, config: str) -> dict[str, Any]:
    return json.loads((ROOT / "bundles" / name / "configs" / f"{config}.json").read_text())


def test_committed_bundles_are_the_catalogs() -> None:
    """Their files are compared by scripts/generate_bundles.py --check, which scripts/test.sh runs."""
    assert sorted(p.name for p in (ROOT / "bundles").iterdir() if p.is_dir()) == sorted(BUNDLES)


def test_check_names_what_differs_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate_bundles, "BUNDLES", {BRAIN: BUNDLES[BRAIN]})

    def generate(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["generate_bundles.py", *words])
        return generate_bundles.main()

    assert generate("--folder", str(tmp_path)) == 0
    assert generate("--check", "--folder", str(tmp_path)) == 0
    assert capsys.readouterr().out == ""
    changed, removed, stray = (tmp_path / BRAIN / path for path in (FILES[0], FILES[1], "configs/other.json"))
    changed.write_text("changed")
    removed.unlink()
    stray.write_text("{}")
    (tmp_path / BRAIN / "models").mkdir()
    (tmp_path / BRAIN / "models" / "model.pt").write_text("left by a training")
    assert generate("--check", "--folder", str(tmp_path)) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"missing: {BRAIN}/{FILES[1]}",
        f"stray: {BRAIN}/configs/other.json",
        f"differs: {BRAIN}/{FILES[0]}",
        "run: python scripts/generate_bundles.py",
    ]
    assert changed.read_text() == "changed"


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_files(name: str) -> None:
    rendered = render_bundle(BUNDLES[name], package_version="0", licence="Apache")
    assert sorted({*rendered} - {"configs/dicom.json"}) == FILES
    task = BUNDLES[name].task_spec
    assert ("configs/dicom.json" in rendered) == (task.task == "segmentation" and task.spatial_dims == 3)
    licence = (ROOT / "bundles" / name / "LICENSE").read_text()
    assert "Apache License" in licence


@each_bundle
def test_metadata_holds_the_tasks_channels_and_labels(name: str) -> None:
    metadata, task = load(name, "metadata"), BUNDLES[name].task_spec
    assert metadata["required_packages_version"]["medmixers"] == version("medmixers")
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert list(image["channel_def"].values()) == list(task.channels)
    assert pred["channel_def"] == {str(key): label.name for key, label in task.labels.items()}


@pytest.mark.parametrize("name", [BRAIN, "chest_xray_pneumonia_classification_pooling"])
def test_monais_own_check_of_the_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = ROOT / "bundles" / name
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(bundle),
    )


def test_postprocessing_undoes_preprocessing(tmp_path: Path) -> None:
    """An oracle: where the network is a threshold, the prediction is the thresholded file, voxel by voxel."""
    field = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, 4), SHAPE, mode="trilinear")[0, 0].numpy()
    field[:4] = field[:, -3:] = 0  # the box around the rest is cropped, and padded again
    save(tmp_path / "case_0000.nii.gz", field)
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / BRAIN / "configs" / "inference.json"))
    parser["bundle_root"] = str(ROOT / "bundles" / BRAIN)
    parser["preprocessing"]["transforms"].pop()  # keep the grey values
    parser["postprocessing"]["transforms"].pop()  # do not save
    item = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "case_0000.nii.gz")})
    assert tuple(item["image"].shape[1:]) != SHAPE
    image = item["image"]
    item["pred"] = torch.cat([torch.full_like(image, 5), image * 10, torch.full_like(image, -50)])
    pred = parser.get_parsed_content("postprocessing")(item)["pred"]
    assert tuple(pred.shape) == (1, *SHAPE)
    inner = (slice(2, -2),) * 3  # the trilinear borders of a resampled box are not compared
    agreement = (pred[0].numpy() == (field > 0.5))[inner].mean()
    assert agreement > 0.98


def test_bundle_row_refuses_what_does_not_fit() -> None:
    brain, slides = TASKS["brain_tissue_segmentation"], TASKS["breast_tissue_segmentation"]
    shared = {"recipe": "keuth2025_segmentation_short", "label": "x", "network": "metaformer_segformer_s12"}
    row = {**shared, "task_spec": brain, "roi_size": (48, 48, 48)}
    for change, message in (
        ({"network": "metaformer_s12"}, "is not for segmentation"),
        ({"recipe": "keuth2025_classification"}, "recipe 'keuth2025_classification' is not for segmentation"),
        ({"roi_size": (48,)}, r"roi_size must have 3 values above 0, or 2 for slices, got \(48,\)"),
        ({"roi_size": None}, "has no image_size, so its bundles need a roi_size of 3 values"),
        ({"task_spec": slides}, r"roi_size must have 2 values above 0, got \(48, 48, 48\)"),
        ({"task_spec": TASKS["chest_xray_segmentation"]}, "is of whole images: no roi_size"),
        ({"task_spec": TASKS["brain_tumor_segmentation"]}, "samples patches by exclusive labels"),
        ({"version": "0.2.0"}, "version '0.2.0' is not in the changelog: 0.1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            BundleRow(**{**row, **change})


def test_generating_needs_neither_torch_nor_monai() -> None:
    code = (
        "import sys, medmixers.bundles.render.bundle, medmixers.bundles.catalog, medmixers.bundle_runtime.cases, "
        "medmixers.bundle_runtime.preflight, medmixers.tasks, medmixers.recipes; "
        "print([name for name in ('torch', 'monai', 'nnunetv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "[]", done.stderr


def test_stated_monai_version_is_the_tested_one() -> None:
    assert load(BRAIN, "metadata")["monai_version"].split(".")[:2] == monai.__version__.split(".")[:2]
