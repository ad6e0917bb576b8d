"""``medmixers study``: which entry is better, from one YAML file or from scores."""

from __future__ import annotations


class Study:
    """Compare entries (mixers, networks) over cases and seeds."""

    def example(self, name: str, out: str | None = None) -> str:
        """Print a study's file that redoes the tables of a paper, or write it.

        The names are keuth2025_classification, keuth2025_segmentation, keuth2025_3d, tshimanga2026, xue2026, demo and
        compare_nnunet. The file says which table each block redoes, what cannot be redone, and how to get the data.

        Args:
            name: of the example.
            out: file to write instead; it must not exist.

        Example:
            medmixers study example keuth2025_classification -o keuth.yaml
        """
        from medmixers.study.examples import write_example

        return write_example(name, out)

    def plan(self, file: str, out: str | None = None, measure: bool = False, allow_underpowered: bool = False) -> str:
        """Check a study, and print its trainings, hours, disk and detectable difference.

        Nothing is written. A study that cannot answer its question is refused, with what it would need.

        Args:
            file: YAML file of the study.
            out: folder of the study, by default next to the file, with the study's name.
            measure: time a training step of each entry on the first device.
            allow_underpowered: go on where the study cannot answer its question.

        Example:
            medmixers study plan my_study.yaml --measure
        """
        from medmixers.progress import steps
        from medmixers.study.engine.command import plan_text

        with steps("study plan") as announce:
            return plan_text(file, out, measure=measure, allow_underpowered=allow_underpowered, announce=announce)

    def run(self, file: str, out: str | None = None, on: str = "local", allow_underpowered: bool = False) -> None:
        """Run a study's trainings, predictions and scores; the same command resumes it.

        The exit status is 1 if a job failed. On Slurm, the command submits what is not done, queued or running.

        Args:
            file: YAML file of the study.
            out: folder of the study, by default next to the file, with the study's name.
            on: local, or slurm for a cluster, with what each job asks for in the file as run: {slurm: ...}.
            allow_underpowered: run a study that cannot answer its question; the report says so.

        Example:
            medmixers study run my_study.yaml
        """
        from medmixers.study.engine.command import run_study

        text, failed = run_study(file, out, on=on, allow_underpowered=allow_underpowered)
        print(text, flush=True)
        raise SystemExit(1 if failed else 0)

    def status(self, study: str) -> str:
        """Print one line per job: waiting, running, stopped, failed or done.

        Args:
            study: folder of the study.

        Example:
            medmixers study status mixers_on_my_data
        """
        from medmixers.study.engine.status import study_status

        return study_status(study)

    def job(self, study: str, job: str, device: str = "auto") -> str:
        """Run one job of a study: the command that `study run` starts for each training.

        Finished stages are skipped. The exit status is 75 if the job was told to end and can go on.

        Args:
            study: folder of the study.
            job: its name, as `study status` prints it.
            device: cpu, cuda:0, mps, or auto.

        Example:
            medmixers study job mixers_on_my_data Dataset900__pooling__seed0 --device cuda:0
        """
        from medmixers.study.engine.jobs import REQUEUE, Ended, run_job

        try:
            return run_job(study, job, device=device)
        except Ended:
            raise SystemExit(REQUEUE) from None

    def rank(
        self,
        table: str,
        margin: float,
        alpha: float = 0.05,
        control: str | None = None,
        metric: str | None = None,
        smaller_is_better: bool = False,
        folds: int | None = None,
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
            smaller_is_better: for a metric whose name does not say so, such as a distance in mm.
            folds: number of folds that the data was split into, for p_folds; by default those in the table.
            out: folder for ranking.csv and tests.csv, and overall.csv of several data sets.
            seed: of the random draws.

        Example:
            medmixers study rank scores.csv --margin 0.01 --out report
        """
        from pathlib import Path

        from medmixers.files import refuse_overwriting_inputs
        from medmixers.study.comparison import compare, share_of_folds
        from medmixers.study.probabilities import read_any_table
        from medmixers.study.summary import FILES, as_text, write_csv

        for name in FILES if out is not None else ():
            refuse_overwriting_inputs(Path(str(out)) / name, [table])
        comparisons = [
            compare(
                scores,
                margin=margin,
                alpha=alpha,
                control=control,
                seed=seed,
                test_share=None if folds is None else share_of_folds(scores, folds),
            )
            for scores in read_any_table(table, metric, smaller_is_better=smaller_is_better)
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

    def swap(
        self,
        model: str,
        data: str | None = None,
        part: str = "test",
        metric: str | None = None,
        replacements: str = "identity,pooling,mean",
        checkpoint: str | None = None,
        csv: str | None = None,
        device: str = "cpu",
        alpha: float = 0.05,
        seed: int = 0,
    ) -> str:
        """Replace the token mixers of a trained network, stage by stage, and measure how its score changes.

        Nothing is trained. A stage whose replacement changes nothing does not use its mixer. For a run of a study, the
        table also becomes RUN/swap.csv, which the report shows.

        Args:
            model: folder of a trained bundle, its zip, or folder runs/ID of a study whose run trained a bundle.
            data: data set of the bundle; a run has its own.
            part: test, validation or training.
            metric: dice of segmentations; of classifiers auroc (the default), average_precision, balanced_accuracy,
                f1, ece, accuracy, brier or log_loss.
            replacements: identity (no mixing), pooling (3 voxels wide) and mean (attention with equal weights).
            checkpoint: file of the weights; by default models/model.pt of the bundle.
            csv: file for the table.
            device: cpu, cuda, cuda:1 or mps.
            alpha: level of the intervals.
            seed: of the bootstrap draws of AUROC and the like.

        Example:
            medmixers study swap my_bundle data/Dataset001_Organ --csv swap.csv
            medmixers study swap mixers_on_my_data/runs/Dataset900__pooling__seed0
        """
        from pathlib import Path

        from medmixers.cli.device import usable_device
        from medmixers.files import refuse_overwriting_inputs
        from medmixers.study.swap_effects import SWAP_FILE, swap_effects

        if csv is not None:
            refuse_overwriting_inputs(csv, [each for each in (model, data) if each is not None])
        effects = swap_effects(
            model, data, part=part, metric=metric, replacements=[each.strip() for each in replacements.split(",")],
            checkpoint=checkpoint, device=usable_device(device), alpha=alpha, seed=seed,
        )  # fmt: skip
        files = [Path(csv)] if csv is not None else []
        if (Path(model) / "bundle").is_dir():
            files.append(Path(model) / SWAP_FILE)
        for file in files:
            effects.write_csv(file)
        return "\n".join([str(effects), *map(str, files)])

    def pack(self, study: str, out: str) -> str:
        """Pack the scores of a study with their provenance, for a merge with other sites that cannot share data.

        The zip holds scores per case, entries, seeds, counts, versions and hashes of code and configs. It holds no
        image and no path. Names of cases and groups are digests with a key that stays in STUDY/site_salt. Where the
        metric is one of all cases together, such as AUROC, it also holds the probabilities and the truth of each case.

        Args:
            study: folder of the study.
            out: the zip to write; its name without .zip is the site's name in a merge.

        Example:
            medmixers study pack mixers_on_my_data -o north.zip
        """
        from medmixers.study.sharing.pack import pack_study

        return str(pack_study(study, out))

    def merge(self, *zips: str, out: str, seed: int = 0) -> str:
        """Merge packs of the same study from several sites: verdicts per site, and over sites by random effects.

        Packs whose YAML, versions or scorer differ are refused with the difference. The tables are OUT/scores.csv,
        OUT/sites.csv and OUT/across.csv.

        Args:
            zips: of `medmixers study pack`, one per site.
            out: folder for the tables.
            seed: of the random draws.

        Example:
            medmixers study merge north.zip south.zip west.zip -o merged
        """
        from medmixers.study.sharing.merge import merge_packs

        return str(merge_packs([str(each) for each in zips], out, seed=seed))
