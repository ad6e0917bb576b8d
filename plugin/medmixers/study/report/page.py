"""Write the report: one offline HTML page, tables as CSV and LaTeX, figures as PDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medmixers import pages
from medmixers.files import written_whole
from medmixers.progress import progress
from medmixers.study.comparison import Comparison
from medmixers.study.overall import over_datasets
from medmixers.study.report import cost_figures, drawing, latex, tables, words
from medmixers.study.report.folder import SCORED, UNFINISHED, StudyFolder, read_folder
from medmixers.study.report.ranking_figures import critical_difference
from medmixers.study.report.sections import Section, section
from medmixers.study.report.tables import Table
from medmixers.study.rows import write_table
from medmixers.study.summary import OVERALL, PAIRS, RANKING, overall_rows, pair_rows

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 3_000_000  # bytes of the page; beyond, pictures of cases stay files
METRIC_COLUMNS = ("dataset", "metric", "entry", "mean", "seed_sd", "cases")
PACKAGES = ("medmixers", "numpy", "scipy", "scikit-learn", "monai", "torch", "nnunetv2", "matplotlib")


@dataclass(frozen=True)
class Report:
    """What was written. ``str()`` gives the lines for the terminal."""

    page: Path
    answers: tuple[str, ...]
    missing: int
    runs: int

    def __str__(self) -> str:
        lines = [*self.answers]
        if self.missing:
            lines.append(f"{self.missing} of {self.runs} trainings have no scores yet.")
        return "\n".join([*lines, str(self.page)])


def write_report(folder: str | Path, *, seed: int = 0) -> Report:
    """Write the report of a study into its folder's ``report/``.

    Args:
        folder: of the study.
        seed: of the random draws.

    Raises:
        MissingFileError: no study, or no run with scores yet.
        MissingPackageError: matplotlib is not installed.
    """
    with drawing.styled():
        study = read_folder(folder)
        out = study.path / "report"
        figures = out / "figures"
        data = list(enumerate(study.plan["datasets"], start=1))
        sections = [section(study, each, k, figures, seed) for k, each in progress(data, "report", total=len(data))]
        compared = [each.comparison for each in sections if each.comparison is not None]
        _write_tables(sections, compared, out)
        overall = over_datasets(compared)
        across = [picture for each in overall if (picture := critical_difference(each, figures)) is not None]
        facts: dict[str, Any] = {
            "study": study,
            "sections": sections,
            "overall": [tables.overall(each) for each in overall],
            "across": across,
            "resolution": cost_figures.over_resolution(study, figures),
            "methods": words.methods(compared, study.plan),
            "stamp": words.worst_verdict(compared),
            "missing": [run for run in study.runs if run.state != SCORED],
            "unfinished": sum(run.state == UNFINISHED for run in study.runs),
            "versions": _versions(study),
            "commit": study.plan.get("commit"),
            "refusals": study.plan.get("refusals") or [],
        }
        for table in facts["overall"]:
            _write_latex(table, out)
    page = out / "report.html"
    with written_whole(page) as partial:
        partial.write_text(fitting(facts), encoding="utf-8")
    answers = tuple(f"{each.title}: {each.answer}" for each in sections)
    return Report(page, answers, len(facts["missing"]), len(study.runs))


def fitting(facts: dict[str, Any]) -> str:
    """The page; without pictures of cases where it would be larger than 3 MB."""
    text = render(**facts)
    if len(text.encode()) <= LARGEST:
        return text
    for each in facts["sections"]:
        if each.worst:
            each.notes.append(
                f"{len(each.worst)} pictures of the worst cases lie in figures/: the page would be too large."
            )
            each.worst = []
    return render(**facts)


def render(**facts: Any) -> str:
    """Text of the page. Everything that is not the template's own is escaped."""
    return pages.render(TEMPLATES, "report.html.j2", **facts)


def _versions(study: StudyFolder) -> dict[str, str]:
    """Versions that trained, by the plan, else of the packages that score and compare here."""
    planned = study.plan.get("versions")
    return dict(planned) if planned else {name: version(name) for name in PACKAGES}


def _write_tables(sections: Sequence[Section], compared: Sequence[Comparison], out: Path) -> None:
    ranking = [row for each in sections for row in each.ranking_rows]
    write_table(out / "ranking.csv", (*RANKING, *tables.COST_COLUMNS, tables.PUBLISHED), ranking)
    write_table(out / "tests.csv", PAIRS, pair_rows(compared))
    write_table(out / "metrics.csv", METRIC_COLUMNS, [row for each in sections for row in each.metric_rows])
    if overall := over_datasets(compared):
        write_table(out / "overall.csv", OVERALL, overall_rows(overall))
    for each in sections:
        for table in (each.ranking, each.tests, each.trained, each.metrics, each.classes, each.swaps):
            if table is not None:
                _write_latex(table, out)


def _write_latex(table: Table, out: Path) -> None:
    with written_whole(out / "tables" / f"{table.name}.tex") as partial:
        partial.write_text(latex.table(table.head, table.rows, table.caption), encoding="utf-8")
