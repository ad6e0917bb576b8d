"""The faults of cases.json that no image file holds, by name: each opens a door with its input.

A door returns where it takes the input, and may check what it read; what it refuses, it raises.
"""

from __future__ import annotations

import gzip
import json
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from dicom_files import DX, write_dicom, write_series
from kinds import AFFINE, SHAPE, VOXELS, nifti

import medmixers
from medmixers.bundle_runtime.cases import find_images
from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.bundle_runtime.options import check_value
from medmixers.bundle_runtime.preflight import check_training
from medmixers.bundle_runtime.preflight_files import check_folders
from medmixers.bundle_runtime.preflight_raw import RawCases
from medmixers.bundle_runtime.preflight_weights import check_start_weights
from medmixers.bundles.share.archive import MANIFEST, manifest_text, open_archive, write_archive
from medmixers.bundles.share.card import read_metrics
from medmixers.checkpoints import matching_weights, read_checkpoint
from medmixers.cli.main import main
from medmixers.images.dicom import read_dicom_picture, read_volume
from medmixers.networks.weights import load_weights
from medmixers.nnunet.architecture import plans_architecture
from medmixers.tasks.from_yaml import load_task
from zipped_files import FILES, tensors

Door = Callable[[Path], Any]


class Payload:
    """An object whose unpickling would write a file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("executed", "w")


def zipped(root: str = "demo", add: Mapping[str, bytes] | None = None, **changes: Any) -> Door:
    """Open a zip of these files with a true manifest, and then with entries that the manifest does not name."""

    def door(folder: Path) -> None:
        files = FILES | changes.get("files", {})
        entries = {f"{root}/{path}": data for path, data in {**files, MANIFEST: manifest_text(files).encode()}.items()}
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**entries, **(add or {})}.items():
                archive.writestr(name, data)
            if "link" in changes:
                link = zipfile.ZipInfo(changes["link"])
                link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                archive.writestr(link, "/etc/passwd")
        if "cut" in changes:
            content = (folder / "a.zip").read_bytes()
            (folder / "a.zip").write_bytes(content[: -changes["cut"]])
        try:
            open_archive(folder / "a.zip", folder / "out")
        finally:
            assert {path.name for path in folder.glob("out/*")} <= {"demo"}

    return door


TASK = {
    "name": "mine", "title": "Mine", "task": "segmentation", "modality": "MR", "spatial_dims": 3, "channels": ["T1"],
    "labels": ["background", "organ"], "spacing": [1, 1, 1], "intensity": "zscore", "licence": "l", "citation": "c",
    "data_source": "d", "intended_use": "i", "limits": "l",
}  # fmt: skip


def evaluated_metric(folder: Path) -> None:
    (folder / "metrics.csv").write_text("filename,$__import__('os').system('touch executed')\na#1.nii.gz,0.5\n")
    read_metrics(folder / "metrics.csv")


def task(text: str | None = None, **changes: Any) -> Door:
    def door(folder: Path) -> None:
        (folder / "task.yaml").write_text(yaml.safe_dump(TASK | changes) if text is None else text)
        load_task(folder / "task.yaml")

    return door


def aliases() -> str:
    lines = ["- &b0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"- &b{k} [{', '.join([f'*b{k - 1}'] * 10)}]" for k in range(1, 8)])


def raw(folder: Path, **description: Any) -> Path:
    """A sound data set of six cases, and dataset.json with changes."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    for case in "abcdef":
        nifti(VOXELS + ord(case))(folder / f"imagesTr/{case}_0000.nii.gz")
        nifti(np.ones(SHAPE, np.uint8))(folder / f"labelsTr/{case}.nii.gz")
    content = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**content, "numTraining": 6, **description}))
    return folder


def checked(prepare: Callable[[Path], Any] = lambda folder: None, **description: Any) -> Door:
    """`medmixers dataset check` of a data set with a fault."""

    def door(folder: Path) -> None:
        prepare(raw(folder, **description))
        main(["dataset", "check", str(folder)])

    return door


def splits(folds: Any, *, training: bool = False) -> Door:
    def write(folder: Path) -> None:
        (folder / "splits_final.json").write_text(json.dumps(folds))

    def door(folder: Path) -> None:
        write(raw(folder))
        reader = BundleImageReader(spatial_dims=3, channels=1)
        options = {"validation_every": 2, "network": torch.nn.Identity(), "pretrained_ckpt": None}
        check_training(
            dataset_dir=str(folder),
            image_reader=reader,
            label_values=[0, 1],
            raw=RawCases(),
            resume_ckpt=None,
            **options,
        )

    return door if training else checked(write)


def listed(*entries: str) -> Door:
    """`medmixers dataset check` of a datalist.json with these images, in training and test."""

    def door(folder: Path) -> None:
        for name in ("a", "b"):
            nib.save(nib.Nifti1Image(VOXELS, AFFINE), folder / f"{name}.nii.gz")
        items = [{"image": name.partition("@")[0], "label": 0, "group": name.partition("@")[2]} for name in entries]
        content = {"training": items[:1], "validation": [], "test": items[1:]}
        (folder / "datalist.json").write_text(json.dumps(content))
        main(["dataset", "check", str(folder)])

    return door


NETWORK = torch.nn.Linear(2, 2)


def weights(change: Callable[[dict[str, Any]], Any]) -> Door:
    """Read weights for a bundle's network."""

    def door(folder: Path) -> None:
        state = {name: value.clone() for name, value in NETWORK.state_dict().items()}
        (folder / "model.pt").write_bytes(tensors(change(state)))
        matching_weights("model.pt", read_checkpoint(folder / "model.pt"), NETWORK)

    return door


def unreadable(content: bytes) -> Door:
    def door(folder: Path) -> None:
        (folder / "model.pt").write_bytes(content)
        read_checkpoint(folder / "model.pt")

    return door


def own_weights(channels: int = 1, classes: int = 2, **options: Any) -> Door:
    """Weights of a 3D network with 1 channel and 2 classes into one with others."""

    def door(folder: Path) -> None:
        load_weights(own_network(channels, classes), own_network().state_dict(), **options)

    return door


SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "spatial_dims": 3, "mixer": "pooling"}


def own_network(channels: int = 1, classes: int = 2) -> torch.nn.Module:
    return medmixers.create_network("metaformer_segformer_s12", in_channels=channels, out_channels=classes, **SIZES)


def start(channels: int = 1, *, adapt: bool) -> Door:
    """The start weights of a training, of 1 channel and 2 classes, for a network of 5 classes."""

    def door(folder: Path) -> None:
        torch.save(own_network().state_dict(), folder / "start.pt")
        check_start_weights(str(folder / "start.pt"), own_network(channels, 5), adapt=adapt)

    return door


def wrapped(prefix: str, **more: Any) -> Door:
    """Weights whose names begin with the prefix of a wrapper."""

    def door(folder: Path) -> None:
        state = {f"{prefix}{name}": value for name, value in own_network().state_dict().items()}
        torch.save({"state_dict": state, **more}, folder / "weights.ckpt")
        network = own_network()
        assert len(load_weights(network, folder / "weights.ckpt").loaded) == len(state)

    return door


def new_bundle(*words: str) -> Door:
    """`medmixers bundle new` for the task of this file, on the data set of this file."""

    def door(folder: Path) -> None:
        (folder / "task.yaml").write_text(yaml.safe_dump(TASK | {"labels": ["background", "organ", "tumour"]}))
        raw(folder)
        main(["bundle", "new", str(folder / "task.yaml"), "--out", str(folder / "out"), *words])

    return door


CUBE = np.arange(8 * 6 * 8, dtype=np.int16).reshape(8, 6, 8)


def series(*parts: Mapping[str, Any]) -> Door:
    """One folder with the slices of one or more series."""

    def door(folder: Path) -> None:
        for number, tags in enumerate(parts):
            place = folder / "s" if number == 0 else folder / str(number)
            write_series(place, CUBE, **tags)
            for file in () if number == 0 else place.iterdir():
                file.rename(folder / "s" / f"{number}_{file.name}")
        np.testing.assert_array_equal(read_volume(folder / "s").voxels, CUBE)

    return door


def start_cut(count: int | None) -> Door:
    """A series whose last slice lacks its first bytes; None: all of them."""

    def door(folder: Path) -> None:
        last = write_series(folder / "s", CUBE) / "001.dcm"
        last.write_bytes(last.read_bytes()[count:] if count else b"")
        np.testing.assert_array_equal(read_volume(folder / "s").voxels, CUBE)

    return door


def localizer(folder: Path) -> None:
    write_series(folder / "s", CUBE)
    directions = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [40, 0, 200]}
    write_dicom(folder / "s/999.dcm", CUBE[:, :, 0], PixelSpacing=[2, 2], **directions)
    read_volume(folder / "s")


def tilted(folder: Path) -> None:
    for k in range(8):
        write_series(folder / "s", CUBE, kept=[k], ImagePositionPatient=[0, 0.5 * k, 2 * k])
    read_volume(folder / "s")


def x_ray(white: int, expected: float, **tags: Any) -> Door:
    """A single DICOM image, half of it at a stored value."""

    def door(folder: Path) -> None:
        pixels = np.full((4, 6), white, np.uint16)
        file = write_dicom(folder / "a.dcm", pixels, sop_class=DX, **tags)
        np.testing.assert_allclose(read_dicom_picture(file).pixels, expected, atol=0.01)

    return door


def film(folder: Path) -> None:
    read_dicom_picture(write_dicom(folder / "f.dcm", np.zeros((3, 4, 5), np.uint8), NumberOfFrames=3))


def output(place: str) -> Door:
    """The output folder of a prediction on imagesTr."""

    def door(folder: Path) -> None:
        raw(folder)
        (folder / "link").symlink_to(folder / "imagesTr")
        check_folders([str(folder / place)], [folder / "imagesTr/a_0000.nii.gz"])

    return door


def other_pictures(folder: Path) -> None:
    for name in ("a.png", "b.tif", "c.webp"):
        (folder / name).write_bytes(b"")
    assert [Path(file).name for file in find_images(folder, channels=3)] == ["a.png", "b.tif", "c.webp"]


def extension_bomb(folder: Path) -> None:
    """A header extension of 2 GB."""
    content = bytearray(nib.Nifti1Image(VOXELS, AFFINE).to_bytes())
    content[348] = 1
    struct.pack_into("<f", content, 108, 368)  # where the voxels begin
    content[352:352] = (2**31 - 16).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"x" * 8
    raw(folder)
    (folder / "imagesTr/a_0000.nii.gz").write_bytes(gzip.compress(bytes(content)))
    main(["dataset", "check", str(folder)])


def network(name: str = "metaformer_s12", **options: Any) -> Door:
    return lambda folder: medmixers.create_network(name, spatial_dims=2, in_channels=1, out_channels=2, **options)


def cli(*words: str) -> Door:
    return lambda folder: main(list(words))


FLAT = {"model": {"weight": torch.zeros(2, 2)}}
DOORS: dict[str, Door] = {
    # zips
    "zip: root .ipython": zipped(".ipython"),
    "zip: root .vscode": zipped(".vscode"),
    "zip: entry ../evil.py": zipped(add={"../evil.py": b"1"}),
    "zip: absolute path": zipped(add={"/evil.py": b"1"}),
    "zip: drive letter": zipped(add={"C:/evil.py": b"1"}),
    "zip: symbolic link": zipped(link="demo/link.py"),
    "zip: file that the manifest does not name": zipped(add={"demo/evil.py": b"1"}),
    "zip: changed file": zipped(add={"demo/LICENSE": b"Apache license"}),
    "zip: two roots": zipped(add={"other/a.py": b"1"}),
    "zip: hidden folder": zipped(files={".git/x.py": b"1"}),
    "zip: pickle as model.pt": zipped(files={"models/model.pt": pickle.dumps(Payload())}),
    "zip: weights with an object": zipped(files={"models/model.pt": tensors(Payload())}),
    "zip: unpacks to 1000 times its size": zipped(files={"configs/a.json": bytes(2**24)}),
    "zip: cut off": zipped(cut=40),
    "zip: sound": zipped(),
    "pack: file that open refuses": lambda folder: write_archive(
        folder / "a.zip", "demo", {**FILES, "docs/a.html": b""}
    ),
    # YAML
    "pack: metric that MONAI would evaluate": evaluated_metric,
    "task: label that MONAI would evaluate": task(labels=["background", "$__import__('os').system('touch executed')"]),
    "task: channel that begins with %": task(channels=["%train.json"]),
    "task: title that begins with @": task(title="@network"),
    "task: aliases that expand to 10^8 words": task("title:\n" + aliases() + "\n"),
    "task: Python object": task("title: !!python/object/apply:os.system ['touch executed']\n"),
    "task: 5000 brackets": task("[" * 5000),
    "task: spacing NaN": task(spacing=[1, 1, float("nan")]),
    "task: spacing infinite": task(spacing=[1, 1, float("inf")]),
    "task: spacing 1e-9": task(spacing=[1, 1, 1e-9]),
    "task: window of 1e300": task(intensity="window", window=[0, 1e300]),
    "task: region id 300": task(multi_label=True, labels=["all", "core"], regions={"all": [1, 300], "core": [300]}),
    "task: unknown field": task(spacings=[1, 1, 1]),
    # splits
    "splits_final.json: empty val, checked": splits([{"train": ["a", "b"], "val": []}]),
    "splits_final.json: empty val, trained": splits([{"train": ["a", "b"], "val": []}], training=True),
    "splits_final.json: case in train and val, checked": splits([{"train": ["a", "b"], "val": ["a"]}]),
    "splits_final.json: case in train and val, trained": splits([{"train": ["a", "b"], "val": ["a"]}], training=True),
    "splits_final.json: no fold": splits([]),
    "splits_final.json: unknown case": splits([{"train": ["a"], "val": ["z"]}]),
    "splits_final.json: another form": splits({"train": ["a"]}),
    # descriptions of data sets
    "dataset.json: channel_names the wrong way round": checked(channel_names={"T1": 0}),
    "dataset.json: regions_class_order that loses a label": checked(
        labels={"background": 0, "whole": [1, 2, 3], "core": [1, 2], "enhancing": 1}, regions_class_order=[1, 2, 3]
    ),
    "dataset.json: numTraining of other cases": checked(numTraining=9),
    "dataset.json: 100 000 brackets": checked(lambda folder: (folder / "dataset.json").write_text("[" * 100_000)),
    "imagesTr: hidden ._ file": checked(lambda folder: (folder / "imagesTr/._a_0000.nii.gz").write_bytes(b"")),
    "imagesTr: image of another file_ending": checked(lambda folder: nifti(VOXELS)(folder / "imagesTr/x_0000.nii")),
    "imagesTr: channel missing": checked(channel_names={"0": "T1", "1": "T2"}),
    "labelsTr: label 7": checked(lambda folder: nifti(np.full(SHAPE, 7, np.uint8))(folder / "labelsTr/b.nii.gz")),
    "labelsTr: label 1.5": checked(lambda folder: nifti(np.full(SHAPE, 1.5))(folder / "labelsTr/b.nii.gz")),
    "labelsTr: label of another shape": checked(
        lambda folder: nifti(np.ones(SHAPE, np.uint8)[1:])(folder / "labelsTr/b.nii.gz")
    ),
    "NIfTI header extension of 2 GB": extension_bomb,
    "datalist.json: image in two parts": listed("a.nii.gz", "a.nii.gz"),
    "datalist.json: image in two parts, other spelling": listed("a.nii.gz", "./a.nii.gz"),
    "datalist.json: group in two parts": listed("a.nii.gz@g", "b.nii.gz@g"),
    "datalist.json: image that is missing": listed("a.nii.gz@1", "c.nii.gz@2"),
    # weights
    "weights: NaN": weights(lambda state: {**state, "bias": state["bias"] * float("nan")}),
    "weights: whole numbers": weights(lambda state: {name: value.long() for name, value in state.items()}),
    "weights: complex numbers": weights(lambda state: {name: value + 0j for name, value in state.items()}),
    "weights: double precision": weights(lambda state: {name: value.double() for name, value in state.items()}),
    "weights: under the key model": weights(lambda state: {"model": state, "epoch": 3}),
    "weights: another network": weights(lambda state: {"other": state["bias"]}),
    "weights: a list": weights(lambda state: [state]),
    "weights: pickle that runs code": unreadable(pickle.dumps(Payload())),
    "checkpoint of nnU-Net that runs code": unreadable(tensors({**FLAT, "x": Payload()})),
    "checkpoint of nnU-Net with NumPy's numbers": unreadable(tensors({**FLAT, "x": np.float64(0.5)})),
    "weights: cut off": unreadable(tensors(FLAT)[:-100]),
    "weights: text": unreadable(b"version https://git-lfs.github.com/spec/v1"),
    "weights of one's own: other channels in 3D": own_weights(channels=3),
    "weights of one's own: other classes": own_weights(classes=5),
    "weights of one's own: other classes, last layer left out": own_weights(classes=5, other_classes=True),
    # DICOM
    "DICOM: series": series({}),
    "DICOM: series with unequal voxel edges": series({"spacing": (1.5, 1.0, 3.0)}),
    "DICOM: missing slices": series({"kept": [0, 1, 2, 5, 6, 7]}),
    "DICOM: two series in one folder": series({}, {"SeriesInstanceUID": "1.2.4"}),
    "DICOM: slice twice": series({}, {"kept": [3]}),
    "DICOM: two echoes": series({"EchoNumbers": 1}, {"EchoNumbers": 2}),
    "DICOM: slices of two spacings": series({"kept": list(range(7))}, {"kept": [7], "PixelSpacing": [1, 1]}),
    "DICOM: slices without positions": series({"ImagePositionPatient": None}),
    "DICOM: localizer in the series": localizer,
    "DICOM: gantry tilt": tilted,
    "DICOM: slices without preamble": start_cut(132),
    "DICOM: empty slice": start_cut(None),
    "DICOM: place of two numbers": series({"kept": list(range(7))}, {"kept": [7], "ImagePositionPatient": [0, 0]}),
    "DICOM: slope in some slices only": series(
        {"kept": list(range(7)), "RescaleSlope": 1, "RescaleIntercept": 0}, {"kept": [7]}
    ),
    "DICOM: two patients in one series": series({"kept": list(range(7))}, {"kept": [7], "PatientID": "another"}),
    "DICOM: film of frames as a picture": film,
    "DICOM picture: 12 of 16 bits": x_ray(4095, 255, BitsStored=12),
    "DICOM picture: MONOCHROME1": x_ray(4095, 0, BitsStored=12, PhotometricInterpretation="MONOCHROME1"),
    "DICOM picture: 16 bits": x_ray(65535, 255),
    # outputs
    "output: the folder of the images": output("imagesTr"),
    "output: a link to it": output("link"),
    "output: in labelsTr": output("labelsTr/out"),
    "output: another folder": output("predictions"),
    "folder of PNG, TIFF and WebP": other_pictures,
    # options
    "network: unknown name": network("metaformer_s21"),
    "network: unknown mixer": network(mixer="poolng"),
    "network: unknown option": network(kernel=3),
    "network: kernel size 0": network(mixer="conv", kernel_size=0),
    "network: even kernel size": network(mixer="conv", kernel_size=4),
    "plans: two levels with deep supervision": lambda folder: plans_architecture(
        "token_unet", patch_size=(32, 32, 32), pools=[[1, 1, 1], [2, 2, 2], [2, 2, 2]], options={"channels": [8, 16]}
    ),
    "command: unknown option": cli("dataset", "check", "x", "--reprot", "a.html"),
    "command: unknown task": cli("dataset", "convert", "skin", "x", "y"),
    "command: report that is no HTML file": lambda folder: main(
        ["dataset", "check", str(raw(folder)), "--report", str(folder / "imagesTr/a_0000.nii.gz")]
    ),
    "option: device abc": lambda folder: check_value("device", "abc"),
    "option: overlap 1.0": lambda folder: check_value("overlap", 1.0, 0.5),
    "option: layer_decay 2": lambda folder: check_value("layer_decay", 2),
    "option: ema_decay 1": lambda folder: check_value("ema_decay", 1),
    "bundle new: recipe of pictures for volumes": new_bundle("--network", "token_unet", "--recipe", "yu2023"),
    "pretrained_ckpt: other classes": start(adapt=False),
    "pretrained_ckpt: other classes and channels, pretrained_adapt": start(3, adapt=True),
    "weights of one's own: under Lightning's model. in state_dict": wrapped("model.", epoch=3),
    "weights of one's own: of a wrapper, module.": wrapped("module."),
    "bundle new: unknown recipe": new_bundle("--network", "token_unet", "--recipe", "shrt"),
    "bundle new: roi_size 0": new_bundle("--network", "token_unet", "--roi_size", "0,16,16"),
    "bundle new: stem_stride 0": new_bundle("--network", "metaformer_segformer_s12", "--stem_stride", "0"),
    "bundle new: data of other labels": new_bundle("--network", "token_unet", "--data", "."),
    "bundle new: data that are missing": new_bundle("--network", "token_unet", "--data", "gone"),
    "datalist.json: image twice in a part": listed("a.nii.gz@1", "b.nii.gz@2", "./b.nii.gz@2"),
}
