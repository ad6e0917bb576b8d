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
        out: str | None = None,
        seed: int = 0,
    ) -> str:
        """Rank the entries of a table of scores, and give a verdict on every pair.

        The table is a CSV file with the columns entry, seed, case and value; dataset, metric, class, group and fold
        are optional. A verdict is better, worse, equivalent, undecided or underpowered. It counts the trainings: with
        fewer than 3 seeds per entry it is always underpowered.

        Args:
            table: CSV file of scores, one row per entry, seed, case and class.
            margin: largest difference that does not matter to you, in the metric's units.
            alpha: level of all verdicts together (Holm).
            control: entry to compare all others with; by default every pair is compared.
            out: folder for ranking.csv and tests.csv.
            seed: of the random draws.

        Example:
            medmixers study rank scores.csv --margin 0.01 --out report
        """
        from pathlib import Path

        from medmixers.files import refuse_overwriting_inputs
        from medmixers.study.comparison import compare
        from medmixers.study.summary import FILES, as_text, write_csv
        from medmixers.study.table import read_scores

        for name in FILES if out is not None else ():
            refuse_overwriting_inputs(Path(str(out)) / name, [table])
        comparisons = [
            compare(scores, margin=margin, alpha=alpha, control=control, seed=seed) for scores in read_scores(table)
        ]
        text = as_text(comparisons)
        if out is None:
            return text
        files = write_csv(comparisons, out)
        return f"{text}\n\n{', '.join(map(str, files))}"
