"""Sentences of the report: the answer, what every claim rests on, and the methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medmixers.study.comparison import Comparison, Pair
from medmixers.study.pooled import POOLED
from medmixers.study.rows import MOST_NAMED
from medmixers.study.scores import NSD_TOLERANCE
from medmixers.study.statistics import LEAST_SEEDS, VERDICTS
from medmixers.study.summary import interval_text


def basis(comparison: Comparison) -> str:
    """n and S of a claim: ``n = 40 cases, S = 3 seeds per entry``."""
    counts = sorted({len(seeds) for seeds in comparison.scores.seeds})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"n = {comparison.cases} {comparison.unit}, S = {seeds} {'seed' if counts == [1] else 'seeds'} per entry"


def answer(comparison: Comparison) -> str:
    """One sentence: what is best, against what, how surely, from how much."""
    best = comparison.ranking[0]
    pair, turned = _decisive_pair(comparison)
    metric, first = comparison.scores.metric, best_entries(comparison)
    if len(first) == 1:
        lead = f"{best.entry} ranks first by mean {metric} ({best.mean:.4f}"
        lead += ")" if np.isnan(best.seed_sd) else f" ± {best.seed_sd:.4f} over seeds)"
    else:
        names = f"{', '.join(first[:-1])} and {first[-1]}" if len(first) <= MOST_NAMED else f"{len(first)} entries"
        lead = f"No entry is first: {names} tie by mean {metric} ({best.mean:.4f})"
    if comparison.control == best.entry and len(first) == 1:
        lead += ", and it is the control"
    return f"{lead}. {_finding(comparison, pair, turned, first)} {_tally(comparison)} ({basis(comparison)})."


def best_entries(comparison: Comparison) -> list[str]:
    """Names of the entries at the first place: several where they tie."""
    return [row.entry for row in comparison.ranking if row.rank == comparison.ranking[0].rank]


def _decisive_pair(comparison: Comparison) -> tuple[Pair, bool]:
    """The best entry with the control or, where there is none or it is the best, with the second; whether turned."""
    best, second = comparison.ranking[0].entry, comparison.ranking[1].entry
    other = comparison.control if comparison.control not in (None, best) else second
    for pair in comparison.pairs:
        if {pair.first, pair.second} == {best, other}:
            return pair, pair.first != best
    raise AssertionError(f"no pair of {best} and {other}")


def _finding(comparison: Comparison, pair: Pair, turned: bool, first: Sequence[str]) -> str:
    best, other = (pair.second, pair.first) if turned else (pair.first, pair.second)
    it, subject, of = ("it", "It", "") if len(first) == 1 else (best, best, f" of {best}")
    sign = -1 if turned else 1
    level = f"{100 * (1 - comparison.alpha):g} % interval"
    if pair.retrained is None:
        reach = f"no {level} of so few {comparison.unit}"
        if pair.shift.low is not None and pair.shift.high is not None:
            low, high = sorted((sign * pair.shift.low, sign * pair.shift.high))
            reach = f"{level} {interval_text(low, high)}"
        return (
            f"Whether {it} is better than {other} when trained again is unknown: underpowered, fewer than "
            f"{LEAST_SEEDS} seeds. These trained models differ by {_signed(sign * pair.shift.estimate)} ({reach}, "
            f"p = {pair.shift_pvalue:.2g}, {_correction(comparison, comparison.correction)})."
        )
    low, high = sorted(sign * end for end in pair.retrained.interval(comparison.alpha))
    verdict = {"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict) if turned else pair.verdict
    says = {
        "better": f"{subject} is better than {other}",
        "worse": f"{subject} is worse than {other}",
        "equivalent": f"{subject} is equivalent to {other} within the margin of {comparison.margin:g}",
        "undecided": f"No difference{of} to {other} was found",
        "underpowered": f"Underpowered: {it} may or may not differ from {other}",
    }[verdict]
    return (
        f"{says}; difference {_signed(sign * pair.retrained.mean)} ({level} {interval_text(low, high)}, "
        f"p = {pair.retrained_pvalue:.2g}, {_correction(comparison, 'Holm')}; "
        f"detectable difference {pair.detectable:.4f})."
    )


def _signed(value: float) -> str:
    return f"{value + 0:+.4f}"  # no -0


def _correction(comparison: Comparison, name: str) -> str:
    pairs = len(comparison.pairs)
    return f"{name} over {pairs} pairs" if pairs > 1 else "one pair, no correction"


def _tally(comparison: Comparison) -> str:
    counts = Counter(pair.verdict for pair in comparison.pairs)
    if comparison.control is not None:
        words = [(f"against {comparison.control}", [(name, counts[name]) for name in VERDICTS])]
    else:  # which entry of a pair stands first has no meaning
        differ = ("differ", counts["better"] + counts["worse"])
        words = [("of all pairs", [differ, *((name, counts[name]) for name in VERDICTS[2:])])]
    ((where, found),) = words
    shown = ", ".join(f"{count} {name}" for name, count in found if count)
    return f"{where[0].upper()}{where[1:]}: {shown}"


def worst_verdict(comparisons: Sequence[Comparison]) -> bool:
    """Whether any verdict is "underpowered", so that the page is stamped."""
    return any(pair.verdict == "underpowered" for each in comparisons for pair in each.pairs)


def methods(comparisons: Sequence[Comparison], plan: Mapping[str, Any]) -> list[str]:
    """Paragraphs to paste into a paper, of what this study used only."""
    if not comparisons:
        return []
    seeds = sorted({len(own) for each in comparisons for own in each.scores.seeds})
    alpha = comparisons[0].alpha
    margins = ", ".join(dict.fromkeys(f"{each.margin:g} ({each.scores.metric})" for each in comparisons))
    design = (
        f"We compared {len(plan['entries'])} entries on {len(plan['datasets'])} data set(s), with "
        f"{' to '.join(map(str, sorted({seeds[0], seeds[-1]})))} training(s) per entry that differ by their seed. "
        f"The margin, the largest difference that does not matter, was {margins}; alpha was {alpha:g}."
    )
    kinds = {dataset["kind"] for dataset in plan["datasets"]}
    return [design, *(text for kind, text in _metric_words(plan).items() if kind in kinds), *_test_words(comparisons)]


def _metric_words(plan: Mapping[str, Any]) -> dict[str, str]:
    tolerance = plan["question"].get("nsd_tolerance") or NSD_TOLERANCE
    return {
        "segmentation": (
            f"Per case and class we computed Dice, the normalised surface Dice at {tolerance:g} mm (voxels for "
            "pictures) and HD95 with MONAI. A structure that was absent and not predicted was left out. A structure "
            "that was absent and predicted, or present and not predicted, had Dice and surface Dice 0, and the "
            "diagonal of the image as HD95. A case's score is the mean over its classes."
        ),
        "classification": (
            "From the class probabilities we computed AUROC and average precision (macro one-vs-rest), balanced "
            "accuracy, macro F1 and, per case, accuracy, Brier score and log loss with scikit-learn's definitions, and "
            "the expected calibration error over 15 bins."
        ),
    }


def _test_words(comparisons: Sequence[Comparison]) -> list[str]:
    pooled = any(each.scores.metric in POOLED for each in comparisons)
    per_case = any(each.scores.metric not in POOLED for each in comparisons)
    words = []
    if per_case:
        words.append(
            "Trained models were compared on new cases by the Wilcoxon signed-rank test of seed-averaged scores with "
            "Holm's correction, and the Hodges-Lehmann shift. Whether entries differ when trained again was tested by "
            "t on the mean difference with the variance var_case/n + s_i²/S_i + s_j²/S_j and Satterthwaite's degrees "
            "of freedom."
        )
    if pooled:
        words.append(
            "Metrics of all cases together were compared by 5000 paired bootstrap draws of the cases, with "
            "simultaneous max-T bands for the trained models. Whether entries differ when trained again was tested "
            "by t on the difference of means, with the bootstrap variance of the cases, the variance over seeds of "
            "both entries, and Satterthwaite's degrees of freedom."
        )
    words.append(
        "Both p values of a new training, of no difference and of a difference beyond the margin (two one-sided "
        "tests), were corrected by Holm over all pairs of a data set. Intervals were not. The detectable difference "
        "is found with 80 % power at alpha divided by the number of pairs. Cases of one group were averaged or drawn "
        "together. Points and rank scores follow Keuth et al. 2025 (uncorrected, first seed)."
    )
    if any(pair.fold_pvalue is not None for each in comparisons for pair in each.pairs):
        shares = ", ".join(sorted({f"{each.test_share:.3g}" for each in comparisons if each.test_share is not None}))
        words.append(
            "Each case was scored in one fold. The p value over folds has the variance of Nadeau and Bengio, with a "
            f"ratio of test to training cases of {shares}."
        )
    return words


def seconds(value: float) -> str:
    """A duration in the unit that a person uses."""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
