"""``medmixers clinic calibrate``: fit the temperature of models, and describe the images that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.bundles.share.pack import CALIBRATION
from medmixers.clinic.uncertainty.bundle import Bundle, own_input_errors
from medmixers.clinic.uncertainty.calibration import Calibration, Structure
from medmixers.clinic.uncertainty.diagram import reliability_svg
from medmixers.clinic.uncertainty.ensemble import Ensemble, opened_ensemble
from medmixers.clinic.uncertainty.measures import decisions, predicted_dice, size_interval
from medmixers.clinic.uncertainty.predictor import same_path
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
from medmixers.errors import InputError, MissingFileError
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.progress import Announce, progress, silent

MOST_VALUES = 4_000_000  # probabilities that are kept per case
MOST_VOXELS = 100_000  # per case and stratum
MOST_IMAGES = 50  # of the training, which are compared with; evenly spaced in their list


class Split(NamedTuple):
    """Cases with labels, {"image": ..., "label": ...} each, and the transforms of a label."""

    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    label_transforms: list[Any]


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
    """Fit a temperature on the validation cases of the bundle's split, and store the training images' statistics.

    Args:
        models: folders or zips of bundles, which give the same classes.
        dataset: the data set that they were trained on, in a format that the bundle's training takes.
        out: JSON file, a picture is written next to it; None writes models/calibration.json in the bundle's folder.
        ensemble: files of weights for a single model, in place of its own.
        use_mirroring: as the predictions will have it.
        fold: of the split; None takes the bundle's.
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
        split = read_split(opened.bundle, Path(dataset), fold)
        opened.first.layer = opened.first.find_layer(opened.first.load(split.validation[0]["image"])[1])
        announce("predict the validation cases")
        samples, facts = [], []
        for number, case in enumerate(progress(split.validation, "predict the validation cases")):
            prediction = opened.predict(case["image"])
            facts.append(prediction.case.facts)
            samples.append(_sample(opened.bundle, prediction.probabilities, _truth(opened.bundle, split, case), number))
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
        likelihood=(likelihood[0], likelihood[1]),
        error=(calibration_error(before), calibration_error(after)),
        bins=(before, after),
        structures=_structures(bundle, samples, temperature) if bundle.is_segmentation else [],
        training_images=summarise(images, ensemble.first.layer),
    )


def read_split(bundle: Bundle, dataset: Path, fold: int | None) -> Split:
    """The training and the validation cases of a bundle's configs/train.json.

    Raises:
        InputError: what the bundle's own reader of data sets refuses; a bundle that cannot train.
    """
    from monai.bundle import ConfigParser

    file = bundle.folder / "configs" / "train.json"
    if not file.is_file():
        raise MissingFileError(f"{bundle.source} has no configs/train.json, which splits the data")
    parser = ConfigParser()
    parser.read_config(str(file))
    parser["bundle_root"], parser["dataset_dir"] = str(bundle.folder), str(dataset)
    if fold is not None and "fold" not in parser.config:
        raise InputError(f"the data of {bundle.source} have one split: leave --fold out")
    if fold is not None:
        parser["fold"] = fold
    with own_input_errors(), same_path():
        return Split(
            training=parser.get_parsed_content("train_datalist"),
            validation=parser.get_parsed_content("val_datalist"),
            label_transforms=parser.get_parsed_content("validate::label_transforms", default=[]),
        )


def _target(models: Sequence[str | Path], ensemble: Sequence[str | Path], out: str | Path | None) -> Path:
    if out is None:
        model = Path(models[0])
        if len(models) > 1 or ensemble or model.is_file():
            is_zip = model.is_file() and len(models) == 1 and not ensemble
            what = "a zip is not changed" if is_zip else "an ensemble has no file of its own"
            raise InputError(f"{what}: give the file to write, --out FILE.json")
        return model / CALIBRATION
    if Path(out).suffix != ".json":
        raise InputError(f"{out} must be a JSON file to write, .json")
    return Path(out)


def _truth(bundle: Bundle, split: Split, case: Mapping[str, Any]) -> NDArray[Any]:
    """The label of a case: as the bundle's transforms give it, (1 or K, *spatial), or (1 or K,) of a classification."""
    item = {"label": case["label"]}
    with own_input_errors():
        for transform in split.label_transforms:
            item = transform(item)
    return np.atleast_1d(np.asarray(item["label"]))


def _sample(bundle: Bundle, p: NDArray[np.float32], label: NDArray[Any], seed: int) -> Sample:
    """Probabilities and truth of a case, of voxels or of the whole image."""
    valid = np.ones(p.shape[1:], bool)
    truth = label > 0.5
    if bundle.exclusive:
        if label.shape[1:] != p.shape[1:]:
            raise InputError(f"a label has the shape {label.shape[1:]}, and its image {p.shape[1:]}")
        valid = label[0] != bundle.ignored_value if bundle.ignored_value is not None else valid
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
