"""Paired tests of rows in one column.

A pair is two methods (or variants) on one backbone, one method on two backbones, or a row and a reference without a backbone
(raw pixels). If method and backbone both differed, neither would explain the difference.

Two single trainings with right or wrong outcomes take McNemar's exact test, other pairs ``paired.pair_tests``: over seeds and
images where both rows have several seeds, else over images, with a claim about these trained networks only. Images that an
evaluation draws in groups (the objects of a video) count as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from common.statistics.bootstrap import RESAMPLES, resample_counts
from reports.analysis.columns import Cell
from reports.analysis.outcomes import NoOutcomes, Outcomes, outcomes_of
from reports.analysis.paired import Components, components_of_means, components_of_resamples, pair_tests
from reports.analysis.rows import Row
from reports.analysis.statistics import bootstrap_means, mcnemar, percentile_interval
from rundir.results import Measurement

OVER_IMAGES, OVER_SEEDS, MCNEMAR = "paired, over images", "paired, over seeds and images", "McNemar, exact"


@dataclass
class ColumnTests:
    """The tests of a column.

    Attributes:
        pairs: a line has rows ``a`` and ``b``, the ``difference`` of their means, its 95% interval ``low`` to ``high``, ``p``, the
            ``p_rows`` and ``p_own`` that ``paired.corrected`` takes, and the name of the ``test``.
        untested: number of pairs by reason.
        parts: by group of rows that were measured on the same images, their positions and variance components.
    """

    pairs: list[pd.DataFrame] = field(default_factory=list)
    untested: Counter[str] = field(default_factory=Counter)
    parts: list[tuple[np.ndarray, Components]] = field(default_factory=list)


def tests_of_column(
    rows: Sequence[Row], cells: Mapping[int, Cell], paired: bool, grouped_by: str = "images"
) -> ColumnTests:
    """Set the intervals over images of a column's cells (by row), and if ``paired`` test its rows against each other.
    ``grouped_by``: what the evaluation draws, as it declares."""
    tests = ColumnTests()
    same_images: dict[tuple[str, int], dict[int, _RowOutcomes]] = {}
    reasons: dict[int, str] = {}
    for position, cell in cells.items():
        single = cell.results[0]
        if len(cell.results) == 1 and single.low is not None and single.high is not None:
            cell.images = (single.low, single.high)
        try:
            outcomes = _RowOutcomes.read(cell.results, grouped_by)
            same_images.setdefault((outcomes.names, outcomes.n), {})[position] = outcomes
        except NoOutcomes as error:
            reasons[position] = f"{rows[position].label}: {error} (not comparable with the other rows)"
    for group in same_images.values():
        positions, outcomes = np.array(list(group)), list(group.values())
        resampled, parts = _components(outcomes)
        for position, interval in zip(positions, zip(*percentile_interval(resampled), strict=True), strict=True):
            if cells[position].images is None:
                cells[position].images = tuple(map(float, interval))
        first, second = comparable([rows[position] for position in positions])
        summaries = [cells[position].over_seeds for position in positions]
        parts = replace(parts, mean=np.array([summary.mean for summary in summaries]))
        tests.parts.append((positions, parts))
        if paired and len(first):
            pairs = _test_pairs(outcomes, parts, first, second)
            tests.pairs.append(pairs.assign(a=positions[first], b=positions[second]))
    if paired:
        group_of = {position: key for key, group in same_images.items() for position in group}
        measured = list(cells)
        for a, b in zip(*comparable([rows[position] for position in measured]), strict=True):
            a, b = measured[a], measured[b]
            if reason := reasons.get(a) or reasons.get(b):
                tests.untested[reason] += 1
            elif group_of[a] != group_of[b]:
                tests.untested["not comparable, for the rows were evaluated on different images"] += 1
    return tests


def comparable(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the first and the second rows of the pairs to test."""
    if not rows:
        return np.zeros(0, int), np.zeros(0, int)

    def numbered(keys: list[tuple[str, ...]]) -> np.ndarray:
        return pd.factorize(pd.MultiIndex.from_tuples(keys))[0]

    a, b = np.triu_indices(len(rows), 1)
    block = numbered([(row.data, row.backbone) for row in rows])
    kind = numbered([(row.data, row.method, row.variant) for row in rows])
    reference = np.array([not row.facts["needs_backbone"] for row in rows])
    comparable = (block[a] == block[b]) | (kind[a] == kind[b]) | (reference[a] ^ reference[b])
    return a[comparable], b[comparable]


def _test_pairs(
    outcomes: Sequence[_RowOutcomes], parts: Components, first: np.ndarray, second: np.ndarray
) -> pd.DataFrame:
    """Test pairs (``first``, ``second``) of rows measured on the same images."""
    pairs = pair_tests(parts, first, second)
    test = np.where(pairs.over_seeds, OVER_SEEDS, OVER_IMAGES).astype(object)
    p, p_rows = pairs.p.copy(), pairs.p_rows.copy()
    binary = np.array([outcome.binary for outcome in outcomes])
    exact = binary[first] & binary[second]
    if exact.any():
        images = outcomes[0].n
        right = np.stack([outcome.values[0] if outcome.binary else np.zeros(images) for outcome in outcomes]) > 0
        right = right.astype(np.float32)
        only = right @ (1 - right).T
        a, b = first[exact], second[exact]
        p[exact] = p_rows[exact] = mcnemar(only[a, b].astype(np.int64), only[b, a].astype(np.int64))
        test[exact] = MCNEMAR
    return pd.DataFrame(
        {
            "difference": pairs.difference,
            "low": pairs.difference - pairs.half,
            "high": pairs.difference + pairs.half,
            "p": p,
            "p_rows": p_rows,
            "p_own": pairs.p_own,
            "test": test,
        }
    )


@dataclass(frozen=True)
class _RowOutcomes:
    """A row's outcomes by seed, on the same images."""

    names: str
    n: int
    groups: np.ndarray | None
    by_seed: list[Outcomes]

    @classmethod
    def read(cls, results: Sequence[Measurement], grouped_by: str) -> _RowOutcomes:
        by_seed = []
        for result in results:
            by_seed.append(outcomes_of(result))
            if (by_seed[-1].names, by_seed[-1].n) != (by_seed[0].names, by_seed[0].n):
                raise NoOutcomes("its seeds were evaluated on different images")
        groups = next((one.groups for one in by_seed if one.groups is not None), None)
        if groups is None and grouped_by != "images":
            raise NoOutcomes(f"its outcomes do not tell the {grouped_by}, which are what is drawn; evaluate it again")
        return cls(by_seed[0].names, by_seed[0].n, groups, by_seed)

    @property
    def values(self) -> np.ndarray | None:
        """``[seeds, n]``, if the metric is a mean over images."""
        if any(outcomes.values is None for outcomes in self.by_seed):
            return None
        return np.stack([outcomes.values for outcomes in self.by_seed])

    @property
    def binary(self) -> bool:
        """A single training with right or wrong on independent images."""
        return len(self.by_seed) == 1 and self.by_seed[0].binary and self.groups is None

    def resampled(self) -> np.ndarray:
        """Each seed's measurement on each bootstrap resample: ``[seeds, resamples]``."""
        return np.stack([one.resampled(resample_counts(self.n, RESAMPLES, 0, self.groups)) for one in self.by_seed])


def _components(outcomes: Sequence[_RowOutcomes]) -> tuple[np.ndarray, Components]:
    """Means on common bootstrap resamples ``[resamples, rows]``, and the components of variance (exact for means)."""
    groups = outcomes[0].groups
    values = [outcome.values for outcome in outcomes]
    if any(one is None for one in values):
        resampled = [outcome.resampled() for outcome in outcomes]
        everything = [np.ones((1, outcomes[0].n))]
        by_seed = [[float(one.resampled(iter(everything))[0]) for one in outcome.by_seed] for outcome in outcomes]
        units = outcomes[0].n if groups is None else int(groups.max()) + 1
        return np.stack([one.mean(0) for one in resampled], axis=1), components_of_resamples(by_seed, resampled, units)
    means = np.stack([one.mean(0) for one in values], axis=1)
    return bootstrap_means(means, groups=groups), components_of_means(values, groups)
