"""``medmixers clinic calibrate``: fit the temperature of models, and describe the images that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.uncertainty.bundle import Bundle, calibration_file
from medmixers.clinic.uncertainty.calibration import Calibration, Structure
from medmixers.clinic.uncertainty.diagram import reliability_svg
from medmixers.clinic.uncertainty.ensemble import Ensemble, opened_ensemble
from medmixers.clinic.uncertainty.measures import decisions, predicted_dice, size_interval
from medmixers.clinic.uncertainty.split import Split, read_split
from medmixers.clinic.uncertainty.temperature import (
    Sample,
    calibration_error,
    draw,
    fit_temperature,
    joined,
    negative_log_likelihood,
    reliability,
    scaled,
)
from medmixers.clinic.uncertainty.training_images import FEWEST, ImageFacts, summarise
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.progress import Announce, progress, silent

MOST_VALUES = 4_000_000  # probabilities that are kept per case
MOST_VOXELS = 100_000  # per case and stratum
MOST_IMAGES = 50  # of the training, which are compared with; evenly spaced in their list


def write_calibration(
    models: Sequence[str | Path],
    dataset: str | Path,
    *,
    out: str | Path | None = None,
    ensemble: Sequence[str | Path] = (),
    use_mirroring: bool = False,
    fold: int | None = None,
    device: str | None = None,
    announce: Announce = silent,
) -> str:
    """Fit a temperature on the validation cases of the model's split, and store the training images' statistics.

    A case of a model of nnU-Net is predicted by the fold that held it out, alone: the others were trained on it.

    Args:
        models: folders or zips of bundles, or models of nnU-Net, which give the same classes.
        dataset: the data set that they were trained on, in a format that the bundle's training takes.
        out: JSON file, a picture is written next to it; None writes models/calibration.json in the bundle's folder, or
            calibration.json in the folder of a model of nnU-Net.
        ensemble: files of weights for a single model, in place of its own.
        use_mirroring: as the predictions will have it.
        fold: of the split; None takes the bundle's, or all folds of a model of nnU-Net.
        device: as torch names it; None takes the bundle's choice.
        announce: called with the name of each step.

    Returns:
        What was found, in words.

    Raises:
        InputError: a model or data that do not fit, or a model that has learned nothing.
    """
    target = _target(models, ensemble, out)
    refuse_overwriting_inputs(target, [*models, dataset])
    with opened_ensemble(
        [Path(each) for each in models], [Path(each) for each in ensemble],
        mirror=use_mirroring, device=device, announce=announce,
    ) as opened:  # fmt: skip
        split = _common_split(opened, Path(dataset), fold)
        opened.first.choose_layer(split.validation[0]["image"])
        announce("predict the validation cases")
        samples, facts = [], []
        for number, case in enumerate(progress(split.validation, "predict the validation cases")):
            with opened.held_out(case.get("fold")):
                prediction = opened.predict(case["image"])
            facts.append(prediction.case.facts)
            samples.append(_sample(opened.bundle, prediction.probabilities, split.truth(case), number))
        announce("describe the training images")
        step = max(1, -(-len(split.training) // MOST_IMAGES))
        chosen = split.training[::step]
        facts += [opened.first.facts(case["image"]) for case in progress(chosen, "describe the training images")]
        announce("fit")
        found = calibrate(opened, samples, facts, use_mirroring=use_mirroring)
    picture = target.with_suffix(".svg")
    with written_whole(picture) as partial:
        partial.write_text(reliability_svg(found), encoding="utf-8")
    found.write(target)
    return f"{_summary(found)}\n{target}, {picture}"


def calibrate(
    ensemble: Ensemble, samples: Sequence[Sample], images: Sequence[ImageFacts], *, use_mirroring: bool
) -> Calibration:
    """The calibration from predictions with known labels.

    Args:
        ensemble: that predicted.
        samples: one per validation case.
        images: facts of validation and training images.
        use_mirroring: whether mirrored copies were averaged.
    """
    bundle, whole = ensemble.bundle, joined(samples)
    of = "voxels" if bundle.is_segmentation else "images"
    temperature = fit_temperature(whole, exclusive=bundle.exclusive, of=of)
    both = (whole, scaled(whole, temperature, exclusive=bundle.exclusive))
    before, after = (reliability(each, exclusive=bundle.exclusive, background=bundle.has_background) for each in both)
    likelihood = [negative_log_likelihood(each, exclusive=bundle.exclusive) for each in both]
    return Calibration(
        models=tuple(ensemble.digests),
        use_mirroring=use_mirroring,
        temperature=temperature,
        cases=len(samples),
        folds=ensemble.first.folds,
        likelihood=(likelihood[0], likelihood[1]),
        error=(calibration_error(before), calibration_error(after)),
        bins=(before, after),
        structures=_structures(bundle, samples, temperature) if bundle.is_segmentation else [],
        training_images=summarise(images, ensemble.first.layer),
    )


def _common_split(ensemble: Ensemble, dataset: Path, fold: int | None) -> Split:
    """The split of all models. Raises InputError where one was trained on what another one was validated with."""
    first, *others = [read_split(each, dataset, fold) for each in ensemble.predictors]
    for other, predictor in zip(others, ensemble.predictors[1:], strict=True):
        if other.validation != first.validation:
            raise InputError(
                f"{predictor.bundle.source} and {ensemble.bundle.source} were validated with other cases, so one was "
                "trained on those of the other: calibrate models of one split"
            )
    return first


def _target(models: Sequence[str | Path], ensemble: Sequence[str | Path], out: str | Path | None) -> Path:
    if out is None:
        model = Path(models[0])
        if len(models) > 1 or ensemble or model.is_file():
            is_zip = model.is_file() and len(models) == 1 and not ensemble
            what = "a zip is not changed" if is_zip else "an ensemble has no file of its own"
            raise InputError(f"{what}: give the file to write, --out FILE.json")
        return calibration_file(model)
    if Path(out).suffix != ".json":
        raise InputError(f"{out} must be a JSON file to write, .json")
    return Path(out)


def _sample(bundle: Bundle, p: NDArray[np.float32], label: NDArray[Any], seed: int) -> Sample:
    """Probabilities and truth of a case, of voxels or of the whole image."""
    valid = np.isfinite(label).all(axis=0)
    truth = label > 0.5
    if bundle.exclusive:
        if label.shape[1:] != p.shape[1:]:
            raise InputError(f"a label has the shape {label.shape[1:]}, and its image {p.shape[1:]}")
        valid = valid & (label[0] != bundle.ignored_value)
        truth = np.stack([label[0] == number for number in range(len(p))])
    if truth.shape != p.shape:
        raise InputError(f"a label has the shape {truth.shape}, and its prediction {p.shape}")
    if not bundle.is_segmentation:
        return Sample(p[:, None], truth[:, None], np.ones(1))
    most = min(MOST_VOXELS, MOST_VALUES // len(p))
    return draw(p, truth, valid, exclusive=bundle.exclusive, most=most, seed=seed)


def _structures(bundle: Bundle, samples: Sequence[Sample], temperature: float) -> list[Structure]:
    """Predicted and true Dice and volume, from the drawn voxels of each case."""
    rows = []
    for number in bundle.structures:
        dice, predicted, inside, cases = [], [], 0, 0
        for sample in samples:
            p = scaled(sample, temperature, exclusive=bundle.exclusive).probabilities[number]
            mask, truth = decisions(sample.probabilities, exclusive=bundle.exclusive)[number], sample.truth[number]
            labelled, true, both = (float((sample.weights * each).sum()) for each in (mask, truth, mask & truth))
            if labelled + true == 0:
                continue
            cases += 1
            dice.append(2 * both / (labelled + true))
            if (guess := predicted_dice(p, mask, sample.weights)) is not None:
                predicted.append(guess)
            size = size_interval(p, mask, sample.weights)
            inside += size.low <= true <= size.high
        rows.append(
            Structure(
                name=bundle.names[number],
                cases=cases,
                dice=float(np.mean(dice)) if dice else None,
                predicted_dice=float(np.mean(predicted)) if predicted else None,
                inside=inside,
            )
        )
    return rows


def _summary(found: Calibration) -> str:
    lines = [
        f"temperature {found.temperature:.3f}, fitted on {found.cases} validation cases",
        f"expected calibration error {found.error[0]:.4f} before, {found.error[1]:.4f} after",
        f"negative log-likelihood {found.likelihood[0]:.4f} before, {found.likelihood[1]:.4f} after",
    ]
    if found.folds > 1:
        lines.append(
            f"each case by the fold that was not trained on it; predictions average {found.folds} folds, which are "
            "together less sure: intervals are rather too wide than too narrow"
        )
    for each in found.structures:
        if each.dice is not None and each.predicted_dice is not None:
            lines.append(
                f"{each.name}: Dice {each.dice:.3f}, predicted {each.predicted_dice:.3f}; the volume lies in its "
                f"interval in {each.inside} of {each.cases} cases"
            )
    if found.training_images is None:
        lines.append(f"images will not be compared with the training data: that needs at least {FEWEST} images")
    else:
        lines.append(f"images will be compared with {found.training_images.count} images of the training data")
    return "\n".join(lines)
