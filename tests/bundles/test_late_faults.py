"""A fault behind the cases that a start looks at ends the training in one line when its case is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_helpers import BRAIN, SHAPE, last_words, run_bundle, run_here, save, write_dataset

from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.bundle_runtime.label_reader import BundleLabelReader
from medmixers.datasets.audit import audit_nnunet_dataset
from medmixers.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
IMAGE, LABEL = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)


def with_nan(path: Path) -> None:
    image = IMAGE.copy()
    image[3, 4, 5] = np.nan
    save(path, image)


def with_label(value: Any) -> Any:
    def spoil(path: Path) -> None:
        label = LABEL.astype(np.asarray(value).dtype)
        label[3, 4, 5] = value
        save(path, label)

    return spoil


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-6])  # gzip's checksum and length: every voxel is there


FAULTS = [
    ("imagesTr/case_5_0000.nii.gz", with_nan, "holds NaN or infinity in 1 of"),
    ("imagesTr/case_5_0000.nii.gz", lambda path: save(path, 0 * IMAGE), "is 0 in all of its"),
    ("imagesTr/case_4_0000.nii.gz", truncated, "cannot be read"),
    ("labelsTr/case_5.nii.gz", with_label(np.uint8(7)), "holds label 7, which is no label of the data set"),
    ("labelsTr/case_5.nii.gz", with_label(np.int16(-1)), "holds label -1, which"),
    ("labelsTr/case_4.nii.gz", with_label(np.float32(1.9999)), "holds label 1.9999, which"),
]


@pytest.mark.parametrize(("file", "spoil", "message"), FAULTS)
def test_the_readers_refuse_what_the_check_refuses(file: str, spoil: Any, message: str, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Tiny", training=10, held_out=0)
    spoil(dataset / file)
    values = [0, 1, 2]
    reader = BundleLabelReader(values=values) if "labels" in file else BundleImageReader(spatial_dims=3, channels=1)
    for read in (lambda: reader.get_data(reader.read(str(dataset / file))), lambda: audit_nnunet_dataset(dataset)):
        with pytest.raises(InputError, match=re.escape(f"{file} {message}")):
            read()


@pytest.mark.parametrize(("cache_rate", "fault"), [(1.0, FAULTS[3]), (0.0, FAULTS[5])])
def test_a_late_case(cache_rate: float, fault: tuple[str, Any, str], tmp_path: Path) -> None:
    """Case 5 validates and case 4 trains; with a cache both are loaded before the engines start."""
    file, spoil, message = fault
    dataset = write_dataset(tmp_path / "Dataset001_Tiny", training=10, held_out=0)
    spoil(dataset / file)
    options = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval"), "cache_rate": cache_rate}
    with pytest.raises(SystemExit) as error:
        run_here("train", bundle=BRAIN, dataset_dir=str(dataset), epochs=1, **options)
    assert f"{file} {message}" in last_words(error)
    assert not list(tmp_path.glob("models/*.pt"))


def test_a_late_case_in_a_worker_of_the_loader(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Tiny", training=10, held_out=0)
    with_nan(dataset / "imagesTr" / "case_5_0000.nii.gz")
    options = {"cache_rate": "0.0", "num_workers": "1", "epochs": "1", "ckpt_dir": "models", "output_dir": "eval"}
    done = run_bundle(tmp_path, "train", dataset_dir=str(dataset), **options)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert line.startswith("medmixers: error: ")
    assert "case_5_0000.nii.gz holds NaN or infinity in 1 of" in line
    assert "Traceback" not in done.stderr
