"""``medmixers clinic uncertainty``: labels of images, and how sure the models are of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.uncertainty.calibration import Calibration, read_calibration
from medmixers.clinic.uncertainty.ensemble import Ensemble, Prediction, opened_ensemble
from medmixers.clinic.uncertainty.measures import (
    LEVEL,
    Array,
    decisions,
    entropy,
    predicted_dice,
    size_interval,
    tempered,
)
from medmixers.clinic.uncertainty.predictor import Entry
from medmixers.datasets.raw_format import stem_and_ending
from medmixers.errors import InputError
from medmixers.files import file_digest, refuse_overwriting_inputs, written_whole
from medmixers.progress import Announce, note, progress, silent
from medmixers.tasks.palette import PALETTE

MAPS = ENTROPY, MUTUAL_INFORMATION = "entropy", "mutual_information"
FOLDER = "uncertainty"  # below the output: nnU-Net takes each NIfTI file next to label maps for one of them


def write_uncertainty(
    models: Sequence[str | Path],
    images: str | Path,
    out: str | Path,
    *,
    ensemble: Sequence[str | Path] = (),
    use_mirroring: bool = False,
    calibration: str | Path | None = None,
    device: str | None = None,
    announce: Announce = silent,
) -> str:
    """Predict images, and write labels, maps of uncertainty, and a JSON file per case.

    Files: the label files that the bundle writes; ``uncertainty/CASE_entropy.nii.gz`` and, of several members,
    ``uncertainty/CASE_mutual_information.nii.gz``, both in nats on the voxels of the image; ``uncertainty/CASE.json``.

    Args:
        models: folders or zips of bundles, which give the same classes.
        images: a file, a DICOM series, a folder of images or a data set, as the bundle's inference takes them.
        out: the folder.
        ensemble: files of weights for a single model, in place of its own.
        use_mirroring: average mirrored copies, along the bundle's ``mirror_axes``.
        calibration: file of a calibration; None takes models/calibration.json of a single model where it has one.
        device: as torch names it; None takes the bundle's choice.
        announce: called with the name of each step.

    Returns:
        What was found, a line per case and fault, in words.

    Raises:
        InputError: a model, an image or a calibration that does not fit; one line that names the fault.
    """
    out = Path(out)
    with opened_ensemble(
        [Path(each) for each in models], [Path(each) for each in ensemble],
        mirror=use_mirroring, device=device, announce=announce,
    ) as opened:  # fmt: skip
        found = fitting_calibration(opened, use_mirroring, None if calibration is None else Path(calibration))
        if found is not None:
            opened.put_in_order(found.models)
            if found.training_images is not None:
                opened.first.layer = found.training_images.layer
        entries = opened.first.cases(Path(images))
        names = _case_names(entries)
        refuse_overwriting_inputs(out, [file for entry in entries for file in _files(entry)])
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        opened.first.parser["output_dir"] = str(out)
        writer = CaseWriter(opened, found, out)
        announce("predict")
        cases = list(zip(names, entries, strict=True))
        return "\n".join(writer.write(name, entry) for name, entry in progress(cases, "predict"))


def fitting_calibration(ensemble: Ensemble, use_mirroring: bool, given: Path | None) -> Calibration | None:
    """The calibration of these predictions; None without one, and a note says so.

    Raises:
        InputError: the one that was given is for other predictions.
    """
    own = ensemble.bundle.calibration
    file = given or (own if len(ensemble.predictors) == 1 and own.is_file() else None)
    reason = "there is no calibration"
    if file is not None:
        found = read_calibration(file)
        unfit = found.unfit_for(ensemble.digests, use_mirroring)
        if unfit is None:
            return found
        if given is not None:
            raise InputError(f"the calibration {given} does not fit these predictions: {unfit}")
        reason = f"the model's calibration does not fit: {unfit}"
    note(
        f"medmixers: note: not calibrated, {reason}. Probabilities may be far too sure, and images are not compared "
        "with the training data; see: medmixers clinic calibrate --help"
    )
    return None


def _case_names(entries: Sequence[Entry]) -> list[str]:
    """Name of each case, as the label files have it."""
    names = [stem_and_ending(_files(entry)[0].name)[0] for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two images have the name {twice!r}: predict their folders one by one")
    return names


def _files(entry: Entry) -> list[Path]:
    return [Path(file) for file in ([entry] if isinstance(entry, str) else entry)]


class CaseWriter:
    """Predict cases one by one, and write what is known of each.

    Args:
        ensemble: the models.
        calibration: of their predictions; None where there is none.
        out: the folder.
    """

    def __init__(self, ensemble: Ensemble, calibration: Calibration | None, out: Path) -> None:
        self.ensemble, self.bundle, self.calibration, self.out = ensemble, ensemble.bundle, calibration, out

    def write(self, name: str, entry: Entry) -> str:
        """Write the files of a case. Returns what to say of it."""
        prediction = self.ensemble.predict(entry)
        p = self.calibrated(prediction)
        maps = {ENTROPY: entropy(p, exclusive=self.bundle.exclusive)}
        if prediction.disagreement is not None:
            maps[MUTUAL_INFORMATION] = prediction.disagreement
        facts = self._facts(name, entry, prediction, p, maps)
        about = self.out / FOLDER / f"{name}.json"
        about.unlink(missing_ok=True)  # of a prediction before this one: other files never stand next to its numbers
        if self.bundle.is_segmentation:
            affine = np.asarray(prediction.case.item["pred"].affine, np.float64)
            for kind in MAPS:
                path = self.out / FOLDER / f"{name}_{kind}.nii.gz"
                if kind in maps:
                    _write_map(path, maps[kind], affine)
                else:
                    path.unlink(missing_ok=True)  # of a prediction before this one
            self.ensemble.first.decide(prediction.case)
        with written_whole(about) as partial:
            partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return "\n".join(f"{name}: {line}" for line in _lines(facts))

    def calibrated(self, prediction: Prediction) -> Array:
        """The probabilities at the fitted temperature."""
        if self.calibration is None:
            return prediction.probabilities
        return tempered(prediction.probabilities, self.calibration.temperature, exclusive=self.bundle.exclusive)

    def _facts(
        self, name: str, entry: Entry, prediction: Prediction, p: Array, maps: dict[str, Array]
    ) -> dict[str, Any]:
        known = self.calibration
        reference = None if known is None else known.training_images
        return {
            "case": name,
            "date": date.today().isoformat(),
            "medmixers": version("medmixers"),
            "images_sha256": [image_digest(file) for file in _files(entry)],
            "models": [
                {**_about(each.bundle.metadata), "weights_sha256": digest}
                for each, digest in zip(self.ensemble.predictors, self.ensemble.digests, strict=True)
            ],
            "members": self.ensemble.members,
            "calibrated": known is not None,
            "calibration": None if known is None else known.summary(),
            "unlike_training_data": None if reference is None else reference.differences(prediction.case.facts),
            **{f"mean_{kind}": float(values.mean(dtype=np.float64)) for kind, values in maps.items()},
            **(self._structures(prediction, p) if self.bundle.is_segmentation else self._classes(p)),
        }

    def _structures(self, prediction: Prediction, p: Array) -> dict[str, Any]:
        size, unit = _voxel_size(prediction)
        masks = decisions(prediction.probabilities, exclusive=self.bundle.exclusive)
        rows = []
        for number in self.bundle.structures:
            voxels = size_interval(p[number], masks[number])
            dice = predicted_dice(p[number], masks[number])
            ends = {"size": voxels.labelled, "low": voxels.low, "high": voxels.high}
            rows.append({
                "name": self.bundle.names[number],
                "values": self.bundle.values_of(number),
                "colour": self._colour(number),
                **{key: value * size for key, value in ends.items()},
                "predicted_dice": dice,
            })  # fmt: skip
        return {"unit": unit, "level": LEVEL, "structures": rows}

    def _colour(self, number: int) -> list[int]:
        """Of the task, where it has one; red, green, blue from 0 to 255."""
        own = self.bundle.colours.get(self.bundle.names[number])
        return list(own or PALETTE[(number - self.bundle.structures.start) % len(PALETTE)])

    def _classes(self, p: Array) -> dict[str, Any]:
        return {"probabilities": {name: float(value) for name, value in zip(self.bundle.names, p, strict=True)}}


def _about(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of a prediction must know of a model."""
    keys = ("name", "version", "description", "data_source", "data_licence", "intended_use", "eval_metrics")
    return {key: metadata.get(key) for key in keys}


def image_digest(file: Path) -> str:
    """SHA-256 of a file; of a folder with a DICOM series that of its files' sorted digests."""
    if file.is_file():
        return file_digest(file)
    digests = sorted(file_digest(each) for each in file.iterdir() if each.is_file())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _voxel_size(prediction: Prediction) -> tuple[float, str]:
    """Of a volume in millilitres; a picture's pixel counts as 1."""
    pred = prediction.case.item["pred"]
    if prediction.probabilities.ndim < 4:
        return 1.0, "pixels"
    affine: NDArray[Any] = np.asarray(pred.affine, np.float64)
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000, "ml"


def _write_map(path: Path, values: Array, affine: NDArray[np.float64]) -> None:
    """float32 on the voxels of the image; a picture is one slice."""
    volume = values if values.ndim == 3 else values[..., None]
    with written_whole(path) as partial:
        nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), partial)


def _lines(facts: dict[str, Any]) -> list[str]:
    """What to say of a case."""
    doubt = "" if facts["calibrated"] else " (not calibrated)"
    if "structures" in facts:
        first = [_structure_line(row, facts["unit"], facts["level"]) + doubt for row in facts["structures"]]
    else:
        chances = ", ".join(f"{name} {value:.3f}" for name, value in facts["probabilities"].items())
        first = [f"{chances}{doubt}"]
    unlike = facts["unlike_training_data"]
    if unlike:
        return [*first, f"this image is unlike the training data: {'; '.join(unlike)}"]
    if unlike is None and facts["calibrated"]:
        return [*first, "not compared with the training data: the calibration has too few images of it"]
    return first


def _structure_line(row: dict[str, Any], unit: str, level: float) -> str:
    if row["predicted_dice"] is None:
        return f"{row['name']} not found (up to {row['high']:.1f} {unit})"
    size = f"{row['size']:.1f} {unit}, {level:.0%} interval {row['low']:.1f} to {row['high']:.1f}"
    return f"{row['name']} {size}, predicted Dice {row['predicted_dice']:.3f}"
