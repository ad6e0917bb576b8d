"""``medmixers study``: which entry is better, from scores."""

from __future__ import annotations


class Study:
    """Compare entries (mixers, networks) over cases and seeds."""

    def rank(
        self,
        table: str,
        margin: float,
        alpha: float = 0.05,
        control: str | None = None,
        metric: str | None = None,
        out: str | None = None,
        seed: int = 0,
    ) -> str:
        """Rank the entries of a table of scores, and give a verdict on every pair.

        The table is a CSV file with the columns entry, seed, case and value; dataset, metric, class, group and fold
        are optional. For AUROC and other metrics of all cases together, it has a column truth instead of value, and
        one column of probabilities per class. A verdict is better, worse, equivalent, undecided or underpowered. It
        counts the trainings: with fewer than 3 seeds per entry it is always underpowered.

        Args:
            table: CSV file of scores, one row per entry, seed, case and class.
            margin: largest difference that does not matter to you, in the metric's units.
            alpha: level of all verdicts together (Holm).
            control: entry to compare all others with; by default every pair is compared.
            metric: which metric of the table; of probabilities auroc, average_precision, balanced_accuracy, f1 or ece.
            out: folder for ranking.csv and tests.csv, and overall.csv of several data sets.
            seed: of the random draws.

        Example:
            medmixers study rank scores.csv --margin 0.01 --out report
        """
        from pathlib import Path

        from medmixers.files import refuse_overwriting_inputs
        from medmixers.study.comparison import compare
        from medmixers.study.probabilities import read_any_table
        from medmixers.study.summary import FILES, as_text, write_csv

        for name in FILES if out is not None else ():
            refuse_overwriting_inputs(Path(str(out)) / name, [table])
        comparisons = [
            compare(scores, margin=margin, alpha=alpha, control=control, seed=seed)
            for scores in read_any_table(table, metric)
        ]
        text = as_text(comparisons)
        if out is None:
            return text
        files = write_csv(comparisons, out)
        return f"{text}\n\n{', '.join(map(str, files))}"

    def report(self, out: str, seed: int = 0) -> str:
        """Write the report of a study: one offline HTML page, tables as CSV and LaTeX, figures as PDF.

        It can be written at any time, and says what is missing.

        Args:
            out: folder of the study.
            seed: of the random draws.

        Example:
            medmixers study report mixers_on_my_data
        """
        from medmixers.study.report.page import write_report

        return str(write_report(out, seed=seed))
