"""Every converter on small data in its data set's own format: pixels, ids, parts and groups against the source."""

from __future__ import annotations

import csv
import json
import multiprocessing.dummy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tiny_datasets import ELLIPSES, MEDMNIST, convert_tiny, write_acdc, write_source

from medmixers.datasets.audit import audit_nnunet_dataset
from medmixers.datasets.audit_datalist import SEVERAL, audit_datalist
from medmixers.datasets.convert_sars_cov_2 import near_duplicates
from medmixers.datasets.converters import CONVERTERS, convert
from medmixers.datasets.datalist_format import read_datalist
from medmixers.datasets.raw_format import read_folds, region_class_order
from medmixers.tasks import TASKS

RAW = [name for name in CONVERTERS if TASKS[name].task == "segmentation" and TASKS[name].ignore_label is not None]
RAW += [
    "abdomen_ct_segmentation",
    "brain_tumor_segmentation",
    "multi_organ_ct_segmentation",
    "cardiac_mri_segmentation",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder with source/ and converted/ of a task, made once."""
    made: dict[str, Path] = {}

    def make(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp(task)
            convert_tiny(task, made[task])
        return made[task]

    return make


def picture(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def volume(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_every_public_data_set_has_a_converter() -> None:
    assert set(CONVERTERS) == set(TASKS) - {"brain_tissue_segmentation"}  # simulated, medmixers demo data


@pytest.mark.parametrize("task", [name for name in CONVERTERS if name not in RAW])
def test_datalists_are_sound_and_hold_every_source(task: str, tiny: Callable[[str], Path]) -> None:
    folder = tiny(task) / "converted"
    report, items = audit_datalist(folder), read_datalist(folder)
    assert report.cases == {part: len(items[part]) for part in ("training", "validation", "test")}
    assert report.cases["training"]
    assert report.cases["test"]
    assert report.channels == len(TASKS[task].channels)
    assert len(report.shapes[0]) == TASKS[task].spatial_dims
    spec = TASKS[task]
    assert report.masks == (len(spec.labels) if spec.task == "segmentation" else SEVERAL if spec.multi_label else 0)
    files = [item["image"] for part in items.values() for item in part]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("task", RAW)
def test_the_auditor_and_nnunet_accept_raw_data_sets(
    task: str, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.experiment_planning import verify_dataset_integrity as stock

    folder = tiny(task) / "converted"
    report = audit_nnunet_dataset(folder)
    assert report.channels == TASKS[task].channels
    # threads for nnU-Net's pool of spawned processes, each of which would import torch for seconds
    threads = SimpleNamespace(get_context=lambda _: multiprocessing.dummy)
    monkeypatch.setattr(stock, "multiprocessing", threads)
    stock.verify_dataset_integrity(str(folder), num_processes=1)


@pytest.mark.parametrize("task", sorted(MEDMNIST))
def test_medmnist_rows_are_the_files(task: str, tiny: Callable[[str], Path]) -> None:
    arrays = np.load(tiny(task) / "source" / f"{MEDMNIST[task]}.npz")
    items = read_datalist(tiny(task) / "converted")
    for theirs, ours in (("train", "training"), ("val", "validation"), ("test", "test")):
        read = volume if TASKS[task].spatial_dims == 3 else picture
        assert np.array_equal(np.stack([read(Path(item["image"])) for item in items[ours]]), arrays[f"{theirs}_images"])
        assert [item["label"] for item in items[ours]] == arrays[f"{theirs}_labels"].ravel().tolist()


def test_jsrt_masks_are_the_ellipses_and_bone_is_bright(tiny: Callable[[str], Path]) -> None:
    items = read_datalist(tiny("chest_xray_segmentation") / "converted")
    names = ["JPCLN001", "JPCLN002", "JPCLN003", "JPCNN001", "JPCNN002"]
    parts = {Path(item["image"]).stem: part for part, listed in items.items() for item in listed}
    assert [sum(part == "test" and kind in name for name, part in parts.items()) for kind in ("LN", "NN")] == [1, 1]
    for item in items["training"] + items["test"]:
        index = names.index(Path(item["image"]).stem)
        bright = 600
        for label, file in zip(TASKS["chest_xray_segmentation"].labels.values(), item["label"], strict=True):
            (x, y), (a, b) = ELLIPSES[label.name]
            mask = picture(file) > 0
            assert mask.sum() == pytest.approx(np.pi * a * b, rel=0.01)
            assert np.argwhere(mask).mean(0) == pytest.approx((y - 0.5, x - 0.5 + 10 * index), abs=0.3)  # rows are y
            bright = bright + 700 * mask
        image = picture(item["image"])
        assert image.dtype == np.uint16
        assert np.mean(image == bright) > 0.99  # polygons are straight where ellipses bend


def test_jsrt_leaves_out_what_has_no_landmarks(tmp_path: Path) -> None:
    source = write_source("chest_xray_segmentation", tmp_path / "source")
    for path in (source / "landmarks").rglob("JPCLN002.npy"):
        path.unlink()
    said = convert("chest_xray_segmentation", source, tmp_path / "out")
    assert "1 images without landmarks were left out: JPCLN002" in said
    assert "chest_xray_segmentation: 4 cases" in said


def test_graz_masks_lie_on_their_bones_and_right_hands_are_mirrored(tiny: Callable[[str], Path]) -> None:
    task = TASKS["wrist_bone_segmentation"]
    items = read_datalist(tiny(task.name) / "converted")
    names = [label.name for label in task.labels.values()]
    for item in items["training"] + items["test"]:
        image, masks = picture(item["image"]), np.stack([picture(file) > 0 for file in item["label"]])
        assert np.array_equal(image, 30 + 50 * masks.sum(0))  # bones overlap, each adds 50
        rows, columns = np.nonzero(masks[names.index("radius")])
        assert len(rows) == 20 * 22
        left = 56 - 25 if "WRI-R" in item["image"] else 5  # the rectangle from 5 to 25 of 56 columns
        assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (left, left + 20, 8, 30)
        assert not masks[names.index("os_hamatum")].any()
    patients = {part: {Path(item["image"]).name.split("_")[1] for item in items[part]} for part in items}
    assert not patients["training"] & patients["test"]
    assert len(patients["training"] | patients["test"]) == 4


def test_graz_sixteen_bits_stay_sixteen(tmp_path: Path) -> None:
    """Bundles scale each picture by its own depth, so that a prediction of the original file sees the same numbers."""
    source = write_source("wrist_bone_segmentation", tmp_path / "source")
    for path in source.glob("images/*.png"):
        Image.fromarray(picture(path).astype(np.uint16) * 20 + 1000).save(path)
    convert("wrist_bone_segmentation", source, tmp_path / "out")
    image = picture(next((tmp_path / "out/images").glob("*L1*.png")))
    original = picture(next(source.glob("images/*L1*.png")))
    assert image.dtype == original.dtype == np.uint16
    assert np.array_equal(image, original)


def test_tiger_excludes_as_nnunet_does_and_keeps_slides_together(tiny: Callable[[str], Path]) -> None:
    folder = tiny("breast_tissue_segmentation")
    parts: dict[str, set[str]] = {}
    for mask in (folder / "source").rglob("masks/*.png"):
        name = re.sub(r"[\[\], ]+", "_", mask.stem).strip("_")
        part = next(
            part for part in ("Tr", "Ts") if (folder / f"converted/labels{part}/{name.replace('__', '_')}.png").exists()
        )
        name = name.replace("__", "_")
        parts.setdefault(mask.stem.split("_[")[0], set()).add(part)
        written = picture(folder / f"converted/labels{part}/{name}.png")
        assert np.array_equal(written, np.where(picture(mask) == 0, 8, picture(mask)))
        image = folder / f"converted/images{part}/{name}_0000.png"
        original = mask.parents[1] / "images" / mask.name
        assert image.read_bytes() == original.read_bytes()
        assert not image.samefile(original)
    assert sorted(map(len, parts.values())) == [1, 1, 1, 1]


@pytest.mark.parametrize("text", ["{", "[{}]", '[{"train": 1, "val": []}]', '{"train": []}'])
def test_folds_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    assert read_folds(tmp_path, []) is None
    (tmp_path / "splits_final.json").write_text(text)
    with pytest.raises(ValueError, match=r"splits_final\.json must look like \[\{\"train\""):
        read_folds(tmp_path, [])


def test_tiger_small_regions_can_be_left_out(tmp_path: Path) -> None:
    source = write_source("breast_tissue_segmentation", tmp_path / "source")
    said = convert("breast_tissue_segmentation", source, tmp_path / "out", min_size=70, test_every=0)
    assert "breast_tissue_segmentation: 2 cases" in said
    assert "6 regions smaller than 70 pixels were left out" in said


@pytest.mark.parametrize("task", ["breast_tissue_segmentation", "cardiac_mri_segmentation"])
def test_folds_keep_groups_together_and_validate_each_case_once(task: str, tiny: Callable[[str], Path]) -> None:
    folder = tiny(task) / "converted"
    cases = sorted(path.name.split(".")[0] for path in (folder / "labelsTr").iterdir())
    folds = read_folds(folder, cases)
    assert folds is not None
    group = {
        case: case[: len("TCGA-A1-A0S0")] if case.startswith("TCGA") else case[: len("patient001")] for case in cases
    }
    assert sorted(case for fold in folds for case in fold["val"]) == cases
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == cases
        assert not {group[case] for case in fold["train"]} & {group[case] for case in fold["val"]}
    assert {group[case] for case in folds[0]["val"]} == {min(group.values())}


def test_fets_ids_regions_and_institutions(tiny: Callable[[str], Path]) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    folder = tiny("brain_tumor_segmentation")
    described = json.loads((folder / "converted/dataset.json").read_text())
    for label in sorted((folder / "converted/labelsTr").iterdir()):
        subject = label.name.removesuffix(".nii.gz")
        source = folder / "source" / subject / f"{subject}_seg.nii.gz"
        written = volume(label)
        assert np.array_equal(written, np.choose(volume(source), [0, 1, 2, 9, 3]))
        assert np.array_equal(nib.load(label).affine, nib.load(source).affine)
        for channel, suffix in enumerate(("t1", "t1ce", "t2", "flair")):
            image = folder / "converted/imagesTr" / f"{subject}_{channel:04d}.nii.gz"
            assert image.read_bytes() == source.with_name(f"{subject}_{suffix}.nii.gz").read_bytes()
        # nnU-Net paints the regions in regions_class_order: the true regions must give the true ids
        regions = np.stack([np.isin(written, ids) for ids in TASKS["brain_tumor_segmentation"].regions.values()])
        manager = LabelManager(described["labels"], described["regions_class_order"])
        painted = manager.convert_probabilities_to_segmentation(regions.astype(np.float32))
        assert np.array_equal(painted, written)
    with (folder / "source/partitioning_1.csv").open() as file:
        assert described["institutions"] == {row["Subject_ID"]: row["Partition_ID"] for row in csv.DictReader(file)}


def test_files_are_linked_only_where_asked_for(tmp_path: Path) -> None:
    write_acdc(tmp_path / "source", patients=2, testing=1)
    convert("cardiac_mri_segmentation", tmp_path / "source", tmp_path / "linked", link=True)
    convert("cardiac_mri_segmentation", tmp_path / "source", tmp_path / "copied")
    originals = {path.stat().st_ino for path in (tmp_path / "source").rglob("*.nii.gz")}
    for name, is_linked in (("linked", True), ("copied", False)):
        files = list((tmp_path / name).glob("*T[rs]/*.nii.gz"))
        assert len(files) == 2 * 2 * 3  # image and label of two frames of three patients
        assert {path.stat().st_ino in originals for path in files} == {is_linked}


def test_images_that_are_read_and_written_cannot_be_linked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--link: the images of chest_xray_segmentation are read and written"):
        convert("chest_xray_segmentation", tmp_path, tmp_path.with_name("out"), link=True)


def test_a_data_set_is_not_written_into_its_download(tmp_path: Path) -> None:
    for out, message in ((tmp_path / "new/converted", "lies in the source"), (tmp_path / "imagesTr/x", "the raw data")):
        with pytest.raises(ValueError, match=message):
            convert("cardiac_mri_segmentation", tmp_path, out)
    assert not list(tmp_path.iterdir())


def test_region_class_order_needs_one_new_id_a_region() -> None:
    assert region_class_order([(1, 2, 3), (2, 3), (3,)]) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"must add one label value to the regions after it, it adds \[1, 2\]"):
        region_class_order([(1, 2, 3), (3,)])


def test_synapse_organs_and_the_usual_test_volumes(tiny: Callable[[str], Path]) -> None:
    folder = tiny("multi_organ_ct_segmentation")
    original = {"spleen": 1, "kidney_right": 2, "kidney_left": 3, "gall_bladder": 4, "liver": 6, "stomach": 7}
    original |= {"aorta": 8, "pancreas": 11}
    assert {path.name for path in (folder / "converted/labelsTs").iterdir()} == {"img0001.nii.gz", "img0008.nii.gz"}
    for path in (folder / "converted").glob("labelsT?/*.nii.gz"):
        source = volume(folder / "source/RawData/Training/label" / path.name.replace("img", "label"))
        for key, name in TASKS["multi_organ_ct_segmentation"].label_names.items():
            if key:
                assert np.array_equal(volume(path) == key, source == original[name]), name
        assert np.array_equal(volume(path) == 0, np.isin(source, [0, 5, 9, 10, 12, 13]))


def test_acdc_leaves_cine_alone_and_takes_the_given_test_part(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    labels = [path.name for path in (tiny("cardiac_mri_segmentation") / "converted").glob("labelsT?/*")]
    assert len(labels) == 10
    assert not any("4d" in name for name in labels)
    write_acdc(tmp_path / "source", patients=2, testing=1)
    convert("cardiac_mri_segmentation", tmp_path / "source", tmp_path / "out")
    assert {path.name[:10] for path in (tmp_path / "out/labelsTs").iterdir()} == {"patient103"}


def test_abdomen_atlas_takes_the_studys_list_and_uncompressed_files(tmp_path: Path) -> None:
    source = write_source("abdomen_ct_segmentation", tmp_path / "source")
    plain = source / "BDMAP_00000003/ct.nii"
    nib.save(nib.load(plain.with_suffix(".nii.gz")), plain)
    real = (source / "BDMAP_00000004").rename(tmp_path / "elsewhere")
    (source / "BDMAP_00000004").symlink_to(real, target_is_directory=True)
    (tmp_path / "test.csv").write_text("BDMAP_00000003\nBDMAP_00000007\nBDMAP_00009999\n")
    said = convert("abdomen_ct_segmentation", source, tmp_path / "out", test_list=str(tmp_path / "test.csv"))
    assert "1 test cases of the list are not in" in said
    files = {path.name for path in (tmp_path / "out/imagesTs").iterdir()}
    assert files == {"BDMAP_00000003_0000.nii.gz", "BDMAP_00000007_0000.nii.gz"}
    assert np.array_equal(volume(tmp_path / "out/imagesTs/BDMAP_00000003_0000.nii.gz"), volume(plain))
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert len(audit_nnunet_dataset(tmp_path / "out").training) == 8


def test_sars_cov_2_keeps_near_duplicates_together(tiny: Callable[[str], Path]) -> None:
    items = read_datalist(tiny("covid_ct_classification") / "converted")
    group = {Path(i["image"]).stem: i["group"] for part in items.values() for i in part}
    part_of = {Path(i["image"]).stem: part for part in items for i in items[part]}
    for index in range(1, 13):
        same = index % 3 == 0  # made from its predecessor
        one, other = (f"non_covid_Non-Covid_{number}" for number in (index, index - 1))
        if index > 1:
            assert (group[one] == group[other]) is same
            assert not same or part_of[one] == part_of[other]
    assert {label for part in items.values() for label in {i["label"] for i in part}} == {0, 1}


def test_near_duplicates_are_transitive_and_ignore_brightness() -> None:
    field = np.random.default_rng(0).integers(0, 120, (64, 64)).astype(np.uint8)
    other = np.random.default_rng(1).integers(0, 120, (64, 64)).astype(np.uint8)
    assert near_duplicates([field, other, field + 100, field // 2], 0.98) == [0, 1, 0, 0]


def test_imagewoof_is_squared_and_keeps_its_parts(tiny: Callable[[str], Path]) -> None:
    cases = read_datalist(tiny("dog_breed_classification") / "converted")
    assert {part: len(items) for part, items in cases.items() if items} == {"training": 30, "test": 20}
    shown = picture(next(case["image"] for case in cases["test"] if "n02115641" in case["image"]))
    assert shown.shape == (30, 30, 3)
    lit = shown[..., 0] > 100
    assert {tuple(lit.any(1)), tuple(lit.any(0))} == {(True,) * 30, (False,) * 5 + (True,) * 20 + (False,) * 5}


def test_msld_never_trains_on_a_copy_of_what_it_tests(tiny: Callable[[str], Path]) -> None:
    items = read_datalist(tiny("monkeypox_skin_classification") / "converted")
    stems = {part: [Path(item["image"]).stem for item in items[part]] for part in items}
    originals = {stem for part in stems for stem in stems[part] if stem.count("_") == 2}
    assert len(originals) == 30
    for part in ("validation", "test"):
        assert stems[part]
        assert set(stems[part]) <= originals  # no copy
        patients = {stem.rsplit("_", 1)[0] for stem in stems[part]}
        assert not any(stem.startswith(f"{patient}_") for patient in patients for stem in stems["training"])
    copies = [stem for stem in stems["training"] if stem not in originals]
    assert len(copies) == 3 * len(set(stems["training"]) & originals)
    labels = {stem.split("_")[0]: item["label"] for item in items["training"] for stem in [Path(item["image"]).stem]}
    assert labels == {"others": 0, "monkeypox": 1}


def test_large_covid_follows_the_tables(tmp_path: Path) -> None:
    source = write_source("covid_ct_slice_classification", tmp_path / "source")
    table = source / "meta_data_covid.csv"
    rows = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(rows[:-1]))  # one slice has no patient any more
    said = convert("covid_ct_slice_classification", source, tmp_path / "out")
    assert "1 images of 2COVID without a patient were left out" in said
    items = read_datalist(tmp_path / "out")
    groups = {part: {(item["label"], item["group"].split()[1]) for item in items[part]} for part in items}
    assert groups["test"] == {(0, "4"), (1, "4")}
    assert groups["training"] == {(label, str(patient)) for label in (0, 1) for patient in range(4)}


def test_refusals_before_anything_is_read(tmp_path: Path) -> None:
    message = r"unknown task with a converter 'brain'; valid: .*'medmixers list converters' lists all"
    with pytest.raises(ValueError, match=message):
        convert("brain", tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"no option --sise; valid: --size"):
        convert("colon_pathology_classification", tmp_path, tmp_path / "out", sise=28)
    with pytest.raises(ValueError, match=r"--size must be a whole number, got 'big'"):
        convert("colon_pathology_classification", tmp_path, tmp_path / "out", size="big")
    with pytest.raises(FileNotFoundError, match="there is no source"):
        convert("colon_pathology_classification", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        convert("colon_pathology_classification", tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"test_every must be 0, or a whole number from 2, got 1"):
        convert(
            "cardiac_mri_segmentation",
            write_source("cardiac_mri_segmentation", tmp_path / "s"),
            tmp_path / "o",
            test_every=1,
        )


def test_the_command(tmp_path: Path) -> None:
    write_source("cardiac_mri_segmentation", tmp_path / "source")
    command = [sys.executable, "-m", "medmixers", "dataset", "convert", "cardiac_mri_segmentation"]
    command += [str(tmp_path / "source"), str(tmp_path / "out"), "--test_every"]
    done = subprocess.run([*command, "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "test: 4 cases (groups: 2); holding right_ventricle 4, myocardium 4, left_ventricle 4" in done.stdout
    assert len(os.listdir(tmp_path / "out/labelsTs")) == 4
    again = subprocess.run([*command, "2"], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (
        2,
        f"medmixers: error: {tmp_path / 'out'} exists; choose another folder\n",
    )
