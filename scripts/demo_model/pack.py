"""Measure the demo's model on real images, and pack it with its card into plugin/medmixers/demo/.

python scripts/demo_model/pack.py OUT/model.pt --colin27 head.nii.gz brain.nii.gz

Real images: the Colin27 head (27 scans of one healthy adult, averaged; Holmes et al. 1998) and the brain cut out of it,
`ch2.nii.gz` and `ch2bet.nii.gz` of Debian's package mricron-data; and the MNI152 template, which it was trained on.
Colin27 has no manual tissue labels. Its reference comes from ANTs: N4 bias correction, then Atropos with three classes
(pip install antspyx). On the MNI152 template the reference is its own maps: the more probable of both tissues.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from heads import PATCH
from numpy.typing import NDArray
from scipy import ndimage
from train import NETWORK, OPTIONS

from medmixers.bundles.new import new_bundle, read_task
from medmixers.bundles.share.pack import pack_bundle
from medmixers.clinic.prediction import RUNTIMES, inference_options, run_inference
from medmixers.demo.predict import LABELS, MODEL
from medmixers.demo.subjects import load_anatomy
from medmixers.errors import one_line_errors
from medmixers.results import check_committed, describe_run, documents, record

ROOT = Path(__file__).resolve().parents[2]
Array = NDArray[Any]


def inverted(image: Array) -> Array:
    """Dark becomes bright within the head, as in a T2 image."""
    return np.where(image > 0, image.max() * 1.05 - image, 0)


def noisy(image: Array) -> Array:
    """Rician noise of 6 % of the brightest tissue."""
    sigma = 0.06 * np.percentile(image, 99)
    real, imaginary = np.random.default_rng(0).normal(scale=sigma, size=(2, *image.shape))
    return np.hypot(image + real, imaginary)


def thick(image: Array) -> Array:
    """Slices of 4 mm along the last axis, on the grid of 1 mm."""
    slices = ndimage.uniform_filter1d(image.astype(np.float32), 4, axis=2)[:, :, ::4]
    return ndimage.zoom(slices, (1, 1, image.shape[2] / slices.shape[2]), order=1)


def shaded(image: Array) -> Array:
    """A bias field: 0.6 at the left to 1.4 at the right."""
    return image * np.linspace(0.6, 1.4, image.shape[0])[:, None, None]


FAULTS: dict[str, Callable[[Array], Array]] = {
    "as it is": lambda image: image,
    "contrast inverted": inverted,
    "noise of 6 %": noisy,
    "slices of 4 mm": thick,
    "bias field of 0.6 to 1.4": shaded,
}


def atropos(head: Path, brain: Path) -> Array:
    """Reference of Colin27: 0 outside and fluid, 1 grey matter, 2 white matter."""
    import ants

    mask = ants.threshold_image(ants.image_read(str(brain)), 1, 1e9)
    image = ants.n4_bias_field_correction(ants.image_read(str(head)), mask=mask, shrink_factor=3)
    found = ants.atropos(a=image, x=mask, i="kmeans[3]", m="[0.1,1x1x1]", c="[10,0]")
    return np.clip(found["segmentation"].numpy() - 1, 0, 2).astype(np.uint8)


def gaussian_mixture(head: Path, brain: Path) -> Array:
    """Another automatic segmentation, to show how far two methods agree: SimpleITK's N4, three Gaussians."""
    import SimpleITK as sitk
    from sklearn.mixture import GaussianMixture

    image = sitk.ReadImage(str(head), sitk.sitkFloat32)
    mask = sitk.Cast(sitk.ReadImage(str(brain)) > 0, sitk.sitkUInt8)
    correct = sitk.N4BiasFieldCorrectionImageFilter()
    correct.Execute(sitk.Shrink(image, [3] * 3), sitk.Shrink(mask, [3] * 3))
    image = image / sitk.Exp(correct.GetLogBiasFieldAsImage(image))
    voxels, inside = (sitk.GetArrayFromImage(each).T for each in (image, mask))
    values = voxels[inside > 0][:, None]
    mixture = GaussianMixture(3, random_state=0).fit(values[::40])
    order = np.argsort(np.argsort(mixture.means_[:, 0]))
    labels = np.zeros(voxels.shape, np.uint8)
    labels[inside > 0] = order[mixture.predict(values)]
    return labels


def images(head: Path, brain: Path) -> Iterator[tuple[str, nib.Nifti1Image, Array, tuple[str, ...]]]:
    """Name, image, reference and names of the faults to add."""
    reference = atropos(head, brain)
    yield "Colin27, head", nib.load(head), reference, tuple(FAULTS)
    yield "Colin27, brain", nib.load(brain), reference, ("as it is", "contrast inverted")
    anatomy = load_anatomy(1)
    rest = 1 - anatomy.grey - anatomy.white
    tissue = np.where(anatomy.white > anatomy.grey, 2, 1)
    reference = np.where((np.maximum(anatomy.grey, anatomy.white) > rest) & (anatomy.mask > 0.5), tissue, 0)
    yield "MNI152, brain (trained on)", nib.Nifti1Image(anatomy.t1, anatomy.affine), reference, ("as it is",)


def dice(a: Array, b: Array) -> float:
    """Dice of two masks."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def measure(bundle: Path, colin27: tuple[Path, Path], folder: Path) -> list[dict[str, Any]]:
    """Rows: image, fault, Dice of both tissues."""
    rows = []
    other = gaussian_mixture(*colin27)
    for name, image, reference, faults in images(*colin27):
        for fault in faults:
            file = folder / "case.nii.gz"
            voxels = FAULTS[fault](np.asarray(image.dataobj)).astype(np.float32)
            nib.save(nib.Nifti1Image(voxels, image.affine), file)
            options = inference_options(folder, folder / "out", str(file), device=None)
            run_inference(bundle, options, folder, RUNTIMES["torch"])
            labels = np.asarray(nib.load(folder / "out" / "case.nii.gz").dataobj)
            scores = {tissue: dice(labels == value, reference == value) for value, tissue in LABELS.items()}
            rows.append({"image": name, "fault": fault, "dice": scores})
            print(json.dumps(rows[-1]), flush=True)
        if name.startswith("Colin27, brain"):
            scores = {tissue: dice(other == value, reference == value) for value, tissue in LABELS.items()}
            rows.append({"image": name, "fault": "by N4 and a Gaussian mixture instead", "dice": scores})
    return rows


@one_line_errors("pack")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--colin27", type=Path, nargs=2, required=True, metavar=("HEAD", "BRAIN"))
    arguments = parser.parse_args()
    run = describe_run("demo model", device="cpu", checkout=ROOT)
    check_committed(run)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        task = read_task(str(Path(__file__).with_name("task.yaml")))
        channels: dict[str, Any] = {"channels": OPTIONS["channels"]}
        bundle = new_bundle(task, network=NETWORK, out=scratch / "bundles", roi_size=PATCH, **channels)
        (bundle / "models").mkdir(exist_ok=True)
        shutil.copyfile(arguments.weights, bundle / "models" / "model.pt")
        (scratch / "images").mkdir()
        rows = measure(bundle, arguments.colin27, scratch / "images")
        table = scratch / "dice.csv"
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["case", *(f"dice_{tissue.replace(' ', '_')}" for tissue in LABELS.values())])
            writer.writerows([f"{row['image']}, {row['fault']}", *row["dice"].values()] for row in rows)
        packed = pack_bundle(bundle, out=scratch / "packed", metrics=table, exports=False)
        print(packed, packed.path.stat().st_size)
        packed.path.replace(MODEL.with_name(packed.path.name))
    record("demo model", rows, run=run)
    documents.write(ROOT)


if __name__ == "__main__":
    main()
