"""How the score of a trained bundle changes when token mixers are replaced: which stages use their mixer at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.bundles.share.archive import open_archive
from medmixers.checkpoints import read_weights
from medmixers.errors import InputError, MissingFileError
from medmixers.progress import progress
from medmixers.registry import valid_names
from medmixers.study.classification import by_case
from medmixers.study.engine.records import read_plan
from medmixers.study.pooled import POOLED, bootstrap
from medmixers.study.rows import write_table
from medmixers.study.scores import cases_of, dataset_of
from medmixers.study.statistics import Difference, average_groups, holm, max_t_bands
from medmixers.study.summary import text_table
from medmixers.study.table import LOWER_IS_BETTER

Array = NDArray[np.float64]
SWAP_FILE = "swap.csv"  # of a study's run
COLUMNS = (
    "stage", "module", "mixer", "replacement", "metric", "trained", "change", "low", "high", "p_corrected", "cases",
    "left_out", "alpha",
)  # fmt: skip
DICE, OVERLAP = "dice", "val_mean_dice"
PER_CASE = ("accuracy", "brier", "log_loss")
DRAWS = 5000
ALL = "all stages"


@dataclass(frozen=True)
class Effect:
    """Change of the score by one replacement.

    Args:
        stage, module, mixer: where: its name, path in the network, and the classes that were replaced.
        replacement: "identity", "pooling" or "mean".
        metric: name.
        trained: score of the network as it was trained.
        change: score with the replacement minus ``trained``: paired, over the same cases.
        low, high: its confidence interval over cases, not corrected.
        p_corrected: p value of no change, corrected over all replacements.
        cases: cases, or groups of cases, with a score of all variants.
        left_out: the others.
    """

    stage: str
    module: str
    mixer: str
    replacement: str
    metric: str
    trained: float
    change: float
    low: float
    high: float
    p_corrected: float
    cases: int
    left_out: int


@dataclass(frozen=True)
class Effects:
    """All replacements of one network. ``str()`` gives the table for the terminal."""

    name: str
    alpha: float
    correction: str
    rows: tuple[Effect, ...]

    def write_csv(self, file: Path) -> None:
        """Write one row per replacement, in the columns :data:`COLUMNS`."""
        rows = [dict(zip(COLUMNS, (*astuple(row), self.alpha), strict=True)) for row in self.rows]
        write_table(file, COLUMNS, rows)

    def __str__(self) -> str:
        first = self.rows[0]
        left_out = f", {first.left_out} left out without a score" if first.left_out else ""
        better = "smaller" if first.metric in LOWER_IS_BETTER else "larger"
        cells = [
            (
                row.stage,
                row.mixer,
                row.replacement,
                f"{row.change:+.4f}",
                f"{row.low:+.4f} to {row.high:+.4f}",
                f"{row.p_corrected:.2g}",
                str(row.cases),
            )
            for row in self.rows
        ]
        level = f"{100 * (1 - self.alpha):g} % interval"
        head = ("stage", "mixer", "replaced by", f"change of {first.metric}", level, f"p ({self.correction})", "n")
        return (
            f"{self.name}: {first.metric} {first.trained:.4f} as trained; {first.cases} cases{left_out}\n\n"
            f"{text_table(head, cells)}\n\n"
            f"Change: with the replacement minus as trained, on the same cases; {better} is better. Intervals are over "
            f"cases and not corrected; p is corrected over {len(self.rows)} replacements.\n"
            "A change of about 0, with a narrow interval, means that this trained network does not use the mixer "
            "there. It does not say how a network trained without the mixer would score."
        )


def swap_effects(
    model: str | Path,
    data: str | Path | None = None,
    *,
    part: str = "test",
    metric: str | None = None,
    replacements: Sequence[str] | None = None,
    checkpoint: str | None = None,
    device: str = "cpu",
    alpha: float = 0.05,
    seed: int = 0,
) -> Effects:
    """Replace the mixers of each stage of a trained network, and of all stages, and score every variant.

    Nothing is trained. The scores are those of the bundle's own evaluation.

    Args:
        model: folder of a bundle, its zip, or the folder runs/ID of a study's run. A bundle's configs are code that
            runs: take those of people you trust.
        data: data set of a bundle; None for a study's run, whose plan names its cases.
        part: "test", "validation" or "training", of a bundle's data set.
        metric: "dice" of segmentations; of classifiers a key of ``POOLED`` ("auroc" by default), "accuracy", "brier"
            or "log_loss".
        replacements: of :data:`medmixers.study.swap.REPLACEMENTS`; None takes those that each stage can have.
        checkpoint: file of the weights; None takes models/model.pt of the bundle.
        device: as torch names it.
        alpha: level of the intervals.
        seed: of the bootstrap draws of AUROC and the like.

    Raises:
        MissingFileError: no bundle, weights or data.
        InputError: anything else that does not fit; the message names it.
    """
    from medmixers.study.swap import REPLACEMENTS

    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    for each in replacements or ():
        if each not in REPLACEMENTS:
            raise InputError(f"unknown replacement {each!r}; valid: {valid_names(each, REPLACEMENTS)}")
    model = Path(model)
    with _bundle_of(model) as bundle, _unchanged_path():
        settings, groups = _settings(model, bundle, data, part)
        evaluation = _Evaluation(bundle, settings, checkpoint=checkpoint, device=device)
        measure = evaluation.metric(metric)
        variants = list(_variants(evaluation.network, replacements or REPLACEMENTS))
        outcomes = [evaluation.outcome()]
        for places, replacement in progress(variants, "swap", total=len(variants)):
            outcomes.append(evaluation.outcome(places, replacement))
        numbers = groups or evaluation.groups()
    positions = {name: place for place, name in enumerate(dict.fromkeys(numbers))}
    changes = _Changes(np.array([positions[name] for name in numbers]), alpha, seed)
    rows, correction = changes.of(measure, outcomes)
    effects = []
    for (places, replacement), row in zip(variants, rows, strict=True):
        single = places[0] if len(places) == 1 else None
        mixers = ", ".join(dict.fromkeys(place.mixer for place in places))
        name, module = (single.name, single.path) if single else (ALL, "")
        effects.append(Effect(name, module, mixers, replacement, measure, *row))
    return Effects(model.resolve().name, alpha, correction, tuple(effects))


def _variants(network: Any, replacements: Sequence[str]) -> Iterator[tuple[list[Any], str]]:
    """Each place with each of its replacements, then all places together where there are several."""
    from medmixers.study.swap import places_of

    places = places_of(network)
    singles = [([place], each) for place in places for each in place.replacements if each in replacements]
    if not singles:
        valid = dict.fromkeys(each for place in places for each in place.replacements)
        raise InputError(f"{', '.join(replacements)} replaces no mixer of this network; valid: {', '.join(valid)}")
    yield from singles
    for replacement in dict.fromkeys(each for _, each in singles):
        able = [place for place in places if replacement in place.replacements]
        if len(able) > 1:
            yield able, replacement


@contextmanager
def _bundle_of(model: Path) -> Iterator[Path]:
    """The bundle's folder: of a zip, unpacked for as long as it is needed; of a study's run, its own."""
    if model.is_file():
        with TemporaryDirectory() as folder:
            yield open_archive(model, folder)
        return
    bundle = model / "bundle" if (model / "bundle").is_dir() else model
    if not (bundle / "configs" / "evaluate.json").is_file():
        raise MissingFileError(
            f"{model} is no bundle that can be evaluated: there is no {bundle / 'configs' / 'evaluate.json'}"
        )
    yield bundle


@contextmanager
def _unchanged_path() -> Iterator[None]:
    """A bundle's config puts its folder on the path of modules; take it off again."""
    paths = sys.path[:]
    try:
        yield
    finally:
        sys.path[:] = paths


def _settings(model: Path, bundle: Path, data: str | Path | None, part: str) -> tuple[dict[str, Any], list[str]]:
    """Keys of the bundle's config that say what is evaluated, and the groups of a study's cases."""
    plan_file = model.resolve().parents[1] / "plan.json" if bundle == model / "bundle" else None
    if data is not None:
        return {"dataset_dir": str(Path(data).absolute()), "evaluated_part": part}, []
    if plan_file is None or not plan_file.is_file():
        raise InputError(f"{model} needs its data: medmixers study swap {model} DATA")
    plan = read_plan(plan_file.parent)
    run = next((each for each in plan["runs"] if each["id"] == model.resolve().name), None)
    if run is None:
        raise InputError(f"{plan_file} has no run {model.resolve().name!r}")
    dataset = dataset_of(plan, run)
    cases = cases_of(dataset, run)
    items = [{"image": _one(case["image"]), "label": _label(dataset, case["truth"])} for case in cases.values()]
    return {"val_datalist": items}, [str(case.get("group") or name) for name, case in cases.items()]


def _one(paths: Sequence[str]) -> Any:
    return paths[0] if len(paths) == 1 else list(paths)


def _label(dataset: Mapping[str, Any], truth: Any) -> Any:
    if dataset["kind"] == "classification":
        return dataset["classes"][truth]
    return list(truth.values()) if isinstance(truth, Mapping) else truth


@dataclass(frozen=True)
class _Outcome:
    """Scores of each case, (cases,); or probabilities (cases, classes) and classes (cases,)."""

    scores: Array | None = None
    probabilities: Array | None = None
    labels: NDArray[np.int64] | None = None

    def of_case(self, metric: str) -> Array:
        """Score of each case by a metric that cases have one by one, (cases,)."""
        if self.scores is not None:
            return self.scores
        assert self.probabilities is not None
        assert self.labels is not None
        return by_case(self.probabilities, self.labels)[metric]


class _Evaluation:
    """The evaluator of a bundle's configs, without its files and prints."""

    def __init__(self, bundle: Path, settings: Mapping[str, Any], *, checkpoint: str | None, device: str) -> None:
        from ignite.engine import Events
        from monai.bundle import ConfigParser

        weights = checkpoint or str(bundle / "models" / "model.pt")
        self.parser = ConfigParser()
        self.parser.read_config([str(bundle / "configs" / f"{name}.json") for name in ("train", "evaluate")])
        self.is_overlap = OVERLAP in self.parser["validate#key_metric"]
        changes = {
            **settings, "bundle_root": str(bundle), "device": f"$torch.device({device!r})", "ckpt_path": weights,
            "amp": device.startswith("cuda"), "validate#handlers": [], "validate#additional_metrics": {},
        }  # fmt: skip
        for key, value in changes.items():
            self.parser[key] = value
        if "val_datalist" not in settings:
            self._built("preflight")
        self.network = self._built("network").eval()
        self.network.load_state_dict(read_weights(weights, self.network, hint=", here --checkpoint FILE"))
        self.items = self._built("val_datalist")
        self.engine = self._built("validate#evaluator")
        self.engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        self.output: list[tuple[Array, int]] = []

    def _built(self, key: str) -> Any:
        """A component of the config. An input error is raised without MONAI's around it."""
        from medmixers.bundle_runtime.loading import input_error

        try:
            return self.parser.get_parsed_content(key)
        except Exception as error:
            cause = input_error(error)
            if cause is None:
                raise
            raise cause from error

    def metric(self, name: str | None) -> str:
        """The metric's name, checked."""
        valid = (DICE,) if self.is_overlap else (*POOLED, *PER_CASE)
        if name is not None and name not in valid:
            kind = "segmentations" if self.is_overlap else "classifiers"
            raise InputError(f"unknown metric {name!r} of {kind}; valid: {valid_names(name, valid)}")
        return name or valid[0]

    def groups(self) -> list[str]:
        """Group of each case; a case without one is its own."""
        return [str(item.get("group") or item["image"]) for item in self.items]

    def outcome(self, places: Sequence[Any] = (), replacement: str = "identity") -> _Outcome:
        """Evaluate all cases with some places replaced."""
        from medmixers.study.swap import replaced

        self.output = []
        with replaced(self.network, places, replacement):
            self.engine.run()
        if self.is_overlap:
            details = self.engine.state.metric_details[OVERLAP].double().cpu().numpy()
            return _Outcome(scores=_mean_of_classes(details))
        probabilities, labels = zip(*self.output, strict=True)
        return _Outcome(probabilities=np.array(probabilities), labels=np.array(labels))

    def _collect(self, engine: Any) -> None:
        if not self.is_overlap:
            for item in engine.state.output:
                self.output.append((item["pred"].double().cpu().numpy(), int(item["label"].argmax())))


def _mean_of_classes(details: Array) -> Array:
    """Scores of cases and classes, (cases, classes) -> (cases,): the mean over the classes that have a score."""
    known = np.isfinite(details)
    with np.errstate(invalid="ignore"):
        return np.where(known, details, 0).sum(axis=1) / known.sum(axis=1)


Row = tuple[float, float, float, float, float, int, int]  # trained, change, low, high, p, cases, left out


@dataclass(frozen=True)
class _Changes:
    """Paired changes against the first outcome.

    Args:
        groups: number of each case's group, (cases,).
        alpha: level of the intervals.
        seed: of the bootstrap.
    """

    groups: NDArray[np.int64]
    alpha: float
    seed: int

    def of(self, metric: str, outcomes: Sequence[_Outcome]) -> tuple[list[Row], str]:
        """One row per outcome after the first, and the correction's name."""
        if metric in POOLED:
            return self._pooled(metric, outcomes), "max-T"
        return self._per_case(np.array([each.of_case(metric) for each in outcomes])), "Holm"

    def _per_case(self, values: Array) -> list[Row]:
        """values: (variants, cases). t of the mean difference over groups of cases."""
        means = average_groups(values, self.groups)
        known = np.isfinite(means).all(axis=0)
        count, left_out = int(known.sum()), int((~known).sum())
        if count < 2:
            raise InputError(f"at least 2 cases with a score are needed, got {count}")
        means = means[:, known]
        found = []
        for row in means[1:] - means[0]:
            error = float(row.std(ddof=1) / np.sqrt(count))
            found.append(Difference(float(row.mean()), error, count - 1, count, (1, 1)))
        pvalues = holm(np.array([each.pvalue() for each in found]))
        trained = float(means[0].mean())
        return [
            (trained, each.mean, *each.interval(self.alpha), float(p), count, left_out)
            for each, p in zip(found, pvalues, strict=True)
        ]

    def _pooled(self, metric: str, outcomes: Sequence[_Outcome]) -> list[Row]:
        """Percentile interval of the paired bootstrap over groups of cases."""
        models = [each.probabilities for each in outcomes if each.probabilities is not None]
        labels = outcomes[0].labels
        assert labels is not None
        count = int(self.groups.max()) + 1
        if count < 2 or len(set(labels.tolist())) < 2:
            raise InputError(f"{metric} needs at least 2 cases of 2 classes, got {count} cases")
        once = np.ones((1, len(labels)))
        values = np.array([POOLED[metric](model, labels, once)[0] for model in models])
        drawn = bootstrap(metric, models, labels, groups=self.groups, draws=DRAWS, seed=self.seed)
        drawn = drawn[np.isfinite(drawn).all(axis=1)]
        changes, draws = values[1:] - values[0], drawn[:, 1:] - drawn[:, :1]
        low, high = np.quantile(draws, [self.alpha / 2, 1 - self.alpha / 2], axis=0)
        pvalues = max_t_bands(changes, draws, alpha=self.alpha)[2]
        rows = zip(changes, low, high, pvalues, strict=True)
        return [(float(values[0]), *map(float, row), count, 0) for row in rows]  # type: ignore[misc]
