"""Peak memory and time of a bundle's inference on large images, as bundles predict and by MONAI's parts.

python scripts/benchmarks/large_images.py                  # all images: minutes on an idle machine, 12 GiB of TMPDIR
python scripts/benchmarks/large_images.py --only "x 48"    # those with this text in their name
python scripts/benchmarks/large_images.py --record         # all, then results/measured.json and the documents' tables

The network is one 3 x 3 x 3 convolution, so that the figures are those of reading, windows, resampling and writing. Its
classes are as sure as those of a trained network. Each prediction runs in a process of its own, whose peak is the
operating system's (ru_maxrss). A recorded run needs a clean checkout: its commit is recorded with the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from processes import bundle_command, run_python
from recording import measure_and_print

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.errors import InputError, one_line_errors
from medmixers.results.tables import LARGE_IMAGE_WAYS, large_images_table

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "abdomen_ct_segmentation_conv"
CASE = "case.nii.gz"
SURE = 30  # factor of the weights
ROI = 96  # voxels along an edge of a window
OURS, RETURNED, MONAI = LARGE_IMAGE_WAYS


class Case(NamedTuple):
    """An image, and the classes of the network."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  # mm; the network sees 1.5 mm
    classes: int
    repeats: int = 1
    returned: bool = False  # with glibc's own settings too: freed memory goes back to the system
    with_monai: bool = False  # by MONAI's parts too, whose memory grows with classes x voxels

    @property
    def name(self) -> str:
        """For people."""
        shape, spacing = (" x ".join(f"{each:g}" for each in values) for values in (self.shape, self.spacing))
        return f"{shape}, {spacing} mm"


CASES = (
    Case((512, 512, 48), (0.8, 0.8, 3.0), 10, repeats=3, returned=True, with_monai=True),
    Case((512, 512, 48), (0.8, 0.8, 3.0), 118, returned=True),
    Case((512, 512, 300), (0.8, 0.8, 1.5), 10),
    Case((512, 512, 1000), (0.7, 0.7, 0.6), 118),
)


@one_line_errors("large_images")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="images with this text in their name")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if arguments.only in case.name]
    if not chosen:
        raise InputError(f"no image has {arguments.only!r} in its name; valid: {'; '.join(c.name for c in CASES)}")
    if arguments.record and arguments.only:
        raise InputError("--record is for all images, without --only")
    measure_and_print(
        "large images",
        lambda: [measured(case) for case in chosen],
        large_images_table,
        is_recorded=arguments.record,
    )


def measured(case: Case) -> dict[str, Any]:
    """Peaks in bytes, seconds, and the number of voxels with another label, as JSON."""
    ways: dict[str, dict[str, Any]] = {OURS: {}}
    if case.returned:
        ways[RETURNED] = {}
    if case.with_monai:
        ways[MONAI] = monais_parts()
    runs: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="large-images-") as name:
        folder = Path(name)
        write_inputs(folder, case)
        for _ in range(case.repeats):  # in turn: what else the machine does meets all
            for way, overlay in ways.items():
                runs[way].append(predicted(folder, way, overlay, case))
                print(f"{case.name}, {case.classes} classes, {way}: {runs[way][-1]}", file=sys.stderr, flush=True)
        maps = {way: np.asarray(nib.load(folder / way / CASE).dataobj) for way in ways}
    return {
        "image": case.name,
        "classes": case.classes,
        "seconds": {way: median(seconds for seconds, _ in found) for way, found in runs.items()},
        "peak_bytes": {way: max(peak for _, peak in found) for way, found in runs.items()},
        "labels": len(np.unique(maps[OURS])),
        "differ": int(np.count_nonzero(maps[OURS] != maps[MONAI])) if case.with_monai else None,
    }


def write_inputs(folder: Path, case: Case) -> None:
    """An image of smooth noise in Hounsfield units, and weights."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(0, 300, (1, 1, 8, 8, 8)).astype(np.float32))
    tile = torch.nn.functional.interpolate(coarse, size=(64, 64, 64), mode="trilinear")[0, 0].numpy().astype(np.int16)
    voxels = np.tile(tile, [-(-extent // 64) for extent in case.shape])[tuple(map(slice, case.shape))]
    (folder / "images").mkdir()
    image = nib.Nifti1Image(voxels, np.diag([-case.spacing[0], *case.spacing[1:], 1.0]))
    nib.save(image, folder / "images" / CASE.removesuffix(".gz"))
    torch.manual_seed(0)
    weights = torch.nn.Conv3d(1, case.classes, 3, padding=1).state_dict()
    torch.save({name: SURE * each for name, each in weights.items()}, folder / "model.pt")


def monais_parts() -> dict[str, Any]:
    """MONAI's own transforms and inferer in place of the bundle's."""
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text("utf-8"))
    preprocessing, postprocessing, inferer = (config[key] for key in ("preprocessing", "postprocessing", "inferer"))
    for transform in preprocessing["transforms"]:
        if transform["_target_"].endswith(".Spacingd"):
            transform["_target_"] = "Spacingd"
    inferer["_target_"] = inferer["_target_"].rpartition(".")[2]
    inferer.pop("logits_memory_gb")
    invert = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True}
    postprocessing["transforms"] = [
        {"_target_": "EnsureTyped", "keys": "pred", "dtype": "$torch.float32"},
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "Invertd", "keys": "pred", **invert},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        postprocessing["transforms"][-1],
    ]
    return {"inferer": inferer, "preprocessing": preprocessing, "postprocessing": postprocessing}


def predicted(folder: Path, way: str, overlay: dict[str, Any], case: Case) -> tuple[float, int]:
    """Seconds, and the peak of memory in bytes."""
    arguments = {"in_channels": 1, "out_channels": case.classes, "kernel_size": 3, "padding": 1}
    options = {
        "dataset_dir": str(folder / "images"),
        "output_dir": str(folder / way),
        "ckpt_path": str(folder / "model.pt"),
        "network_def": {"_target_": "torch.nn.Conv3d", **arguments},
        "roi_size": [ROI] * 3,
        "sw_batch_size": 1,
        "device": "$torch.device('cpu')",
        "amp": False,
        **overlay,
    }
    (folder / f"{way}.json").write_text(json.dumps(options), "utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    if way == RETURNED:
        environment["MALLOC_MMAP_MAX_"] = "65536"  # glibc's default; whoever sets it decides
    command = bundle_command(BUNDLE, ["inference.json", folder / f"{way}.json"], {})
    return run_python(command, environment=environment)


if __name__ == "__main__":
    main()
