"""A first prediction without a training: the bundle with weights that this package carries."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from medmixers.bundles.share.archive import open_archive
from medmixers.clinic.prediction import RUNTIMES, check_runtime, inference_options, run_inference
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingFileError
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.progress import Announce, silent

MODEL = Path(__file__).with_name("brain_tissue_any_contrast_token_unet_no_transformer_v0.1.0.zip")
LABELS = {1: "grey matter", 2: "white matter"}
NOTE = "approximate; trained on simulated heads of one anatomy; research only, not a medical device"


def predict_brain(
    image: str | Path,
    out: str | Path,
    *,
    device: str | None = None,
    runtime: str = "torch",
    announce: Announce = silent,
) -> str:
    """Segment grey and white matter of a brain MRI and write the labels on its grid.

    Args:
        image: NIfTI file, or folder of a DICOM series; with skull or without, of any contrast.
        out: NIfTI file to write: 0 background, 1 grey matter, 2 white matter.
        device: as torch names it; None takes a GPU where there is one.
        runtime: a name in :data:`medmixers.clinic.prediction.RUNTIMES`.
        announce: called with the name of each step.

    Returns:
        What was written, with the volumes in millilitres, in words.

    Raises:
        MissingFileError: there is no such image.
        InputError: what the bundle's checks refuse.
    """
    import nibabel as nib

    image, out = Path(image).resolve(), Path(out)
    check_runtime(runtime)
    if not image.exists():
        raise MissingFileError(f"there is no image {image}")
    if out.is_dir() or not out.name.lower().endswith(NIFTI):
        raise InputError(f"{out} must be a NIfTI file to write, .nii.gz")
    refuse_overwriting_inputs(out, [image])
    with tempfile.TemporaryDirectory(prefix="medmixers-") as scratch:
        folder = Path(scratch)
        announce("open the model")
        bundle = open_archive(MODEL, folder / "model")
        options = inference_options(image.parent, folder / "labels", str(image), device)
        announce("predict")
        run_inference(bundle, options, folder, RUNTIMES[runtime])
        (found,) = (folder / "labels").rglob("*.nii.gz")
        labels = nib.load(found)
        counts = {value: int((labels.get_fdata() == value).sum()) for value in LABELS}
        voxel = float(abs(nib.affines.voxel_sizes(labels.affine).prod()))
        with written_whole(out) as partial:
            if out.suffix.lower() == ".gz":
                shutil.copyfile(found, partial)
            else:
                nib.save(labels, folder / "labels.nii")
                shutil.copyfile(folder / "labels.nii", partial)
    volumes = ", ".join(f"{name} {counts[value] * voxel / 1000:.0f} ml" for value, name in LABELS.items())
    return f"{out}: {volumes} ({NOTE})"
