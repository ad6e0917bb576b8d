"""Join packs of scores: verdicts per site, and over sites by random effects."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs
from medmixers.study.comparison import Comparison, Pair, compare
from medmixers.study.report.folder import share_of_tests
from medmixers.study.rows import COLUMNS, write_table
from medmixers.study.sharing.effects import LEAST_SITES, RandomEffects, random_effects
from medmixers.study.sharing.read import Site, check_alike, read_pack
from medmixers.study.statistics import holm, verdict
from medmixers.study.summary import PAIRS, pair_rows, text_table

FILES = ("scores.csv", "sites.csv", "across.csv")
ACROSS = (
    "dataset", "metric", "first", "second", "sites", "cases", "seeds_first", "seeds_second", "difference", "low",
    "high", "df", "p", "p_holm", "p_equivalence_holm", "detectable", "tau", "i2", "q_p", "margin", "alpha", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class AcrossPair:
    """Two entries over all sites.

    Args:
        first, second: names; differences are first minus second, and above 0 the first is better.
        effects: their difference when trained again, over sites.
        pvalue, equivalence_pvalue: after Holm's correction over all pairs.
        detectable: smallest difference that the test finds with 80 % power at the corrected level.
        verdict: as of one site.
    """

    first: str
    second: str
    effects: RandomEffects
    pvalue: float
    equivalence_pvalue: float
    detectable: float
    verdict: str


@dataclass(frozen=True)
class Across:
    """One data set and metric over all sites.

    Args:
        dataset, metric: names.
        margin, alpha: of the verdicts.
        of_sites: name of a site -> its comparison.
        pairs: those that at least 2 sites can answer.
        notes: what is missing, and where.
    """

    dataset: str
    metric: str
    margin: float
    alpha: float
    of_sites: Mapping[str, Comparison]
    pairs: tuple[AcrossPair, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{name} ({each.cases} {each.unit})" for name, each in self.of_sites.items())
        lines = [f"{self.dataset}, {self.metric}: {len(self.of_sites)} site(s): {counts}", *self.notes]
        by_site = [
            (name, f"{pair.first} - {pair.second}", *_numbers(pair, self.alpha), pair.verdict)
            for name, comparison in self.of_sites.items()
            for pair in comparison.pairs
        ]
        level = f"{100 * (1 - self.alpha):g} % interval"
        lines += ["", text_table(("site", "first - second", "difference", level, "p (Holm)", "verdict"), by_site)]
        if not self.pairs:
            return "\n".join([*lines, "", "No verdict over sites: fewer than 2 sites have 3 seeds of two entries."])
        rows = [
            (
                f"{pair.first} - {pair.second}",
                str(pair.effects.sites),
                f"{pair.effects.difference.mean:+.4f}",
                "{:+.4f} to {:+.4f}".format(*pair.effects.difference.interval(self.alpha)),
                f"{pair.pvalue:.3g}",
                f"{pair.effects.tau:.4f}",
                f"{100 * pair.effects.i2:.0f} %",
                f"{pair.detectable:.4f}",
                pair.verdict,
            )
            for pair in self.pairs
        ]
        head = ("over sites", "sites", "difference", level, "p (Holm)", "tau", "I2", "detectable", "verdict")
        return "\n".join([*lines, "", text_table(head, rows)])


EXPLANATION = (
    "Over sites: random effects (DerSimonian-Laird) with the interval of Hartung and Knapp, t of sites - 1 degrees of "
    "freedom. tau: standard deviation of the true difference between sites. I2: share of the variance of the sites' "
    "differences that is not chance. With 2 or 3 sites the intervals are wide, and tau is hardly known. Intervals are "
    "not corrected."
)


@dataclass(frozen=True)
class Merged:
    """What was written. ``str()`` gives the text for the terminal."""

    across: tuple[Across, ...]
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.across), EXPLANATION, ", ".join(map(str, self.files))])


def merge_packs(zips: Sequence[str | Path], out: str | Path, *, seed: int = 0) -> Merged:
    """Join packs of the same study on several sites' own data, and write scores.csv, sites.csv and across.csv.

    Args:
        zips: of ``medmixers study pack``, one per site; a zip's name is the site's.
        out: folder for the tables.
        seed: of the random draws.

    Raises:
        InputError: fewer than 2 zips, one site twice, or packs that were not made alike; the message has the
            difference.
    """
    if len(zips) < LEAST_SITES:
        raise InputError(f"a merge needs at least {LEAST_SITES} packs, got {len(zips)}")
    stems = [Path(file).stem for file in zips]
    if twice := [name for name in stems if stems.count(name) > 1]:
        raise InputError(f"two packs have the name {twice[0]}.zip: the name of a pack is that of its site")
    for name in FILES:
        refuse_overwriting_inputs(Path(out) / name, zips)
    with TemporaryDirectory() as folder:
        sites = [read_pack(file, Path(folder)) for file in zips]
        check_alike(sites)
        names = [dataset["name"] for dataset in sites[0].study.plan["datasets"]]
        across = tuple(_across(sites, name, seed) for name in names)
        rows = [row for site in sites for row in _rows(site)]
    files = tuple(Path(out) / name for name in FILES)
    write_table(files[0], ("site", *COLUMNS), rows)
    of_sites = [
        {"site": name, **row} for each in across for name, one in each.of_sites.items() for row in pair_rows([one])
    ]
    write_table(files[1], ("site", *PAIRS), of_sites)
    write_table(files[2], ACROSS, [row for each in across for row in _across_rows(each)])
    return Merged(across, files)


def _rows(site: Site) -> list[dict[str, str]]:
    """Rows of a site's scores. Its data sets are named SITE/DATASET: seeds of two sites have nothing in common."""
    with (site.study.path / "scores.csv").open(newline="", encoding="utf-8") as content:
        return [
            {"site": site.name, **row, "dataset": f"{site.name}/{row['dataset']}"} for row in csv.DictReader(content)
        ]


def _across(sites: Sequence[Site], name: str, seed: int) -> Across:
    """Compare the entries on one data set, on each site and over all."""
    of_sites, notes = {}, []
    for site in sites:
        question = site.study.question
        dataset = next(each for each in site.study.plan["datasets"] if each["name"] == name)
        margin, alpha = float(dataset.get("margin") or question["margin"]), float(question.get("alpha") or 0.05)
        metric = str(dataset.get("metric") or question["metric"])
        try:
            scores = site.study.scores(dataset)
            of_sites[site.name] = compare(
                scores,
                margin=margin,
                alpha=alpha,
                control=site.study.control,
                seed=seed,
                test_share=share_of_tests(dataset),
            )
        except InputError as error:
            notes.append(f"{site.name}: no comparison: {error}")
    pairs = _pairs(list(of_sites.values()), margin, alpha)
    return Across(name, metric, margin, alpha, of_sites, pairs, tuple(notes))


def _pairs(comparisons: Sequence[Comparison], margin: float, alpha: float) -> tuple[AcrossPair, ...]:
    found: dict[tuple[str, str], list[Pair]] = {}
    for comparison in comparisons:
        for pair in comparison.pairs:
            if pair.retrained is not None:
                found.setdefault((pair.first, pair.second), []).append(pair)
    joined = {
        names: random_effects([pair.retrained for pair in own if pair.retrained is not None])
        for names, own in found.items()
        if len(own) >= LEAST_SITES
    }
    of_all = [each.difference for each in joined.values()]
    pvalues = holm(np.array([each.pvalue() for each in of_all]))
    equivalences = holm(np.array([each.equivalence_pvalue(margin) for each in of_all]))
    result = []
    for (names, effects), p, q in zip(joined.items(), pvalues, equivalences, strict=True):
        detectable = effects.difference.detectable(alpha / len(joined))
        word = verdict(
            effects.difference, margin=margin, pvalue=p, equivalence_pvalue=q, alpha=alpha, detectable=detectable
        )
        result.append(AcrossPair(*names, effects, float(p), float(q), detectable, word))
    return tuple(result)


def _numbers(pair: Pair, alpha: float) -> tuple[str, str, str]:
    if pair.retrained is None:
        return f"{pair.shift.estimate:+.4f}", "-", "-"
    low, high = pair.retrained.interval(alpha)
    return f"{pair.retrained.mean:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{pair.retrained_pvalue:.3g}"


def _across_rows(across: Across) -> list[dict[str, Any]]:
    rows = []
    for pair in across.pairs:
        difference = pair.effects.difference
        low, high = difference.interval(across.alpha)
        values = (
            across.dataset, across.metric, pair.first, pair.second, pair.effects.sites, difference.cases,
            *difference.seeds, difference.mean, low, high, difference.df, difference.pvalue(), pair.pvalue,
            pair.equivalence_pvalue, pair.detectable, pair.effects.tau, pair.effects.i2, pair.effects.q_pvalue,
            across.margin, across.alpha, pair.verdict,
        )  # fmt: skip
        rows.append(dict(zip(ACROSS, values, strict=True)))
    return rows
