"""Paired tests of rows in one column.

A pair is two methods (or variants) on one backbone, one method on two backbones, or a row and a reference without a backbone
(raw pixels). If method and backbone both differed, neither would explain the difference.

Two single trainings with right or wrong outcomes take McNemar's exact test, other pairs ``statistics.difference_test``: over
seeds and images where both rows have several seeds, else over images, with a claim about these trained networks only.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from common.statistics.bootstrap import RESAMPLES, resample_counts
from reports.analysis.columns import Cell
from reports.analysis.outcomes import NoOutcomes, Outcomes, outcomes_of
from reports.analysis.rows import Row
from reports.analysis.statistics import bootstrap_means, difference_test, mcnemar, percentile_interval
from rundir.results import Measurement

OVER_IMAGES, OVER_SEEDS, MCNEMAR = "paired, over images", "paired, over seeds and images", "McNemar, exact"


@dataclass
class ColumnTests:
    """The tests of a column: a line of ``pairs`` has rows ``a`` and ``b``, the ``difference`` of their means, its 95% interval
    ``low`` to ``high``, ``p``, and the name of the ``test``; ``untested`` counts pairs by reason."""

    pairs: list[pd.DataFrame] = field(default_factory=list)
    untested: Counter[str] = field(default_factory=Counter)


def tests_of_column(rows: Sequence[Row], cells: Mapping[int, Cell], paired: bool) -> ColumnTests:
    """Set the intervals over images of a column's cells (by row), and if ``paired`` test its rows against each other."""
    tests = ColumnTests()
    groups: dict[tuple[str, int], dict[int, _RowOutcomes]] = {}  # rows measured on the same images
    for position, cell in cells.items():
        single = cell.results[0]
        if len(cell.results) == 1 and single.low is not None and single.high is not None:
            cell.images = (single.low, single.high)
        try:
            outcomes = _RowOutcomes.read(cell.results)
            groups.setdefault((outcomes.names, outcomes.n), {})[position] = outcomes
        except NoOutcomes as error:
            reason = f"{rows[position].label}: {error} (not comparable with the other rows)"
            tests.untested[reason] += len(cells) - 1
    across = sum(len(a) * len(b) for a, b in itertools.combinations(groups.values(), 2))
    tests.untested["not comparable, for the rows were evaluated on different images"] += across
    for group in groups.values():
        positions, outcomes = np.array(list(group)), list(group.values())
        resampled, covariance = _resampled(outcomes)
        for position, interval in zip(positions, zip(*percentile_interval(resampled), strict=True), strict=True):
            if cells[position].images is None:
                cells[position].images = tuple(map(float, interval))
        first, second = _comparable([rows[position] for position in positions])
        if paired and len(first):
            pairs = _test_pairs([cells[position] for position in positions], outcomes, covariance, first, second)
            tests.pairs.append(pairs.assign(a=positions[first], b=positions[second]))
    return tests


def _comparable(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the first and the second rows of the pairs to test."""

    def numbered(keys: list[tuple[str, ...]]) -> np.ndarray:
        return pd.factorize(pd.MultiIndex.from_tuples(keys))[0]

    a, b = np.triu_indices(len(rows), 1)
    block = numbered([(row.data, row.backbone) for row in rows])
    kind = numbered([(row.data, row.method, row.variant) for row in rows])
    reference = np.array([not row.facts["needs_backbone"] for row in rows])
    comparable = (block[a] == block[b]) | (kind[a] == kind[b]) | (reference[a] ^ reference[b])
    return a[comparable], b[comparable]


def _test_pairs(
    cells: Sequence[Cell],
    outcomes: Sequence[_RowOutcomes],
    covariance: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> pd.DataFrame:
    """Test pairs (``first``, ``second``) of rows measured on the same images, whose means have this ``covariance``."""
    images = outcomes[0].n
    summaries = [cell.over_seeds for cell in cells]
    mean = np.array([summary.mean for summary in summaries])
    seeds = np.array([summary.n for summary in summaries])
    spread = np.array([summary.std or 0.0 for summary in summaries]) ** 2
    variance = np.diag(covariance)
    difference = mean[first] - mean[second]
    image_variance = np.maximum(variance[first] + variance[second] - 2 * covariance[first, second], 0)

    p, half = difference_test(difference, image_variance, images)
    test = np.full(len(first), OVER_IMAGES, dtype=object)
    both = (seeds[first] > 1) & (seeds[second] > 1)
    if both.any():
        seed_variances = [(spread[rows[both]], seeds[rows[both]]) for rows in (first, second)]
        p[both], half[both] = difference_test(difference[both], image_variance[both], images, seed_variances)
        test[both] = OVER_SEEDS
    binary = np.array([outcome.binary for outcome in outcomes])
    exact = binary[first] & binary[second]
    if exact.any():
        right = np.stack([outcome.values if outcome.binary else np.zeros(images) for outcome in outcomes]) > 0
        right = right.astype(np.float32)
        only = right @ (1 - right).T
        a, b = first[exact], second[exact]
        p[exact] = mcnemar(only[a, b].astype(np.int64), only[b, a].astype(np.int64))
        test[exact] = MCNEMAR
    return pd.DataFrame(
        {"difference": difference, "low": difference - half, "high": difference + half, "p": p, "test": test}
    )


@dataclass(frozen=True)
class _RowOutcomes:
    """A row's outcomes; ``values`` is their mean over seeds where the metric is a mean over images."""

    names: str
    n: int
    values: np.ndarray | None
    binary: bool
    by_seed: list[Outcomes]

    @classmethod
    def read(cls, results: Sequence[Measurement]) -> _RowOutcomes:
        by_seed = []
        for result in results:
            by_seed.append(outcomes_of(result))
            if (by_seed[-1].names, by_seed[-1].n) != (by_seed[0].names, by_seed[0].n):
                raise NoOutcomes("its seeds were evaluated on different images")
        first = by_seed[0]
        values = None
        if all(outcomes.values is not None for outcomes in by_seed):
            values = np.mean([outcomes.values for outcomes in by_seed], axis=0, dtype=np.float32)
        return cls(first.names, first.n, values, first.binary and len(by_seed) == 1, by_seed)

    def resampled(self) -> np.ndarray:
        """Mean over seeds on each bootstrap resample."""
        several = self.by_seed if self.values is None else [Outcomes(self.names, self.n, "", values=self.values)]
        return np.mean([one.resampled(resample_counts(self.n, RESAMPLES, seed=0)) for one in several], axis=0)


def _resampled(outcomes: Sequence[_RowOutcomes]) -> tuple[np.ndarray, np.ndarray]:
    """Measurements on the same bootstrap resamples ``[resamples, rows]``, and their covariance over images (exact for means)."""
    n, rows = outcomes[0].n, len(outcomes)
    if any(outcome.values is None for outcome in outcomes):
        resampled = np.stack([outcome.resampled() for outcome in outcomes], axis=1)
        return resampled, np.cov(resampled, rowvar=False).reshape(rows, -1)
    values = np.stack([outcome.values for outcome in outcomes], axis=1)
    if n == 1:
        return bootstrap_means(values), np.zeros((rows, rows))
    return bootstrap_means(values), np.cov(values, rowvar=False, dtype=np.float64).reshape(rows, -1) / n
