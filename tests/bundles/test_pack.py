"""A packed bundle: its bytes, what it says, and that it predicts where this package is not."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bundle_helpers import BRAIN, ROOT, USER_TASK, write_dataset
from monai.bundle import ConfigParser, download, load
from monai.data import load_net_with_metadata
from monai.handlers import write_metrics_reports
from small_bundle import NAME, start_weights, write_small_bundle

import preloaded
from medmixers.bundles.new import new_bundle
from medmixers.bundles.share import pack
from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.card import model_card, read_metrics
from medmixers.bundles.share.carried import vendored_name
from medmixers.bundles.share.export import MODELS, assert_close
from medmixers.bundles.share.pack import copy_bundle, pack_bundle
from medmixers.bundles.share.vendoring import renamed
from medmixers.bundles.verify import run_checks
from medmixers.bundles.verify.checks import verify_bundle
from medmixers.bundles.verify.hidden import environment_without_package
from medmixers.bundles.verify.subject import Subject

SCORES = {"class0": [0.5, 0.75, float("nan")], "class1": [0.25, 0.5, 0.6]}
has_onnx = pytest.mark.skipif(
    not all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="onnx, onnxruntime and onnxscript are not installed (the extra 'onnx')",
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, a training checkpoint and the CSV of an evaluation."""
    folder = tmp_path_factory.mktemp("sources")
    write_small_bundle(folder)
    torch.save({"model": start_weights(), "trainer": {"epoch": 3}}, folder / "checkpoint.pt")
    with open(folder / "val_mean_dice_raw.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", *SCORES])
        writer.writerows([f"case_{i}", *values] for i, values in enumerate(zip(*SCORES.values(), strict=True)))
    return folder


@pytest.fixture(scope="module")
def packed(sources: Path) -> tuple[Path, str]:
    """The zip that the command writes, and what it prints."""
    command = [preloaded.python(), "-m", "medmixers", "bundle", "pack", str(sources / NAME)]
    command += ["--weights", str(sources / "checkpoint.pt"), "--metrics", str(sources / "val_mean_dice_raw.csv")]
    done = subprocess.run([*command, "-o", str(sources / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sources / "out" / f"{NAME}_v0.1.0.zip", done.stdout


@pytest.fixture(scope="module")
def subject(packed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The unpacked zip under check."""
    return Subject(open_archive(packed[0], tmp_path_factory.mktemp("open")), tmp_path_factory.mktemp("scratch"))


def test_content(subject: Subject, sources: Path) -> None:
    root = subject.root
    weights = torch.load(root / "models" / "model.pt", weights_only=True)
    expected = start_weights()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    for name in ("train", "evaluate", "inference", "multi_gpu_train"):
        path = Path("configs") / f"{name}.json"
        assert as_installed(root, path) == (sources / NAME / path).read_text()
    package = root / str(vendored_name(root))
    for path in package.rglob("*.py"):
        if path.relative_to(package).as_posix() not in ("variants.py", "mixers/__init__.py"):  # the trimmed tables
            original = ROOT / "plugin" / "medmixers" / path.relative_to(package)
            assert as_installed(root, path.relative_to(root)) == original.read_text()


def as_installed(root: Path, path: Path) -> str:
    """Text of a file of the zip with the vendored package's name put back."""
    text = renamed((root / path).read_text(), "medmixers", old=str(vendored_name(root)))
    return text.replace("medmixers.factory.create_network", "medmixers.create_network")  # of the zip's configs


def test_metadata_card_and_readme_say_what_is_inside(subject: Subject) -> None:
    metadata = subject.metadata
    assert metadata["eval_metrics"] == {"class0": 0.625, "class1": pytest.approx(0.45)}
    assert "medmixers" not in metadata["required_packages_version"]
    card, readme = ((subject.root / "docs" / name).read_text() for name in ("model_card.md", "README.md"))
    for name, values in SCORES.items():
        known = np.array(values)[~np.isnan(values)]
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        numbers = [float(cell) for cell in row.strip("| ").split(" | ")[1:]]
        expected = [len(known), known.mean(), known.std(ddof=1), np.median(known), known.min(), known.max()]
        np.testing.assert_allclose(numbers, expected, atol=5e-5)
    for said in ("not for clinical use", "Fonov", "Apache-2.0", "grey_matter", "MNI ICBM152"):
        assert said in card
    for text in (json.dumps(metadata["description"]), readme):
        assert "without weights" not in " ".join(text.split())
    assert "untrained" not in readme.split("##")[0]
    assert "Install medmixers" not in readme


def test_metrics_of_all_cases_together(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier's metrics.csv has neither a header nor a row a case."""
    scores = {"val_f1": 0.875, "val_auc": 0.9375, "val_recall": float("nan")}
    monkeypatch.setattr(pack, "export_models", lambda bundle: dict.fromkeys(MODELS, "not exported: it takes seconds"))
    write_metrics_reports(str(tmp_path), None, scores, None, None)
    options = {"weights": sources / "checkpoint.pt", "out": tmp_path, "metrics": tmp_path / "metrics.csv"}
    packed = pack_bundle(sources / NAME, **options)
    assert str(packed).splitlines()[-1] == "without val_recall: it has no value in the evaluation"
    with zipfile.ZipFile(tmp_path / f"{NAME}_v0.1.0.zip") as archive:
        metadata = json.loads(archive.read(f"{NAME}/configs/metadata.json"))
        card = archive.read(f"{NAME}/docs/model_card.md").decode()
    assert metadata["eval_metrics"] == {"val_f1": 0.875, "val_auc": 0.9375}
    table = card[card.index("| metric |") : card.index("## Intended")].split("\n")
    assert table[2:5] == ["| val_f1 | 0.8750 |", "| val_auc | 0.9375 |", "| val_recall | - |"]


@pytest.mark.parametrize(
    ("text", "what"),
    [("file,cat,dog,prediction,truth\na.png,0.1,0.9,dog,dog\n", "probabilities"), ("class,mean\n1,0.5\n", "a summary")],
)
def test_tables_that_are_no_metrics(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.csv' holds {what}, no metrics: give metrics\.csv or \*_raw\.csv"):
        read_metrics(tmp_path / "x.csv")


def test_licence_of_the_data_is_the_tasks_own(tmp_path: Path) -> None:
    """The name of a user's task may begin like one of the catalogue's, whose data it is not."""
    task = {**USER_TASK, "name": "brain_tissue_segmentation_ours", "licence": "Ours alone."}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    bundle = new_bundle(str(tmp_path / "task.yaml"), network="token_unet", out=tmp_path)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    card = model_card(bundle.name, metadata, models=[], metrics="", code="")
    assert "Data: Ours alone; check what it allows before you share weights" in card


def test_command_states_digest_and_what_is_absent(packed: tuple[Path, str]) -> None:
    import hashlib

    path, printed = packed
    assert printed.splitlines()[:2] == [str(path), f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"]
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    for name in ("model.ts", "model.onnx"):
        assert (name in names) != (f"without {name}: " in printed)
    assert "model.ts" in names


def test_a_zip_without_exports_says_so(sources: Path, tmp_path: Path) -> None:
    done = pack_bundle(sources / NAME, weights=sources / "checkpoint.pt", out=tmp_path, exports=False)
    assert str(done).splitlines()[2:] == ["without model.ts: left out", "without model.onnx: left out"]
    opened = open_archive(done.path, tmp_path / "opened")
    assert [path.name for path in (opened / "models").iterdir()] == ["model.pt"]
    assert "- no models/model.onnx: left out" in (opened / "docs" / "model_card.md").read_text()


@pytest.mark.usefixtures("preload")
def test_packing_again_gives_the_same_bytes(
    packed: tuple[Path, str], sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(start_weights(), "flat.pt")  # flat or nested, the weights are the same
    again = pack_bundle(sources / NAME, weights="flat.pt", metrics=sources / "val_mean_dice_raw.csv")
    assert again.path.read_bytes() == packed[0].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [again.path.name, "flat.pt"]


def test_zip_names_no_machine(packed: tuple[Path, str]) -> None:
    with zipfile.ZipFile(packed[0]) as archive:
        for name in archive.namelist():
            for place in (str(ROOT), str(Path.home()) + "/", "site-packages", "/tmp/"):
                assert place.encode() not in archive.read(name), (name, place)


def test_torchscript_refuses_another_size(subject: Subject) -> None:
    model, metadata, extra = load_net_with_metadata(
        str(subject.root / "models" / "model.ts"), more_extra_files=["inference.json"]
    )
    network = subject.network()
    network.load_state_dict(start_weights())
    assert metadata == subject.metadata
    assert json.loads(extra["inference.json"])["network_name"] == "metaformer_segformer_s12"
    with torch.no_grad():
        image = torch.rand(5, 1, 16, 16, 16)
        assert_close(model(image), network(image))
        with pytest.raises(torch.jit.Error, match=r"exported for images of size \[16, 16, 16\], got \[16, 16, 17\]"):
            model(torch.rand(1, 1, 16, 16, 17))


@has_onnx
def test_onnx_gives_the_networks_numbers(subject: Subject) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(subject.root / "models" / "model.onnx"))
    network = subject.network()
    network.load_state_dict(start_weights())
    image = torch.rand(5, 1, 16, 16, 16)
    with torch.no_grad():
        assert_close(torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), network(image))


def test_every_row_of_the_zip_builds_and_nothing_else_is_needed(subject: Subject, tmp_path: Path) -> None:
    """Every module and every row from the zip, where all that is not required is hidden."""
    name = str(vendored_name(subject.root))
    modules = [
        ".".join(path.relative_to(subject.root).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((subject.root / name).rglob("*.py"))
    ]
    code = (
        "import sys, importlib, importlib.util; sys.path.insert(0, sys.argv[1])\n"
        "for module in sys.argv[3:]: importlib.import_module(module)\n"
        "ours = importlib.import_module(sys.argv[2] + '.factory')\n"
        "assert ours.__file__.startswith(sys.argv[1]), ours.__file__\n"
        "assert (ours.list_networks(), ours.list_mixers()) == (['metaformer_segformer_s12'], ['grouped_conv'])\n"
        "size = dict(spatial_dims=3, in_channels=1, out_channels=3, dims=[8] * 4)\n"
        "ours.create_network('metaformer_segformer_s12', mixer='grouped_conv', **size)\n"
        "for names in (('token_unet', 'grouped_conv'), ('metaformer_segformer_s12', 'pooling')):\n"
        "    try: ours.create_network(names[0], mixer=names[1], **size)\n"
        "    except ValueError as error: print(error)\n"
        "try: ours.create_network('metaformer_segformer_s12', mixer='grouped_conv', pretrained='x.pt', **size)\n"
        "except ValueError as error: print(error)\n"
        "for name in ('medmixers', 'nnunetv2', 'timm', 'SimpleITK', 'scipy', 'medmixers.cli.main', 'triton'):\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError: continue\n"
        "    if name != 'triton': raise SystemExit(name + ' is not hidden')  # which torch requires\n"
        "assert importlib.util.find_spec('nnunetv2') is None  # as packages ask whether another is there\n"
    )
    environment = environment_without_package(tmp_path / "hidden", subject.root, subject.metadata)
    command = [sys.executable, "-c", code, str(subject.root), name, *modules]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "unknown network of this zip 'token_unet'; valid: metaformer_segformer_s12",
        "unknown token mixer of this zip 'pooling'; valid: grouped_conv",
        "pretrained belongs to the installed package medmixers; here give weights",
    ]


def test_a_foreign_import_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "foreign_imports", lambda texts: {"SimpleITK"})
    with pytest.raises(ValueError, match=r"required_packages_version of .* lacks SimpleITK"):
        pack.vendor(ROOT / "bundles" / BRAIN)


def test_weights_of_the_folder_are_packed(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "export_models", lambda bundle: dict.fromkeys(MODELS, "not exported: it takes seconds"))
    bundle = write_small_bundle(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"small has no models/model\.pt: train it, or give --weights FILE"):
        pack_bundle(bundle, out=tmp_path)
    (bundle / "models").mkdir()
    torch.save(start_weights(), bundle / "models" / "model.pt")
    given = pack_bundle(bundle, weights=sources / "checkpoint.pt", out=tmp_path / "given")
    assert pack_bundle(bundle, out=tmp_path).path.read_bytes() == given.path.read_bytes()


@pytest.fixture
def without_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "export_models", lambda bundle: dict.fromkeys(MODELS, "not exported: it takes seconds"))


@pytest.mark.usefixtures("without_exports")
@pytest.mark.parametrize("state", ["as it was", "changed", "of the first zips"])
def test_an_opened_zip_packs_again_with_its_own_code(state: str, packed: tuple[Path, str], tmp_path: Path) -> None:
    """Its weights were trained with that code; another version of the package may be installed by then."""
    opened = open_archive(packed[0], tmp_path)
    name = str(vendored_name(opened))
    if state != "as it was":
        with open(opened / name / "factory.py", "a") as file:
            file.write("# of another version\n")
    if state == "of the first zips":  # they carried the code under the name of the installed package
        for path in [*(opened / name).rglob("*.py"), *(opened / "configs").glob("*.json")]:
            path.write_text(renamed(path.read_text(), "medmixers", old=name))
        (opened / name).rename(opened / "medmixers")
    given = as_installed(opened, Path(str(vendored_name(opened))) / "factory.py")
    paths = sys.path[:]
    again = open_archive(pack_bundle(opened, out=tmp_path).path, tmp_path / "again")
    new = str(vendored_name(again))
    assert (new == name) == (state == "as it was")
    assert [path.name for path in again.glob("medmixers*")] == [new]
    assert as_installed(again, Path(new) / "factory.py") == given
    for config in ("train", "evaluate", "inference", "multi_gpu_train"):
        path = Path("configs") / f"{config}.json"
        assert as_installed(again, path) == as_installed(opened, path)
        assert set(re.findall(r"medmixers\w*(?=\.)", (again / path).read_text())) <= {new}
    assert f"`{new}`, as it was in the opened zip" in (again / "docs" / "model_card.md").read_text()
    assert f"{new}.factory" in sys.modules  # which built the network that the weights are of
    assert not set(paths) ^ set(sys.path)
    checks = verify_bundle(pack_bundle(again, out=tmp_path / "third").path, static=True)
    assert not checks.failed


@pytest.mark.usefixtures("without_exports")
def test_code_of_an_opened_zip_that_was_changed_is_found(packed: tuple[Path, str], tmp_path: Path) -> None:
    """Under its old name it could meet the code that it was."""
    opened = open_archive(packed[0], tmp_path)
    name = str(vendored_name(opened))
    with open(opened / name / "errors.py", "a") as file:
        file.write("CHANGED = True\n")
    (fault,) = verify_bundle(opened, static=True).failed
    assert fault.note == f"{name} was changed after it was packed: pack the folder again, which renames it"


@pytest.mark.usefixtures("without_exports")
@pytest.mark.parametrize("wrong", ["medmixers.bundle_runtime.cases.find_image", "medmixers.bundling.cases.find_images"])
def test_configs_that_name_what_is_not_there_are_not_packed(wrong: str, sources: Path, tmp_path: Path) -> None:
    """Configs of an older version, or a slip: the zip would end in a traceback of MONAI."""
    bundle = write_small_bundle(tmp_path)
    config = bundle / "configs" / "inference.json"
    config.write_text(config.read_text().replace("medmixers.bundle_runtime.cases.find_images", wrong))
    with pytest.raises(ValueError, match=rf"^the configs of {NAME} name {wrong}, which medmixers [0-9.]+ does not def"):
        pack_bundle(bundle, weights=sources / "checkpoint.pt", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_code_outlives_the_folder_that_it_came_from(packed: tuple[Path, str], tmp_path: Path) -> None:
    """Consumers open a zip in a temporary folder, use a part of it, remove it, and open it again later."""
    roots = [open_archive(packed[0], tmp_path / name) for name in ("first", "second")]
    data = write_dataset(tmp_path / "Dataset001_Tiny", training=0, held_out=1)
    code = (
        "import shutil, sys, torch\n"
        "from monai.bundle import ConfigParser\n"
        "def parser_of(root):\n"
        "    parser = ConfigParser(); parser.read_config(root + '/configs/inference.json')\n"
        "    parser.update({'bundle_root': root, 'dataset_dir': sys.argv[3]}); return parser\n"
        "parser_of(sys.argv[1]).get_parsed_content('datalist'); shutil.rmtree(sys.argv[1])\n"
        "second = parser_of(sys.argv[2])\n"
        "print(len(second.get_parsed_content('datalist')), type(second.get_parsed_content('network_def')).__name__)\n"
    )
    command = [preloaded.python(), "-c", code, *map(str, roots), str(data)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "1 MetaFormerSegFormer"


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("sound", "configs/logging.conf", r"'configs/logging\.conf' is no kind of file that bundles hold"),
        ("sound", "docs/page.html", r"'docs/page\.html' is no kind of file that bundles hold"),
        (".hidden", "docs/more.md", r"'\.hidden' is not a bundle's name"),
        ("a name", "docs/more.md", r"'a name' is not a bundle's name"),
    ],
)
def test_what_open_refuses_is_not_packed(name: str, file: str, message: str, sources: Path, tmp_path: Path) -> None:
    bundle = tmp_path / name
    write_small_bundle(tmp_path).rename(bundle)
    (bundle / file).write_text("x")
    with pytest.raises(ValueError, match=message):
        pack_bundle(bundle, weights=sources / "checkpoint.pt", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unpacked_zip_predicts_without_this_package(subject: Subject, tmp_path: Path) -> None:
    """From /, with MONAI alone: voxel by voxel what the source tree's bundle predicts."""
    data = write_dataset(tmp_path / "Dataset001_Tiny", training=0, held_out=1)
    out = tmp_path / "predictions"
    root = subject.root
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(root)]
    command += ["--config_file", str(root / "configs" / "inference.json")]
    command += ["--dataset_dir", str(data), "--output_dir", str(out)]
    environment = environment_without_package(tmp_path / "hidden", root, subject.metadata)
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    source = write_small_bundle(tmp_path)
    (source / "models").mkdir()
    torch.save(start_weights(), source / "models" / "model.pt")
    parser = parser_of(source)
    parser["dataset_dir"], parser["output_dir"] = str(data), str(tmp_path / "expected")
    parser.get_parsed_content("evaluator").run()
    (expected,) = (tmp_path / "expected").iterdir()
    assert (out / expected.name).read_bytes() == expected.read_bytes()
    assert len(np.unique(np.frombuffer(expected.read_bytes(), np.uint8))) > 1


def parser_of(root: Path) -> Any:
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser["bundle_root"] = str(root)
    return parser


def test_consumers_loading_orders(subject: Subject) -> None:
    assert run_checks.check_consumers(subject) == "Slicer, Label, Deploy, two bundles"


def test_download_from_a_file_and_load(packed: tuple[Path, str], tmp_path: Path) -> None:
    """The model zoo's way: MONAI downloads the asset, unpacks it, and loads network and weights."""
    download(name=NAME, bundle_dir=tmp_path, url=packed[0].as_uri(), progress=False)
    arguments = tmp_path / "arguments.json"
    arguments.write_text(json.dumps({"bundle_root": str(tmp_path / NAME)}))
    network = load(
        NAME,
        bundle_dir=tmp_path,
        source="github",
        workflow_type="inference",
        args_file=str(arguments),
        device="cpu",
    )
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in start_weights().items())


def test_a_name_of_the_catalog_is_the_committed_bundle(tmp_path: Path) -> None:
    rendered = copy_bundle(BRAIN, tmp_path / "rendered")
    copied = copy_bundle(ROOT / "bundles" / BRAIN, tmp_path / "copied")
    names = {path.relative_to(copied) for path in copied.rglob("*") if path.is_file()}
    assert names == {path.relative_to(rendered) for path in rendered.rglob("*") if path.is_file()}
    assert all((rendered / name).read_bytes() == (copied / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "brain_tissue_segmentation_grouped"},
            r"'brain_tissue_segmentation_grouped' is no bundle's folder .* not one of: .*brain_tissue_segm",
        ),
        ({"weights": "nowhere.pt"}, r"--weights: there is no file 'nowhere\.pt'"),
        ({"weights": "other.pt"}, r"'other\.pt' holds the weights of another network"),
        ({"metrics": "nowhere.csv"}, r"there is no metrics file 'nowhere\.csv'"),
        ({"metrics": "empty.csv"}, r"'empty\.csv' holds no metrics: a row for each case"),
    ],
)
def test_bad_input_writes_nothing(
    change: dict[str, str], message: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Conv3d(1, 3, 1).state_dict(), "other.pt")
    Path("empty.csv").write_text("filename,class0\n")
    arguments: dict[str, Any] = {"weights": sources / "checkpoint.pt", "name": sources / NAME, "out": "out", **change}
    with pytest.raises((ValueError, OSError), match=message) as error:
        pack_bundle(arguments.pop("name"), **arguments)
    assert "\n" not in str(error.value)
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_new_environment_with_monai_alone(subject: Subject, tmp_path: Path) -> None:
    """A virtual environment with monai[fire,ignite,nibabel,tqdm] and nothing else; needs a package index."""
    python = tmp_path / "venv" / "bin" / "python"
    data = write_dataset(tmp_path / "Dataset001_Tiny", training=0, held_out=1)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    wanted = f"monai[fire,ignite,nibabel,tqdm]=={subject.metadata['monai_version']}"
    subprocess.run([str(python), "-m", "pip", "install", "-q", wanted], check=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    missing = subprocess.run([str(python), "-c", "import medmixers"], cwd="/", env=environment, capture_output=True)
    assert missing.returncode == 1
    command = [str(python), "-m", "monai.bundle", "run", "--bundle_root", str(subject.root)]
    command += ["--config_file", str(subject.root / "configs" / "inference.json")]
    command += ["--dataset_dir", str(data), "--output_dir", str(tmp_path / "predictions")]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["case_0.nii.gz"]
