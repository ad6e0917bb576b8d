"""Measure the flag of unlike images on subjects, anatomies and faults that its rules were not made with.

python scripts/benchmarks/record_flag.py --colin27 ch2bet.nii.gz            # ten minutes of one core
python scripts/benchmarks/record_flag.py --colin27 ch2bet.nii.gz --record   # then results/measured.json and the tables

ch2bet.nii.gz is the brain of Colin27 (Holmes et al. 1998) in Debian's package mricron-data. Spacing and intensities are
checked, which need no trained network; features are not. A recorded run needs a clean checkout.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from nibabel.processing import resample_to_output
from numpy.typing import NDArray
from recording import score_and_print
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.new import write_bundle
from medmixers.clinic.uncertainty.bundle import open_bundle
from medmixers.clinic.uncertainty.predictor import Predictor
from medmixers.clinic.uncertainty.training_images import ImageFacts, TrainingImages, summarise
from medmixers.demo.subjects import Anatomy, load_anatomy, simulate_case, smooth_field, voxel_sizes
from medmixers.errors import InputError, one_line_errors
from medmixers.progress import progress, silent
from medmixers.results.tables import flag_table

BUNDLE = "brain_tissue_segmentation_grouped_conv"
RESOLUTION = 2  # mm; nilearn takes whole numbers
TRAINING = 9  # images of the demo's training and validation, series 0
SOUND, FAULTY = 40, 20  # new subjects of another series, without and with each fault
SERIES = 7  # of the new subjects
Image = NDArray[Any]


def rician(level: float) -> Callable[[Image, np.random.Generator], Image]:
    """Noise of this part of the brightest tissue; the training has 1.5 to 4 %."""

    def add(image: Image, rng: np.random.Generator) -> Image:
        real, imaginary = rng.normal(scale=level * brightest(image), size=(2, *image.shape))
        return np.hypot(image + real, imaginary)

    return add


def poisson(count: float) -> Callable[[Image, np.random.Generator], Image]:
    """Counts, so many in the brightest tissue."""

    def add(image: Image, rng: np.random.Generator) -> Image:
        gain = count / brightest(image)
        return rng.poisson(image * gain) / gain

    return add


def motion(image: Image, rng: np.random.Generator) -> Image:
    """Eight groups of the lines of k-space, each at another place, 3 mm apart in standard deviation."""
    lines = image.shape[1]
    shifts = np.repeat(rng.normal(scale=3 / RESOLUTION, size=8), -(-lines // 8))[:lines]
    phase = np.exp(-2j * np.pi * np.fft.fftfreq(lines) * np.fft.ifftshift(shifts))
    return np.abs(np.fft.ifft(np.fft.fft(image, axis=1) * phase[None, :, None], axis=1))


def ghosting(image: Image, rng: np.random.Generator) -> Image:
    """Every second line of k-space is 30 % weaker: a ghost half the image away."""
    lines = np.fft.fft(image, axis=1)
    lines[:, 1::2] *= 0.7
    return np.abs(np.fft.ifft(lines, axis=1))


def bias(image: Image, rng: np.random.Generator) -> Image:
    """A bias field of 40 % more; the training has 12 %."""
    return image * np.exp(0.4 * smooth_field(image.shape, np.full(3, 40 / RESOLUTION), rng))


FAULTS: Mapping[str, Callable[[Image, np.random.Generator], Image]] = {
    "Rician noise of 6 %": rician(0.06),
    "Rician noise of 10 %": rician(0.10),
    "Poisson noise of 400 counts": poisson(400),
    "Poisson noise of 50 counts": poisson(50),
    "motion": motion,
    "ghosting": ghosting,
    "bias field of 40 %": bias,
}


def brightest(image: Image) -> float:
    """The quantile 0.99 of the brain."""
    return float(np.quantile(image[image > 0], 0.99))


def colin27(file: Path) -> Anatomy:
    """The brain at the demo's resolution, and tissues by two thresholds of Otsu."""
    if not file.is_file():
        raise InputError(f"there is no image {file}; Debian's mricron-data has ch2bet.nii.gz")
    image = resample_to_output(nib.load(file), [RESOLUTION] * 3, order=1)
    t1 = np.clip(image.get_fdata(dtype=np.float32), 0, None)
    mask = ndimage.binary_fill_holes(t1 > 0.02 * t1.max())
    low, high = threshold_multiotsu(t1[mask], classes=3)
    grey, white = ((mask & (t1 >= low) & (t1 < high)), (mask & (t1 >= high)))
    scaled = t1 / np.quantile(t1[mask], 0.999)
    tissues = {"grey": grey, "white": white, "mask": mask}
    return Anatomy(
        t1=scaled.clip(0, 1), affine=image.affine, **{name: each.astype(np.float32) for name, each in tissues.items()}
    )


class Facts:
    """What the flag compares, of images in memory, by the preprocessing of a bundle.

    Args:
        folder: for the bundle and the images.
    """

    def __init__(self, folder: Path) -> None:
        write_bundle(BUNDLES[BUNDLE], folder)
        parser = ConfigParser()
        parser.read_config(str(folder / BUNDLE / "configs" / "inference.json"))
        parser["bundle_root"] = str(folder / BUNDLE)
        weights = parser.get_parsed_content("network_def").state_dict()
        (folder / BUNDLE / "models").mkdir(exist_ok=True)
        torch.save(weights, folder / BUNDLE / "models" / "model.pt")  # spacing and intensities do not depend on them
        bundle = open_bundle(folder / BUNDLE, folder / "opened", weights=None, announce=silent)
        self.predictor, self.file = Predictor(bundle, device="cpu"), folder / "case_0000.nii.gz"

    def of(self, image: Image, affine: NDArray[Any]) -> ImageFacts:
        """Of a brain, 0 outside."""
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), self.file)
        return self.predictor.facts(str(self.file))


def with_faults(anatomy: Anatomy, facts: Facts) -> Iterator[tuple[str, ImageFacts]]:
    """New subjects, without a fault and with each."""
    for number in progress(range(SOUND), "new subjects"):
        image = simulate_case(anatomy, seed=SERIES, index=number).image
        yield "none: new subjects", facts.of(image, anatomy.affine)
        for fault, change in FAULTS.items() if number < FAULTY else ():
            changed = change(image, np.random.default_rng([SERIES, number]))
            yield fault, facts.of(np.where(image > 0, changed, 0), anatomy.affine)


def rows_of(training: str, known: TrainingImages, found: Sequence[tuple[str, ImageFacts]]) -> list[dict[str, Any]]:
    """Rows of the table, in the order of the images."""
    said = [(name, known.differences(each)) for name, each in found]
    return [
        {
            "training": training,
            "images": name,
            "count": sum(each == name for each, _ in said),
            "flagged": sum(each == name and bool(words) for each, words in said),
            **{
                check: sum(each == name and any(word.startswith(start) for word in words) for each, words in said)
                for check, start in (
                    ("spacing", "spacing"),
                    ("intensities", "intensities"),
                    ("noise", "intensities (noi"),
                )
            },
        }
        for name in dict.fromkeys(name for name, _ in said)
    ]


def measure(colin: Path) -> dict[str, Any]:
    """The figures."""
    anatomies = {"MNI152": load_anatomy(RESOLUTION), "Colin27": colin27(colin)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        facts = Facts(Path(folder))
        found = {name: list(with_faults(anatomy, facts)) for name, anatomy in anatomies.items()}
        real = {name: facts.of(np.where(each.mask > 0.5, each.t1, 0), each.affine) for name, each in anatomies.items()}
        for name, anatomy in anatomies.items():
            trained = [
                facts.of(simulate_case(anatomy, seed=0, index=number).image, anatomy.affine)
                for number in range(TRAINING)
            ]
            known = summarise(trained, None)
            assert known is not None
            assert voxel_sizes(anatomy.affine).max() == RESOLUTION
            (other,) = set(anatomies) - {name}
            sound = [(f"none: subjects of {other}", each) for fault, each in found[other] if fault.startswith("none")]
            images = [(f"{each}, not simulated", fact) for each, fact in real.items()]
            rows += rows_of(name, known, [*found[name], *sound, *images])
    return {"training_images": TRAINING, "rows": rows}


@one_line_errors("record_flag")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--colin27", type=Path, required=True, metavar="BRAIN", help="ch2bet.nii.gz of mricron-data")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    score_and_print("flag", lambda: measure(arguments.colin27), flag_table, is_recorded=arguments.record)


if __name__ == "__main__":
    main()
