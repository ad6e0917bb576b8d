"""Cases as pictures: the five worst of the winner, and one by every entry."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.files import written_whole
from medmixers.pages import data_uri
from medmixers.study.comparison import Comparison
from medmixers.study.probabilities import PooledScores
from medmixers.study.report.drawing import PALETTE, Picture, short
from medmixers.study.report.folder import StudyFolder
from medmixers.study.report.score_figures import per_case
from medmixers.study.report.slices import fullest_plane, grey_range, middle, read_case, read_image, run_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
WORST = 5
MOST_ENTRIES = 8  # in the picture of one case
INCHES, DOTS = 2.6, 130


def worst_cases(
    study: StudyFolder, comparison: Comparison, dataset: Mapping[str, Any], folder: Path, stem: str
) -> tuple[list[Picture], list[str]]:
    """Pictures of the five worst cases of the best entry, and a line about those that cannot be drawn."""
    values, order = _from_the_worst(comparison)
    pictures, faults = [], []
    for place, i in enumerate(order[:WORST], start=1):
        case = comparison.scores.cases[i]
        try:
            pictures.append(_draw(study, comparison, dataset, case, values[i], folder, f"{stem}_worst{place}"))
        except (InputError, OSError) as error:
            faults.append(f"{case} ({error})")
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    return pictures, [f"No picture of case {faults[0]}{more}."] if faults else []


def one_case_by_every_entry(
    study: StudyFolder, comparison: Comparison, dataset: Mapping[str, Any], folder: Path, stem: str
) -> Picture | None:
    """Truth and every entry's prediction of the winner's median case.

    None of a classification, or where a file is missing or no case has a score of every seed.
    """
    _, order = _from_the_worst(comparison)
    if dataset["kind"] == "classification" or not order:
        return None
    at = order[len(order) // 2]
    case, shown = comparison.scores.cases[at], [row.entry for row in comparison.ranking[:MOST_ENTRIES]]
    try:
        image, affine = read_image(Path(dataset["cases"][case]["image"][0]))
        runs = [run_with(study, dataset, entry, case) for entry in shown]
        read = [read_case(study.path / "runs" / run.id, dataset, case, image) for run in runs]
    except (InputError, OSError):
        return None  # worst_cases names the fault
    masks = np.concatenate([read[0][1], *(predicted for predicted, _ in read)])
    count = len(dataset["classes"])
    plane, masks, where = fullest_plane(image, affine, masks, deciding=count)
    scores = [per_case(comparison, entry)[at] for entry in shown]
    titles = ["truth", *(f"{short(entry, 26)}\n{score:.3f}" for entry, score in zip(shown, scores, strict=True))]
    rest = "" if len(shown) == len(comparison.ranking) else f" The first {len(shown)} entries by rank."
    metric, classes = comparison.scores.metric, list(dataset["classes"])
    caption = (
        f"Case {case}, the median of {shown[0]}{where}. Numbers: {metric}, mean over seeds. "
        f"Predictions: the first seed's.{rest}"
    )
    name = f"{stem}_entries"
    figure = _tiles(plane, masks.reshape(-1, count, *masks.shape[1:]), titles, classes)
    alt = "; ".join(f"{entry} {metric} {score:.3f}" for entry, score in zip(shown, scores, strict=True))
    uri = _written(figure, folder / f"{name}.jpg")
    return Picture(name, "One case by every entry", f"Case {case}: {alt}.", caption, uri, wide=True)


def _from_the_worst(comparison: Comparison) -> tuple[Array, list[int]]:
    """Scores of each case by the best entry, and the known ones from the worst to the best."""
    scores = comparison.scores
    values = per_case(comparison, comparison.ranking[0].entry)
    badness = values if isinstance(scores, PooledScores) or not scores.lower_is_better else -values
    return values, [int(i) for i in np.argsort(badness, kind="stable") if np.isfinite(badness[i])]


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
    image, affine = read_image(Path(dataset["cases"][case]["image"][0]))
    if dataset["kind"] == "classification":
        plane, words = middle(image, affine), _words_of_class(comparison, case)
        return _save(plane, [], folder, name, title=case, caption=f"{words}. {best}, mean over seeds.")
    run = run_with(study, dataset, best, case)
    predicted, true = read_case(study.path / "runs" / run.id, dataset, case, image)
    plane, masks, where = fullest_plane(image, affine, np.concatenate([predicted, true]))
    pairs = list(zip(masks[: len(predicted)], masks[len(predicted) :], strict=True))
    caption = f"{comparison.scores.metric} {value:.4f} by {best}, mean over seeds{where}. Prediction: seed {run.seed}."
    return _save(plane, pairs, folder, name, title=case, caption=caption)


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


def _save(
    plane: Array, masks: list[tuple[Array, Array]], folder: Path, name: str, *, title: str, caption: str
) -> Picture:
    """One case with outlines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES, INCHES), dpi=DOTS, facecolor="black")
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    grey = plane.ndim == 2
    low, high = grey_range(plane)
    shown = plane if grey else np.clip(plane / 255, 0, 1)
    axes.imshow(shown, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    for number, (predicted, true) in enumerate(masks):
        colour = _colour(number)
        for mask, style, width in ((true, "solid", 1.6), (predicted, "dashed", 1.2)):
            if mask.any() and not mask.all():
                axes.contour(mask, [0.5], colors=[colour], linestyles=style, linewidths=width)
    alt = f"Image of case {title}" + (" with outlines of truth, solid, and prediction, dashed" if masks else "")
    return Picture(name, title, f"{alt}. {caption}", caption, _written(figure, folder / f"{name}.jpg"))


def _tiles(plane: Array, masks: Array, titles: list[str], classes: list[str]) -> Figure:
    """The slice, and each row of masks (n, classes, rows, columns) over it."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = min(4, len(masks) + 1)
    rows = -(-(len(masks) + 1) // columns)
    shape = plane.shape[0] / plane.shape[1]
    figure = Figure(figsize=(columns * 2.3, rows * (2.3 * shape + 0.4) + 0.3), dpi=DOTS, facecolor="black")
    figure.set_layout_engine("constrained", h_pad=0.1)
    low, high = grey_range(plane)
    order = np.argsort(-masks[0].sum(axis=(1, 2)), kind="stable")  # small structures over those that contain them
    base = np.clip((plane - low) / (high - low), 0, 1)
    base = np.repeat(base[..., None], 3, axis=-1) if base.ndim == 2 else base
    for axes in (places := figure.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
    for axes, title, own in zip(places, ["image", *titles], [None, *masks], strict=False):
        shown = base.copy()
        for number in order if own is not None else ():
            mask = own[number].astype(bool)
            shown[mask] = 0.35 * base[mask] + 0.65 * np.array(to_rgb(_colour(number)))
        axes.imshow(shown, interpolation="nearest")
        axes.set_title(title, color="white", fontsize=9)
    handles = [Patch(color=_colour(number), label=name) for number, name in enumerate(classes)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, labelcolor="white", fontsize=9)
    return figure


def _written(figure: Figure, file: Path) -> str:
    """Write a JPEG, which is smaller for photographs than SVG; its content as ``data:`` URI."""
    content = io.BytesIO()
    figure.savefig(content, format="jpeg", pil_kwargs={"quality": 80})
    with written_whole(file) as partial:
        partial.write_bytes(content.getvalue())
    return data_uri(content.getvalue(), "image/jpeg")


def _colour(number: int) -> str:
    """Of a class."""
    return PALETTE[(number + 4) % len(PALETTE)]
