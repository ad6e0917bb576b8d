"""The worst cases of the winner as pictures: one slice with the outlines of truth and prediction, or the image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.image_files import read_any
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError
from medmixers.files import written_whole
from medmixers.images.pictures import PICTURES, read_picture
from medmixers.pages import data_uri
from medmixers.study.comparison import Comparison
from medmixers.study.probabilities import PooledScores
from medmixers.study.report.drawing import PALETTE, Picture
from medmixers.study.report.folder import StudyFolder
from medmixers.study.report.score_figures import per_case
from medmixers.study.segmentation import prediction_files, read_masks

Array = NDArray[Any]
WORST = 5
INCHES, DOTS = 2.6, 130


def worst_cases(
    study: StudyFolder, comparison: Comparison, dataset: Mapping[str, Any], folder: Path, stem: str
) -> tuple[list[Picture], list[str]]:
    """Pictures of the five worst cases of the best entry, and a line about those that cannot be drawn."""
    best = comparison.ranking[0].entry
    scores = comparison.scores
    values = per_case(comparison, best)
    badness = values if isinstance(scores, PooledScores) or not scores.lower_is_better else -values
    order = [i for i in np.argsort(badness, kind="stable") if np.isfinite(badness[i])][:WORST]
    pictures, faults = [], []
    for place, i in enumerate(order, start=1):
        case = scores.cases[i]
        try:
            pictures.append(_draw(study, comparison, dataset, case, values[i], folder, f"{stem}_worst{place}"))
        except (InputError, OSError) as error:
            faults.append(f"{case} ({error})")
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    return pictures, [f"No picture of case {faults[0]}{more}."] if faults else []


def _draw(
    study: StudyFolder,
    comparison: Comparison,
    dataset: Mapping[str, Any],
    case: str,
    value: float,
    folder: Path,
    name: str,
) -> Picture:
    best = comparison.ranking[0].entry
    facts = dataset["cases"][case]
    image, affine = _read_image(Path(facts["image"][0]))
    if dataset["kind"] == "classification":
        plane, words = _middle(image, affine), _words_of_class(comparison, case)
        return _save(plane, [], folder, name, title=case, caption=f"{words}. {best}, mean over seeds.")
    run = next(run for run in study.runs_of(dataset["name"], best) if case in _cases(study.path / "runs" / run.id))
    predicted, true = _masks(study.path / "runs" / run.id / "predictions", dataset, case)
    if predicted.shape[1:] != image.shape[: predicted.ndim - 1]:
        raise InputError(f"image {facts['image'][0]} has shape {image.shape}, its labels {predicted.shape[1:]}")
    plane, masks, where = _fullest_plane(image, affine, predicted, true)
    caption = f"{comparison.scores.metric} {value:.4f} by {best}, mean over seeds{where}. Prediction: seed {run.seed}."
    return _save(plane, masks, folder, name, title=case, caption=caption)


def _cases(run: Path) -> str:
    """Names of the files with predictions, to find the fold that holds a case."""
    return "\n".join(path.name for path in (run / "predictions").glob("*"))


def _words_of_class(comparison: Comparison, case: str) -> str:
    scores = comparison.scores
    if not isinstance(scores, PooledScores):
        return f"{scores.metric} {per_case(comparison, comparison.ranking[0].entry)[scores.cases.index(case)]:.4f}"
    at, i = scores.entries.index(comparison.ranking[0].entry), scores.cases.index(case)
    mean = scores.probabilities[at][:, i].mean(axis=0)
    top = int(mean.argmax())
    truth = scores.classes[scores.labels[i]]
    return (
        f"Truth: {truth} (probability {mean[scores.labels[i]]:.3f}); predicted: {scores.classes[top]} ({mean[top]:.3f})"
    )


def _read_image(path: Path) -> tuple[Array, Array | None]:
    """Image with axes x, y(, z) and its affine; a picture has none, and its colours come last."""
    if path.suffix.lower() in PICTURES and not path.name.lower().endswith(NIFTI):
        return np.swapaxes(read_picture(path).pixels, 0, 1), None
    volume = read_any(path)
    sign = 1 if path.name.lower().endswith(NIFTI) else -1  # ITK counts to the left and to posterior
    flip = np.diag([sign, sign, *[1] * (len(volume.affine) - 2)])
    return volume.data, flip @ volume.affine


def _masks(folder: Path, dataset: Mapping[str, Any], case: str) -> tuple[Array, Array]:
    """Label maps of prediction and truth, on the image's axes: (classes, *spatial) each."""
    files, classes, truth = prediction_files(folder), dataset["classes"], dataset["cases"][case]["truth"]
    per_class = isinstance(truth, Mapping)
    pairs = {
        name: (files[f"{case}_{name}" if per_class else case], Path(truth[name] if per_class else truth))
        for name in classes
    }
    return read_masks(pairs, classes, overlapping=per_class, ignore_label=dataset.get("ignore_label"))[:2]


def _fullest_plane(
    image: Array, affine: Array | None, predicted: Array, true: Array
) -> tuple[Array, list[tuple[Array, Array]], str]:
    """The slice with most voxels of truth and prediction; masks as (prediction, truth) of each class."""
    if image.ndim == 2 or affine is None or len(affine) == 3:
        masks = [(p.T, t.T) for p, t in zip(predicted, true, strict=True)]
        return np.swapaxes(image, 0, 1), masks, ""
    turn = nib.orientations.io_orientation(affine)
    image, *turned = (nib.orientations.apply_orientation(each, turn) for each in (image, *predicted, *true))
    half = len(turned) // 2
    area = np.any(turned, axis=0).sum(axis=(0, 1))
    at = int(area.argmax()) if area.any() else image.shape[2] // 2
    masks = [(p[:, ::-1, at].T, t[:, ::-1, at].T) for p, t in zip(turned[:half], turned[half:], strict=True)]
    return image[:, ::-1, at].T, masks, f", axial slice {at + 1} of {image.shape[2]}, right is on the right"


def _middle(image: Array, affine: Array | None) -> Array:
    if affine is not None and image.ndim == 3:
        return image[:, ::-1, image.shape[2] // 2].T
    return np.swapaxes(image, 0, 1)


def _save(
    plane: Array, masks: list[tuple[Array, Array]], folder: Path, name: str, *, title: str, caption: str
) -> Picture:
    """Draw as JPEG: photographs are smaller so than as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES, INCHES), dpi=DOTS, facecolor="black")
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    grey = plane.ndim == 2
    low, high = np.percentile(plane, [0.5, 99.5]) if grey else (0, 255)
    shown = plane if grey else np.clip(plane / 255, 0, 1)
    axes.imshow(shown, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    for number, (predicted, true) in enumerate(masks):
        colour = PALETTE[(number + 4) % len(PALETTE)]
        for mask, style, width in ((true, "solid", 1.6), (predicted, "dashed", 1.2)):
            if mask.any() and not mask.all():
                axes.contour(mask, [0.5], colors=[colour], linestyles=style, linewidths=width)
    content = io.BytesIO()
    figure.savefig(content, format="jpeg", pil_kwargs={"quality": 80})
    with written_whole(folder / f"{name}.jpg") as partial:
        partial.write_bytes(content.getvalue())
    alt = f"Image of case {title}" + (" with outlines of truth, solid, and prediction, dashed" if masks else "")
    return Picture(name, title, f"{alt}. {caption}", caption, data_uri(content.getvalue(), "image/jpeg"))
