"""What a person should look at before training: copies, patients in two parts, and cases unlike the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.case_facts import CaseFacts
from medmixers.datasets.split_rule import PARTS

Array = NDArray[Any]
# Measured: copies of a picture (JPEG of quality 50, half the size, brighter, noise of 4 grey levels) differ in at most
# 6 of the 64 bits of pHash and correlate by 0.996. Different pictures of one kind correlate by at most 0.988.
MOST_BITS = 6
LEAST_CORRELATION = 0.995
SAME_BLOCKS = 0.01  # standard deviations: two volumes are copies where no block mean differs by more
LEAST_CASES = 5  # for outliers
MOST_SCORE = 3.5  # of modified z-scores, as Iglewicz and Hoaglin (1993) recommend
LEAST_SPREAD = 0.01  # of a median absolute deviation, relative: differences below about 5 % are never outliers
ROWS = 1024  # of the matrix of all pairs that are compared at a time
SHOWN = 3  # cases that a line names


@dataclass(frozen=True)
class Finding:
    """Something to look at: no error.

    Args:
        kind: "copies", "patient" or "outlier".
        text: one line.
        cases: names of the cases.
    """

    kind: str
    text: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Measure:
    """One number per case.

    Args:
        name: what it is, and its unit.
        values: case -> number.
        is_ratio: above 0 and compared by its logarithm, so that half is as far as double.
    """

    name: str
    values: Mapping[str, float]
    is_ratio: bool

    def scores(self) -> dict[str, float]:
        """Case -> modified z-score; none for fewer than five cases.

        0.6745 (x - median) / MAD. Where half of the cases or more are equal, MAD is 0. The score is then (x - median) /
        (1.2533 x mean absolute deviation).
        """
        if len(self.values) < LEAST_CASES:
            return {}
        numbers = np.array(list(self.values.values()), float)
        compared = np.log(numbers) if self.is_ratio else numbers
        middle = np.median(compared)
        least = LEAST_SPREAD if self.is_ratio else LEAST_SPREAD * float(np.median(np.abs(numbers)))
        away = np.abs(compared - middle)
        spread = float(np.median(away)) or 0.8453 * float(away.mean())
        spread = max(spread, least, np.finfo(float).tiny)
        return dict(zip(self.values, (0.6745 * (compared - middle) / spread).tolist(), strict=True))

    def outliers(self) -> dict[str, float]:
        """Case -> its number, the farthest first."""
        far = {name: score for name, score in self.scores().items() if abs(score) > MOST_SCORE}
        return {name: self.values[name] for name in sorted(far, key=lambda each: -abs(far[each]))}


def find(facts: Sequence[CaseFacts], *, keeping: str) -> tuple[Finding, ...]:
    """All findings.

    Args:
        facts: of all cases.
        keeping: words for cases of one part that a split may divide, as "that folds may divide".
    """
    return (*copies(facts, keeping), *patients(facts, keeping), *outliers(facts))


def copies(facts: Sequence[CaseFacts], keeping: str) -> Iterator[Finding]:
    """Near-duplicates in two parts, or in one part where a split may divide them."""
    groups: dict[int, list[CaseFacts]] = defaultdict(list)
    for i, root in enumerate(_components(len(facts), _pairs_of_copies(facts))):
        groups[root].append(facts[i])
    found = [group for group in groups.values() if len(group) > 1]
    yield from _divided("copies", found, ("near-identical images", "group"), keeping)


def patients(facts: Sequence[CaseFacts], keeping: str) -> Iterator[Finding]:
    """Patients, by names or DICOM, with cases in two parts, or in one part where a split may divide them."""
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for each in facts:
        if each.patient is not None:
            groups[each.patient].append(each)
    # what more than half of the cases share is a word of the data set
    found = [group for group in groups.values() if 1 < len(group) <= max(2, len(facts) / 2)]
    yield from _divided("patient", found, ("cases of one patient, by names or DICOM,", "patient"), keeping)


def _divided(
    kind: str, groups: Sequence[Sequence[CaseFacts]], words: tuple[str, str], keeping: str
) -> Iterator[Finding]:
    """A line about the groups in several parts, and one about those that lie in one part and may be divided."""
    across = [group for group in groups if len({each.part for each in group}) > 1]
    alone = [group for group in groups if len({each.part for each in group}) == 1]
    within = [group for group in alone if len({each.unit for each in group}) > 1]
    for chosen, where in ((across, "in different parts, which makes scores too good"), (within, keeping)):
        if chosen:
            shown = " and ".join(f"{each.name} ({each.part})" for each in _apart(chosen[0]))
            count = f"{len(chosen)} such {words[1]}" + ("s" if len(chosen) > 1 else "")
            names = tuple(each.name for group in chosen for each in group)
            yield Finding(kind, f"{words[0]} {where}: {shown}; {count}", names)


def _apart(group: Sequence[CaseFacts]) -> list[CaseFacts]:
    """One case of each part, or two of one part."""
    by_part = {each.part: each for each in reversed(group)}
    return [by_part[part] for part in PARTS if part in by_part] if len(by_part) > 1 else list(group[:2])


def _pairs_of_copies(facts: Sequence[CaseFacts]) -> Iterator[tuple[int, int]]:
    """Pairs of positions."""
    kinds: dict[tuple[bool, int], dict[int, Array]] = defaultdict(dict)
    for i, each in enumerate(facts):
        if each.share is not None:
            kinds[each.share.dtype == bool, len(each.share)][i] = each.share
    for (is_picture, _), shares in kinds.items():
        places, rows = list(shares), np.stack(list(shares.values())).astype(np.float32)
        if is_picture:
            rows = 2 * rows - 1  # then the scalar product is 64 - 2 x the number of different bits
        least = rows.shape[1] - 2 * MOST_BITS if is_picture else (1 - SAME_BLOCKS) * rows.shape[1]
        same = _same_picture if is_picture else _same_volume
        for start in range(0, len(rows), ROWS):
            products = rows[start : start + ROWS] @ rows[start:].T
            for i, j in np.argwhere(np.triu(products, 1) >= least):
                one, other = places[start + i], places[start + j]
                if same(facts[one], facts[other]):
                    yield one, other


def _same_picture(one: CaseFacts, other: CaseFacts) -> bool:
    return one.pixels.size == other.pixels.size and float(np.mean(one.pixels * other.pixels)) >= LEAST_CORRELATION


def _same_volume(one: CaseFacts, other: CaseFacts) -> bool:
    return (
        one.share is not None and other.share is not None and bool(np.abs(one.share - other.share).max() <= SAME_BLOCKS)
    )


def _components(count: int, pairs: Iterator[tuple[int, int]]) -> list[int]:
    """Root of each of ``count`` nodes in the graph of pairs (union-find)."""
    root = list(range(count))

    def find_root(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, j in pairs:
        root[find_root(j)] = find_root(i)
    return [find_root(i) for i in range(count)]


def measures(facts: Sequence[CaseFacts]) -> list[Measure]:
    """What is compared between cases, of those measures that at least one case has."""
    found: dict[str, tuple[dict[str, float], bool]] = {}

    def add(name: str, case: str, value: float, is_ratio: bool) -> None:
        found.setdefault(name, ({}, is_ratio))[0][case] = value

    for each in facts:
        for axis, spacing in zip("xyz", each.spacing, strict=False):
            add(f"spacing along {axis} (mm)", each.name, spacing, True)
        for axis, extent in zip("xyz", each.size, strict=False):
            add(f"size along {axis} (voxels)", each.name, extent, True)
        for channel, (mean, high) in each.intensity.items():
            add(f"mean of {channel}", each.name, mean, False)
            add(f"99.5 % percentile of {channel}", each.name, high, False)
        for label, volume in each.labels.items():
            add(f"{label} ({'ml' if len(each.size) == 3 else '% of the picture'})", each.name, volume, True)
    return [Measure(name, values, is_ratio) for name, (values, is_ratio) in found.items()]


def outliers(facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    """One line per measure with outliers."""
    for each in measures(facts):
        far = each.outliers()
        if far:
            shown = ", ".join(f"{name}: {value:.4g}" for name, value in list(far.items())[:SHOWN])
            shown += ", ..." if len(far) > SHOWN else ""
            middle = float(np.median(list(each.values.values())))
            count = f"{len(far)} of {len(each.values)} cases"
            yield Finding(
                "outlier",
                f"{each.name}: {count} beyond {MOST_SCORE} modified z-scores of the median {middle:.4g} ({shown})",
                tuple(far),
            )
