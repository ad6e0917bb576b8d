"""``medmixers clinic classify``: a DICOM image or series in, a DICOM SR with the probabilities of the classes back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from medmixers.clinic.dicom_sr import write_report
from medmixers.clinic.model import ClassificationModel, open_classifier
from medmixers.clinic.prediction import classify
from medmixers.clinic.segment import check_command, no_values_in_logs
from medmixers.clinic.series import find_series, image_series
from medmixers.errors import InputError, MissingFileError
from medmixers.files import refuse_overwriting_inputs
from medmixers.images.dicom_seg import NEEDED, referenced_headers
from medmixers.progress import Announce, note, silent


def classify_images(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    series_uid: str | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    runtime: str = "torch",
    announce: Announce = silent,
) -> str:
    """Classify a DICOM image or series and write one DICOM SR that refers to it.

    Args:
        model: folder or zip of a bundle.
        source: a DICOM file, or a folder with one image or series, searched with its folders.
        out: the DICOM file.
        series_uid: SeriesInstanceUID, where the folder holds several series.
        checkpoint: a file of weights in place of the bundle's.
        device: as torch names it; None takes a GPU where there is one.
        runtime: a name in :data:`medmixers.clinic.prediction.RUNTIMES`.
        announce: called with the name of each step.

    Returns:
        What was written, in words.

    Raises:
        InputError: a model or images that do not fit; one line that names the fault.
    """
    source, out = Path(source), Path(out)
    check_command(out, runtime)
    with no_values_in_logs(), tempfile.TemporaryDirectory(prefix="medmixers-") as folder:
        opened = open_classifier(Path(model), Path(folder) / "bundle", checkpoint=checkpoint, announce=announce)
        announce("find the images")
        files, modality = _images(source, opened, series_uid)
        refuse_overwriting_inputs(out, [source, *files])
        _check_modality(modality, opened)
        headers = referenced_headers(files, NEEDED, "a DICOM SR")  # before the prediction
        announce("predict")
        probabilities = classify(opened, files, Path(folder) / "prediction", device=device, runtime=runtime)
        announce("write the DICOM SR")
        write_report(out, probabilities, headers, modality, opened)
    decided = opened.decided(probabilities)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in probabilities.items())
    return f"{out}: {listed}; decision: {', '.join(sorted(decided)) or 'none'}"


def _images(source: Path, model: ClassificationModel, series_uid: str | None) -> tuple[list[Path], str]:
    """The files of the case, and their modality."""
    if model.spatial_dims == 3:
        (series,) = find_series(source, channels=("image",), series_uid=() if series_uid is None else (series_uid,))
        if len(series.slices) == 1:
            raise InputError(f"{series.files[0]} is a single slice, and the model takes a volume: give its folder")
        return series.files, series.modality
    found = image_series(source)
    if not found:
        raise MissingFileError(f"{source} holds no DICOM image")
    if series_uid is not None and series_uid not in found:
        raise InputError(f"{source} holds no DICOM series {series_uid!r}; valid: {', '.join(found)}")
    chosen = [(modality, files) for uid, (modality, files) in found.items() if series_uid in (None, uid)]
    count = sum(len(files) for _, files in chosen)
    if count != 1:
        raise InputError(
            f"{source} holds {count} DICOM images in {len(chosen)} series; the model takes one: give its file"
        )
    modality, files = chosen[0]
    return files, modality


def _check_modality(modality: str, model: ClassificationModel) -> None:
    shown = modality or "of no modality"
    if not model.modalities:
        note(
            f"medmixers: note: the model takes {model.modality!r} and the image is {shown}: whether they are the same "
            "is not known"
        )
    elif modality not in model.modalities:
        raise InputError(f"the model takes {' or '.join(model.modalities)}, the image is {shown}")
