"""The cache on disk serves a case only where nothing has changed that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
from bundle_helpers import BRAIN, ONE_OF_EACH, ROOT, write_dataset
from monai.bundle import ConfigParser
from monai.data import CacheDataset, MetaTensor
from tiny_datasets import convert_tiny

from medmixers.bundle_runtime import caching
from medmixers.bundle_runtime.cache_keys import described, with_file_facts
from medmixers.bundle_runtime.caching import preprocessing_facts
from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.bundles.catalog import BUNDLES
from medmixers.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run

FAST = ("cardiac_mri_segmentation_med_unext", "skin_lesion_classification_conv")
EVERY_KIND = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in ONE_OF_EACH
    if name != BRAIN and "abdomen" not in name
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are read."""
    names: list[str] = []
    load = BundleImageReader.get_data

    def counted(self: BundleImageReader, img: Any) -> Any:
        names.append(img[0].name)
        return load(self, img)

    monkeypatch.setattr(BundleImageReader, "get_data", counted)
    return names


def parsed(bundle: str, dataset: Path, **options: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / "train.json"))
    parser.update({"dataset_dir": str(dataset), "cache_dir": str(dataset.parent / "cache"), **options})
    return parser


def built(dataset: Path, key: str = "train", **options: Any) -> Any:
    data: Any = parsed(BRAIN, dataset, **options).get_parsed_content(f"{key}::dataset")
    return data


def taken(data: Any) -> Any:
    """The first case before its random transforms."""
    return data._cachecheck(data.data[0])


def assert_same_case(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key in ("image", "label"):
        assert isinstance(other[key], MetaTensor)
        assert torch.equal(one[key].as_tensor(), other[key].as_tensor())
        assert torch.equal(one[key].affine, other[key].affine)
        assert one[key].meta.keys() == other[key].meta.keys()
        names = [[each["class"] for each in case[key].applied_operations] for case in (one, other)]
        assert names[0] == names[1]


@pytest.mark.parametrize("key", ["train", "validate"])
def test_a_case_is_read_once_and_is_the_same(key: str, dataset: Path, reads: list[str]) -> None:
    first = taken(built(dataset, key))
    assert len(reads) == 1
    assert_same_case(first, taken(built(dataset, key)))
    assert len(reads) == 1, "another data set of the same settings reads it from disk"


@pytest.mark.parametrize("bundle", EVERY_KIND)
def test_cases_of_every_kind_are_served(bundle: str, tmp_path: Path, reads: list[str]) -> None:
    """2D and 3D, regions, masks, classes, slices: what their transforms leave in the metadata can be read back."""
    data = convert_tiny(BUNDLES[bundle].task_spec.name, tmp_path / "data")
    served = []
    for _ in range(2):
        parser = parsed(bundle, data, sampling_ratios=[1.0], class_weights=[1.0])
        served += [parser.get_parsed_content(f"{key}::dataset")._cachecheck for key in ("train", "validate")]
        cases = [parser.get_parsed_content(f"{key}::dataset::data")[0] for key in ("train", "validate")]
    first = [take(case) for take, case in zip(served[:2], cases, strict=True)]
    count = len(reads)
    again = [take(case) for take, case in zip(served[2:], cases, strict=True)]
    assert len(reads) == count == 2
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["image"].as_tensor(), other["image"].as_tensor())
        assert (
            one["label"] == other["label"]
            if isinstance(one["label"], int)
            else torch.equal(one["label"], other["label"])
        )


def changed_image(dataset: Path) -> None:
    other = (dataset / "imagesTr" / "case_0_0000.nii.gz").read_bytes()
    (dataset / "imagesTr" / "case_1_0000.nii.gz").write_bytes(other)


def replaced_with_kept_dates(dataset: Path) -> None:
    """A file of the same size and date."""
    for path in (dataset / "labelsTr").iterdir():
        stat, new = path.stat(), path.with_suffix(".new")
        new.write_bytes(path.read_bytes())
        os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.replace(new, path)


def nothing(dataset: Path) -> None:
    pass


CHANGES: list[tuple[str, Callable[[Path], None], dict[str, Any]]] = [
    ("image", changed_image, {}),
    ("label with its dates kept", replaced_with_kept_dates, {}),
    ("spacing", nothing, {"train::deterministic_transforms::5::pixdim": [2.0, 2.0, 1.0]}),
    ("interpolation", nothing, {"train::deterministic_transforms::5::mode": ["nearest", "nearest"]}),
    ("intensity", nothing, {"train::deterministic_transforms::6::nonzero": False}),
    ("patch, to which small images are padded", nothing, {"roi_size": [32, 32, 32]}),
    ("reader", nothing, {"image_reader::volumes_as_channels": True}),
    ("label values", nothing, {"label_reader::values": [0, 1, 2, 3]}),
]


@pytest.mark.parametrize(("change", "options"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES])
def test_a_change_is_never_served_from_the_old_cache(
    change: Callable[[Path], None], options: dict[str, Any], dataset: Path, reads: list[str]
) -> None:
    taken(built(dataset))
    change(dataset)
    found = taken(built(dataset, **options))
    assert len(reads) == 2
    expected = built(dataset, cache_dir=None, cache_rate=1.0, **options)
    assert isinstance(expected, CacheDataset)
    assert_same_case(expected._cache[0], found)


def test_other_random_transforms_and_options_share_the_cache(dataset: Path, reads: list[str]) -> None:
    taken(built(dataset))
    taken(built(dataset, learning_rate=1.0, num_workers=0, patches_per_image=1, seed=7))
    assert len(reads) == 1


def test_new_code_or_a_new_monai_reads_again(dataset: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken(built(dataset))
    monkeypatch.setattr(monai, "__version__", "99")
    taken(built(dataset))
    monkeypatch.undo()
    monkeypatch.setattr(caching, "code_digest", lambda *_: "of other code")
    before = preprocessing_facts(built(dataset).transform)
    monkeypatch.undo()
    assert before != preprocessing_facts(built(dataset).transform)


def test_a_file_that_changes_while_it_is_read_is_not_kept(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = built(dataset)
    load = data._pre_transform

    def slow(case: Any) -> Any:
        loaded = load(case)
        os.utime(case["image"])
        return loaded

    monkeypatch.setattr(data, "_pre_transform", slow)
    taken(data)
    assert not (dataset.parent / "cache").exists()


def test_a_torn_file_is_written_again(dataset: Path, reads: list[str]) -> None:
    expected = taken(built(dataset))
    (file,) = (dataset.parent / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1000])
    assert_same_case(expected, taken(built(dataset)))
    assert_same_case(expected, taken(built(dataset)))
    assert len(reads) == 2


def test_a_case_that_another_process_writes_is_not_waited_for(dataset: Path) -> None:
    data = built(dataset)
    file = data.file_of(data.data[0])
    file.parent.mkdir()
    hold = "import sys; from pathlib import Path; from medmixers.files import held\n"
    hold += "with held(Path(sys.argv[1]), Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(file.parent / f".{file.name}.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert isinstance(taken(data)["image"], MetaTensor)
        other.communicate()
    assert not file.exists()


def test_other_cases_delete_nothing(dataset: Path) -> None:
    data = built(dataset)
    taken(data)
    files = list((dataset.parent / "cache").iterdir())
    data.set_data([])
    assert list((dataset.parent / "cache").iterdir()) == files


def test_the_note_says_how_many_cases_are_there(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken(built(dataset))
    built(dataset)
    folder = dataset.parent / "cache"
    notes = [f"medmixers: note: {count} of 1 cases are cached in {folder}" for count in (0, 1)]
    assert capsys.readouterr().out.splitlines() == notes


@pytest.mark.parametrize("bundle", ONE_OF_EACH)
def test_the_key_is_the_same_in_every_process_and_run(bundle: str, tmp_path: Path) -> None:
    """The transforms of every kind of bundle have a description, which building them again gives again."""
    parsers = [parsed(bundle, tmp_path) for _ in range(2)]
    facts = []
    for parser in parsers:
        parser.update({"sampling_ratios": [1.0], "class_weights": [1.0]})
        keys = ("train", "validate")
        facts.append([preprocessing_facts(parser.get_parsed_content(f"{key}::preprocessing")) for key in keys])
    assert facts[0] == facts[1]
    assert facts[0][0] != facts[0][1] or "classification" in bundle
    assert " at 0x" not in str(facts), "an address differs in the next process"


class Plain:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def clip(image: Any, *, low: float) -> Any:
    return image


def circular(value: int) -> Plain:
    one = Plain(value=value)
    one.other = Plain(back=one)
    return one


DIFFERENT: list[Any] = [
    None, True, 1, 1.0, "1", b"1", [1], {"1": 1}, {1}, 2, 1.5, torch.float32, np.float32(1), np.ones(1), torch.ones(2),
    np.ones((1, 1)), Path("1"), clip, partial(clip, low=1.0), partial(clip, low=2.0), torch.Tensor.bool, Plain,
    Plain(a=1), Plain(a=2), Plain(b=1), BundleImageReader(spatial_dims=2, channels=1),
    BundleImageReader(spatial_dims=2, channels=3), Plain(a=1).__init__, circular(1), circular(2), np.ones(1, np.int64),
]  # fmt: skip


def test_different_values_have_different_descriptions() -> None:
    texts = [str(described(value)) for value in DIFFERENT]
    assert len(set(texts)) == len(texts)


def test_equal_values_have_equal_descriptions() -> None:
    assert described({"a": 1, "b": {2, 3}}) == described({"b": {3, 2}, "a": 1})
    reader = BundleImageReader(spatial_dims=2, channels=1)
    before = described(reader)
    reader.said.add("a note that was printed")
    assert described(reader) == before
    assert described(circular(1)) == described(circular(1))


@pytest.mark.parametrize("value", [lambda x: x, Plain(func=lambda x: x), object(), np.random.RandomState(0)])
def test_what_cannot_be_described_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^--cache_dir: nothing tells what .* in a transform does; leave"):
        described(value)


def test_files_of_a_folder_count_and_detached_headers_are_refused(tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"1")
    case = {"image": str(series), "label": 1, "group": "no file"}
    before = with_file_facts(case)
    assert before[1:] == [None, None]
    (series / "2.dcm").write_bytes(b"2")
    assert with_file_facts(case) != before
    (tmp_path / "a.mhd").write_text("")
    with pytest.raises(InputError, match=r"a\.mhd' lie in another file, so no change of them would be seen"):
        with_file_facts({"image": [str(tmp_path / "a.mhd")]})
