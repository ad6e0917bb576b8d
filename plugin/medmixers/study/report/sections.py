"""The report's section of one data set: its comparison, tables and figures, and what could not be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.errors import InputError
from medmixers.study.comparison import Comparison, compare
from medmixers.study.probabilities import PooledScores
from medmixers.study.report import cost_figures, ranking_figures, score_figures, tables, training_figures
from medmixers.study.report.case_pictures import one_case_by_every_entry, worst_cases
from medmixers.study.report.costs import cost_of
from medmixers.study.report.drawing import Picture
from medmixers.study.report.folder import StudyFolder, share_of_tests
from medmixers.study.report.swaps import swaps
from medmixers.study.report.tables import Table
from medmixers.study.report.words import answer


@dataclass
class Section:
    """One data set.

    Args:
        anchor: of the page.
        title: name of the data set.
        answer: the sentence that comes first.
        comparison: None where the data set cannot be compared yet; ``answer`` says why.
        ranking, tests, trained, metrics, classes, swaps: tables.
        figures: in the page's order.
        worst: pictures of cases.
        notes: what is left out and why.
        ranking_rows, metric_rows: for the CSV files.
    """

    anchor: str
    title: str
    answer: str
    comparison: Comparison | None
    ranking: Table | None
    tests: Table | None
    trained: Table | None
    metrics: Table | None
    classes: Table | None
    swaps: Table | None
    figures: list[Picture]
    worst: list[Picture]
    notes: list[str]
    ranking_rows: list[dict[str, Any]]
    metric_rows: list[dict[str, Any]]


def section(study: StudyFolder, dataset: Mapping[str, Any], number: int, folder: Path, seed: int) -> Section:
    """Compare the entries on one data set, and draw what its files allow.

    Args:
        study: the study.
        dataset: its row of the plan.
        number: of the data set, for the names of files.
        folder: for figures.
        seed: of the random draws.
    """
    stem = f"{number}_{re.sub('[^A-Za-z0-9_-]+', '-', dataset['name'])[:40]}"
    question = study.question
    try:
        comparison = compare(
            study.scores(dataset),
            margin=float(dataset.get("margin") or question["margin"]),
            alpha=float(question.get("alpha") or 0.05),
            control=study.control,
            seed=seed,
            test_share=share_of_tests(dataset),
        )
    except InputError as error:
        says = f"No comparison: {error}"
        empty: list[list[Any]] = [[] for _ in range(5)]
        return Section(f"data{number}", dataset["name"], says, None, None, None, None, None, None, None, *empty)
    return _compared(study, dataset, comparison, f"data{number}", folder, stem)


def _compared(
    study: StudyFolder, dataset: Mapping[str, Any], comparison: Comparison, anchor: str, folder: Path, stem: str
) -> Section:
    costs = {row.entry: cost_of(study, dataset["name"], row.entry) for row in comparison.ranking}
    figures: list[Picture | None] = [
        ranking_figures.rank_blobs(comparison, folder, stem),
        ranking_figures.differences(comparison, folder, stem),
        *ranking_figures.significance_maps(comparison, folder, stem),
        score_figures.by_kernel(study, comparison, folder, stem),
        score_figures.uplift(study, comparison, folder, stem),
        cost_figures.score_over_cost(comparison, costs, folder, stem),
        cost_figures.time_and_memory(comparison, costs, folder, stem),
        score_figures.boxes(comparison, folder, stem),
        training_figures.loss_curves(study, comparison, folder, stem),
        training_figures.gradient_norms(study, comparison, folder, stem),
        score_figures.paired_cases(comparison, folder, stem),
        one_case_by_every_entry(study, comparison, dataset, folder, stem),
    ]
    if isinstance(comparison.scores, PooledScores):
        shown = list(dict.fromkeys([comparison.ranking[0].entry, comparison.control or comparison.ranking[1].entry]))
        figures.append(score_figures.reliability(comparison.scores, shown, folder, stem))
    worst, notes = worst_cases(study, comparison, dataset, folder, stem)
    metrics, metric_rows = tables.secondary(study, comparison, dataset, stem)
    return Section(
        anchor=anchor,
        title=dataset["name"],
        answer=answer(comparison),
        comparison=comparison,
        ranking=tables.ranking(comparison, costs, stem, dataset.get("published")),
        tests=tables.tests(comparison, stem),
        trained=tables.trained_models(comparison, stem),
        metrics=metrics,
        classes=tables.by_class(study, comparison, list(dataset["classes"]), stem),
        swaps=swaps(study, dataset["name"], stem),
        figures=[each for each in figures if each is not None],
        worst=worst,
        notes=[*_notes(study, comparison), *notes],
        ranking_rows=tables.ranking_with_costs(comparison, costs, dataset.get("published")),
        metric_rows=metric_rows,
    )


def _notes(study: StudyFolder, comparison: Comparison) -> list[str]:
    notes = []
    absent = [each["name"] for each in study.plan["entries"] if each["name"] not in comparison.scores.entries]
    if absent:
        notes.append(f"Without any scored training, and so not compared: {', '.join(absent)}.")
    if comparison.left_out:
        notes.append(
            f"{comparison.left_out} {comparison.unit} are left out: they lack a score of at least one training."
        )
    ratio = comparison.discriminability
    if ratio == ratio:  # not NaN
        notes.append(
            f"Standard deviation between entries over that between seeds: {ratio:.2f}."
            + (" Below 1, this data set can hardly tell the entries apart." if ratio < 1 else "")
        )
    tau = comparison.stability.kendall_tau
    if tau == tau:  # NaN where all entries tie
        notes.append(f"Kendall's tau of the ranking when cases and seeds are drawn again: {tau:.2f}.")
    return notes
