"""Whole slides: the labels of the whole picture, a TIFF that readers of slides open, and refusals in one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import preloaded
from house import ROOT
from medmixers.clinic import slide as slides
from medmixers.clinic.prediction import run_inference
from medmixers.clinic.slide_file import level_for, open_slide, write_label_map
from medmixers.errors import InputError, MissingFileError

openslide = pytest.importorskip("openslide", reason="the extra wsi is not installed")
MPP = 0.5
SIZE = (150, 210)  # (y, x) of the slide at MPP
SMALL = (40, 70)  # x is above the window's 64, y below its 48


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth colours, (y, x, 3)."""
    coarse = np.random.default_rng(0).integers(0, 255, (9, 11, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def write_slide(path: Path, pixels: np.ndarray, *, mpp: float | None, levels: int = 1) -> Path:
    """A tiled, pyramidal TIFF of halved levels, without loss."""
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            shown = Image.fromarray(pixels).reduce(2**level)
            resolution = (
                {} if mpp is None else {"resolution": (1e4 / mpp / 2**level,) * 2, "resolutionunit": "CENTIMETER"}
            )
            options = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None}
            file.write(np.asarray(shown), subfiletype=int(level > 0), **options, **resolution)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A breast tissue bundle of one small convolution, with windows smaller than the slide."""
    folder = tmp_path_factory.mktemp("slide") / "breast_tissue_segmentation_grouped_conv"
    shutil.copytree(ROOT / "bundles" / folder.name, folder)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config |= {"roi_size": [64, 48], "sw_batch_size": 3, "device": "$torch.device('cpu')", "amp": False}
    arguments = {"in_channels": 3, "out_channels": 8, "kernel_size": 5, "padding": 2}
    config["network_def"] = {"_target_": "torch.nn.Conv2d", **arguments}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    (folder / "models").mkdir(exist_ok=True)
    torch.save(torch.nn.Conv2d(**arguments).state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture(scope="module")
def whole(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], np.ndarray]:
    """Labels (y, x) that the bundle's own inference gives for whole pictures, by their size."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "images").mkdir()
    for size in (SIZE, SMALL):
        Image.fromarray(picture(size)).save(folder / "images" / f"{size[0]}.png")
    options = {"dataset_dir": str(folder / "images"), "output_dir": str(folder / "out")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", preloaded.python())
        run_inference(bundle, options, folder, ["inference"])
    return {size: np.asarray(Image.open(folder / "out" / f"{size[0]}.png")) for size in (SIZE, SMALL)}


@pytest.mark.parametrize(("finest", "held"), [(MPP, None), (MPP / 2, 1000)])
def test_labels_are_those_of_the_whole_picture(finest, held, bundle, whole, tmp_path, monkeypatch):
    """Also of a slide of twice the magnification without a level that fits, and where memory holds almost nothing."""
    pixels = picture()
    if finest != MPP:
        monkeypatch.setattr(slides, "HELD", held)
        pixels = pixels.repeat(2, 0).repeat(2, 1)
    slide = write_slide(tmp_path / "slide.tif", pixels, mpp=finest)
    said = slides.segment_slide(bundle, slide, tmp_path / "out.tif", device="cpu")  # mpp: the bundle's
    found, whole = tifffile.imread(tmp_path / "out.tif"), whole[SIZE]
    assert len(np.unique(whole)) > 3
    np.testing.assert_array_equal(found, whole)
    assert f"{SIZE[1]} x {SIZE[0]} pixels of 0.5 microns, " in said
    most = np.bincount(whole.ravel()).argmax()
    names = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert f"{names['channel_def'][str(most)]} {(whole == most).mean():.1%}" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif", "slide.tif"]


@pytest.mark.parametrize("held", [slides.HELD, 1000])
def test_a_slide_smaller_than_a_window_is_padded_as_monai_does(held, bundle, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "HELD", held)
    slide = write_slide(tmp_path / "slide.tif", picture(SMALL), mpp=MPP)
    slides.segment_slide(bundle, slide, tmp_path / "out.tiff", mpp=MPP)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tiff"), whole[SMALL])


def test_the_label_map_is_a_pyramid_that_openslide_reads(tmp_path):
    labels = np.random.default_rng(0).integers(0, 8, (1300, 2100), np.uint8)
    write_label_map(tmp_path / "out.tif", labels, mpp=(0.25, 0.24), record={"skipped_windows": 3})
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert [page.shape for page in file.pages] == [(1300, 2100), (650, 1050), (325, 525), (163, 263)]
        assert all(page.is_tiled for page in file.pages)
        assert [page.description for page in file.pages] == ['{"skipped_windows": 3}', "", "", ""]
        for level, page in enumerate(file.pages):
            np.testing.assert_array_equal(page.asarray(), labels[:: 2**level, :: 2**level])
    with openslide.OpenSlide(tmp_path / "out.tif") as opened:
        assert opened.level_count == 4
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-6)
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(0.24, rel=1e-6)
        part = np.asarray(opened.read_region((700, 600), 0, (30, 20)))[..., 0]
    np.testing.assert_array_equal(part, labels[600:620, 700:730])


def test_a_view_is_the_level_that_fits(tmp_path):
    pixels = picture((256, 320))
    slide = write_slide(tmp_path / "slide.tif", pixels, mpp=0.25, levels=3)
    for mpp, level, factor in ((0.25, 0, 1), (0.5, 1, 1), (1.02, 2, 1), (0.75, 0, 3), (3.0, 2, 3)):
        with open_slide(slide, mpp) as view:
            assert (view.level, view.factor) == (level, factor)
            assert view.mpp == pytest.approx((mpp if mpp != 1.02 else 1.0,) * 2)  # its own
            expected = np.asarray(Image.fromarray(pixels).reduce(2**level))[: 5 * factor, : 7 * factor]
            expected = expected.reshape(5, factor, 7, factor, 3).mean((1, 3))
            np.testing.assert_allclose(view.read((0, 0), (7, 5)), expected.transpose(2, 1, 0), atol=0.51)


def test_tiffs_that_openslide_misreads_are_refused(tmp_path):
    """The first pictures show that OpenSlide gives other pixels than tifffile, or the first channel alone."""
    pixels = picture()
    options = {"tile": (64, 64), "resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    planes = np.moveaxis(pixels, -1, 0).copy()
    written = {
        "turned": (pixels, {"photometric": "rgb", "extratags": [(274, "H", 1, 3, True)]}, "has the orientation 3, "),
        "channels": (planes, {"photometric": "minisblack"}, "holds 3 pictures of 210 x 150 pixels, such as channels"),
        "deep": (pixels.astype(np.uint16) * 16, {"photometric": "rgb"}, "has 16 bits per sample: write it with 8"),
    }
    for name, (values, more, message) in written.items():
        file = tmp_path / f"{name}.tif"
        tifffile.imwrite(file, values, metadata=None, **options, **more)
        with openslide.OpenSlide(file) as opened:
            read = np.asarray(opened.read_region((0, 0), 0, opened.dimensions))[..., :3]
        assert (read != pixels).mean() > 0.5
        with pytest.raises(InputError, match=message), open_slide(file, MPP):
            pass


def test_a_tiff_says_why_it_is_no_slide(tmp_path):
    common = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "strips.tif", picture(), resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **common)
    with (
        pytest.raises(InputError, match="reads a TIFF with tiles, not with strips"),
        open_slide(tmp_path / "strips.tif", MPP),
    ):
        pass
    (tmp_path / "other.tif").write_bytes(b"no slide at all")
    tifffile.imwrite(tmp_path / "webp.tif", picture(), tile=(64, 64), compression="webp", **common)
    for name in ("other.tif", "webp.tif"):  # the reason lies elsewhere
        with (
            pytest.raises(InputError, match=r"is no slide that OpenSlide reads: [^()]*$"),
            open_slide(tmp_path / name, MPP),
        ):
            pass
    tifffile.imwrite(tmp_path / "unit.tif", picture(), tile=(64, 64), resolution=(2e4, 2e4), resolutionunit=1, **common)
    with (
        pytest.raises(InputError, match="its resolution is 20000, per none; write"),
        open_slide(tmp_path / "unit.tif", MPP),
    ):
        pass


def test_what_does_not_fit_is_refused_in_one_line(bundle, tmp_path):
    pixels = picture()
    good = write_slide(tmp_path / "good.tif", pixels, mpp=0.5)
    other = write_slide(tmp_path / "other.tif", pixels, mpp=0.37)
    bare = write_slide(tmp_path / "bare.tif", pixels, mpp=None)
    (tmp_path / "text.tif").write_text("no slide")
    liver = ROOT / "bundles" / "brain_tissue_segmentation_grouped_conv"
    weights = bundle / "models" / "model.pt"
    cases = [
        (
            (bundle, other, "out.tif", MPP, None),
            r"sees 0\.5 microns per pixel; .*other.tif has levels of 0\.37, and no",
        ),
        ((bundle, bare, "out.tif", MPP, None), "bare.tif does not say how many microns a pixel has"),
        ((bundle, tmp_path / "text.tif", "out.tif", MPP, None), "text.tif is no slide that OpenSlide reads"),
        ((bundle, good, "out.png", MPP, None), r"out.png must be a TIFF file to write, .tif or .tiff"),
        ((bundle, good, "out.tif", -1, None), r"microns per pixel, such as 0\.5; got -1"),
        ((bundle, good, "good.tif", MPP, None), "is the input"),
        ((liver, good, "out.tif", MPP, weights), "does not segment RGB pictures"),
    ]
    for options, message in (
        ({"tissue_threshold": 1.5}, r"a saturation between 0 and 1, such as 0\.03; got 1\.5"),
        ({"tissue_threshold": 0.1, "all_windows": True}, "--all_windows takes all: leave one of them out"),
    ):
        with pytest.raises(InputError, match=message):
            slides.segment_slide(bundle, good, tmp_path / "out.tif", **options)
    for (model, slide, out, mpp, checkpoint), message in cases:
        with pytest.raises(InputError, match=message):
            slides.segment_slide(model, slide, tmp_path / out, mpp=mpp, checkpoint=checkpoint)
    with pytest.raises(MissingFileError, match="there is no slide"):
        slides.segment_slide(bundle, tmp_path / "absent.svs", tmp_path / "out.tif", mpp=MPP)
    assert not (tmp_path / "out.tif").exists()
    with pytest.raises(InputError, match=r"levels of 0\.5 x 0\.25"):
        level_for(Path("a.svs"), [(0.25, 0.5)], 0.5)


def test_a_disk_that_is_too_small_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match=rf"this slide needs \d+\.\d GiB in {tmp_path}, which has too little space"):
        slides.OnDisk((2**25, 2**25), np.uint8)


def test_bundles_without_mpp_or_with_whole_pictures_are_refused(bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    path = copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"].pop("mpp") == MPP
    (copy / "configs" / "metadata.json").write_text(json.dumps(metadata))
    slide = write_slide(tmp_path / "slide.tif", picture(), mpp=MPP)
    with pytest.raises(InputError, match="does not say how many microns a pixel of its pictures has; give --mpp"):
        slides.segment_slide(copy, slide, tmp_path / "out.tif")
    config["preprocessing"]["transforms"][-1] = {"_target_": "NormalizeIntensityd", "keys": "image"}
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="has NormalizeIntensityd, which needs the whole picture"):
        slides.segment_slide(copy, slide, tmp_path / "out.tif", mpp=MPP)


GLASS = (243, 243, 245)
STAINS = {
    "tissue": (190, 120, 170),
    "faint tissue": (244, 235, 241),  # saturation 0.037
    "membranes of fat": (243, 243, 245),  # lines, see below
    "blue pen": (30, 60, 160),
    "black pen": (25, 25, 25),
    "grey fold": (205, 205, 206),
}


def stained(stain: str) -> np.ndarray:
    """Glass with the noise of a camera, and a patch of 32 x 24 pixels in it, (y, x, 3)."""
    pixels = np.full((400, 500, 3), GLASS, float)
    pixels[200:224, 304:336] = STAINS[stain]
    if stain == "membranes of fat":
        pixels[200:224, 304:336:12] = (225, 170, 205)  # 0.5 microns wide, 6 apart
    return np.clip(pixels + np.random.default_rng(0).normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("stain", STAINS)
def test_windows_of_glass_are_skipped_and_those_of_anything_else_are_not(stain, bundle, tmp_path):
    slide = write_slide(tmp_path / "slide.tif", stained(stain), mpp=MPP)
    said = slides.segment_slide(bundle, slide, tmp_path / "out.tif", device="cpu")
    every = slides.segment_slide(bundle, slide, tmp_path / "every.tif", device="cpu", all_windows=True)
    found, whole = (tifffile.imread(tmp_path / name) for name in ("out.tif", "every.tif"))
    patch = (slice(200, 224), slice(304, 336, 12 if stain == "membranes of fat" else 1))
    np.testing.assert_array_equal(found[patch], whole[patch])  # all windows of tissue are predicted
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        record = json.loads(file.pages[0].description)
    assert record["windows"] - record["skipped_windows"] in range(1, 13)  # windows that overlap the patch
    assert (record["windows"], record["skipped_value"], record["labels"]["ignore"]) == (121, 8, 8)
    assert record["tissue_threshold"] == 0.03
    predicted = found != 8
    assert (
        f"of the {predicted.mean():.1%} that were predicted; {record['skipped_windows']} of 121 windows skipped" in said
    )
    assert "their pixels are 8 (ignore)" in said
    assert predicted.sum() < 0.2 * predicted.size
    assert not (whole == 8).any()
    assert every.endswith("; no window skipped")


def test_a_slide_of_glass_is_refused(bundle, tmp_path):
    glass = np.full((100, 100, 3), GLASS, np.uint8)
    glass[:, :50] = 0  # not scanned
    slide = write_slide(tmp_path / "slide.tif", glass, mpp=MPP)
    with pytest.raises(InputError, match=r"no window of slide.tif has tissue: none has a saturation above 0\.03 or is"):
        slides.segment_slide(bundle, slide, tmp_path / "out.tif")
    slides.segment_slide(bundle, slide, tmp_path / "out.tif", all_windows=True)


def test_skipped_pixels_of_a_task_without_an_ignored_value_are_background(bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    path = copy / "configs" / "inference.json"
    path.write_text(path.read_text().replace('"ignore": 8', '"other": 8'))
    slide = write_slide(tmp_path / "slide.tif", stained("tissue"), mpp=MPP)
    assert "their pixels are 0 (background)" in slides.segment_slide(copy, slide, tmp_path / "out.tif")
    assert (tifffile.imread(tmp_path / "out.tif")[:100, :100] == 0).all()
