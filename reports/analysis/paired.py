"""Paired tests of rows on the same test images, on plain arrays; ``benchmarks/false_findings.py`` simulates reports with them.

Seeds (trainings, nested in rows) and test images (shared by rows) are both samples: the two-way random-effects analysis of reader
studies, where seeds are the readers and images the cases (Obuchowski & Rockette, Communications in Statistics 24, 1995). What each
test does, from which source, and what it holds: ``docs/statistics.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from reports.analysis.statistics import difference_test, holm

#: Points at which the unknown variance over seeds is weighed.
_NODES = 64


@dataclass(frozen=True)
class Components:
    """Means of k rows with the parts of their variance. Leading axes may hold many simulated reports.

    Attributes:
        mean: ``[…, k]``, over seeds and images.
        over_images: ``[…, k, k]``, covariance of the means over samples of images, these trainings given.
        over_seeds: ``[…, k]``, variance of one training's mean between seeds; 0 for a single one.
        interaction: ``[…, k]``, the part of ``over_seeds`` that images alone explain: other seeds err on other images.
        seeds: int ``[k]``.
        units: number of independent images, or groups of images.
    """

    mean: np.ndarray
    over_images: np.ndarray
    over_seeds: np.ndarray
    interaction: np.ndarray
    seeds: np.ndarray
    units: int

    def over_images_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Variance over samples of images of the differences of rows ``first`` and ``second``: ``[…, pairs]``."""
        variance = np.diagonal(self.over_images, axis1=-2, axis2=-1)
        both = variance[..., first] + variance[..., second] - 2 * self.over_images[..., first, second]
        return np.maximum(both, 0.0)

    def shared_of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The part of the differences' variance that is both over images and over seeds: ``[…, pairs]``."""
        return sum(self.interaction[..., rows] / self.seeds[rows] for rows in (first, second))


def components_of_means(rows: Sequence[np.ndarray], groups: np.ndarray | None = None) -> Components:
    """Components of metrics that are means over images.

    Args:
        rows: each row's outcomes ``[…, seeds, images]``.
        groups: int ``[images]``, from 0: the group (a video) that an image is drawn with; None: each image by itself. Groups make
            the mean a ratio, whose variance is that of its linear part (Cochran, Sampling Techniques, 1977, section 6.3).
    """
    images = rows[0].shape[-1]
    units = images if groups is None else int(groups.max()) + 1
    factor = units / (units - 1) if units > 1 else 0.0
    means, residuals, spread, interaction = [], [], [], []
    for outcomes in rows:
        outcomes = np.asarray(outcomes, np.float64)
        by_seed, average = outcomes.mean(-1), outcomes.mean(-2)
        mean, seeds = by_seed.mean(-1), outcomes.shape[-2]
        means.append(mean)
        residuals.append(_by_group((average - mean[..., None]) / images, groups, units))
        if seeds == 1:
            spread.append(np.zeros_like(mean))
            interaction.append(np.zeros_like(mean))
            continue
        spread.append(by_seed.var(-1, ddof=1))
        own = (outcomes - average[..., None, :] - (by_seed - mean[..., None])[..., None]) / images
        own = _by_group(own, groups, units)
        interaction.append(factor * (own**2).sum((-2, -1)) / (seeds - 1))
    residuals = np.stack(residuals, axis=-2)
    return Components(
        np.stack(means, axis=-1),
        factor * residuals @ np.swapaxes(residuals, -1, -2),
        np.stack(spread, axis=-1),
        np.stack(interaction, axis=-1),
        np.array([outcomes.shape[-2] for outcomes in rows]),
        units,
    )


def components_of_resamples(by_seed: Sequence[np.ndarray], resampled: Sequence[np.ndarray], units: int) -> Components:
    """Components of any metric: each row's values by seed ``[seeds]``, and the same on common resamples ``[seeds, resamples]``."""
    averages = np.stack([row.mean(0) for row in resampled])
    return Components(
        np.array([np.mean(values) for values in by_seed]),
        np.cov(averages).reshape(len(averages), -1),
        np.array([np.var(values, ddof=1) if len(values) > 1 else 0.0 for values in by_seed]),
        np.array([(row - row.mean(0)).var(-1, ddof=1).sum() / max(len(row) - 1, 1) for row in resampled]),
        np.array([len(values) for values in by_seed]),
        units,
    )


def _by_group(values: np.ndarray, groups: np.ndarray | None, units: int) -> np.ndarray:
    """Sum ``[…, images]`` by group: ``[…, units]``."""
    if groups is None:
        return values
    order = np.argsort(groups, kind="stable")
    return np.add.reduceat(values[..., order], np.searchsorted(groups[order], np.arange(units)), axis=-1)


@dataclass(frozen=True)
class PairTests:
    """Tests of pairs, ``[…, pairs]``.

    Attributes:
        difference, half, p: of the means, half the width of its 95% interval, and two-sided p: of a pair alone.
        p_rows, p_own: for the correction, see ``corrected``.
        over_seeds: bool ``[pairs]``: the claim is about further seeds, too.
    """

    difference: np.ndarray
    half: np.ndarray
    p: np.ndarray
    p_rows: np.ndarray
    p_own: np.ndarray
    over_seeds: np.ndarray


def pair_tests(parts: Components, first: np.ndarray, second: np.ndarray) -> PairTests:
    """Test the rows ``first`` against the rows ``second`` (positions, ``[pairs]``).

    ``p`` and ``half`` are those of ``statistics.difference_test``. Where both rows have several seeds, the correction takes two
    further p-values. The variance over seeds is known only by an estimate with few degrees of freedom, so they average p over
    what it may be (generalised p-values: Tsui & Weerahandi, JASA 84, 1989): Student's t where seeds are all of the variance, the
    normal distribution's where they are none of it.

    - ``p_rows``: with the variance pooled over the column's rows with several seeds, as Obuchowski & Rockette do, but a row's own
      where that is larger, and the pooled degrees of freedom (Hillis, Statistics in Medicine 26, 2007).
    - ``p_own``: with these two rows' own variances and the fewer degrees of freedom of the two, which holds whatever the variances
      are (Mickey & Brown, Annals of Mathematical Statistics 37, 1966).
    """
    difference = parts.mean[..., first] - parts.mean[..., second]
    images = parts.over_images_of(first, second)
    p, half = difference_test(difference, images, parts.units)
    p_rows, p_own = p.copy(), np.zeros_like(p)
    both = (parts.seeds[first] > 1) & (parts.seeds[second] > 1)
    if both.any():
        a, b, over_images = first[both], second[both], images[..., both]
        seeds = parts.seeds
        of_all, shared = pooled(parts.over_seeds, seeds)[..., None], parts.shared_of(a, b)
        own = [(parts.over_seeds[..., row], seeds[row]) for row in (a, b)]
        p[..., both], half[..., both] = difference_test(difference[..., both], over_images, parts.units, own, shared)
        known = np.abs(difference[..., both]), over_images, shared, max(parts.units - 1, 1)
        larger = sum(np.maximum(spread, of_all) / n for spread, n in own)
        p_rows[..., both] = averaged_p(larger, int((seeds - 1).sum()), *known)
        p_own[..., both] = averaged_p(sum(spread / n for spread, n in own), np.minimum(seeds[a], seeds[b]) - 1, *known)
    return PairTests(difference, half, p, p_rows, p_own, both)


def corrected(p_rows: np.ndarray, p_own: np.ndarray, columns: int) -> np.ndarray:
    """Correct the tests of a table, ``[tests]`` in ``columns`` columns, for their number.

    ``p_rows`` is corrected by Holm over all tests. ``p_own`` guards against a row whose seeds vary more than the others' and happen
    to agree. That is an event of a row, which all its pairs share, so it is corrected for the number of columns, and one more for
    the other rows. A difference is significant where both are.
    """
    times = min(columns + 1, len(p_own))
    return np.maximum(holm(p_rows), np.minimum(1.0, times * np.asarray(p_own, np.float64)))


def pooled(variances: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Pool rows' variances over seeds ``[…, k]`` by their degrees of freedom: ``[…]``."""
    degrees = seeds - 1
    return variances @ degrees / degrees.sum()


def averaged_p(
    over_seeds: np.ndarray,
    degrees: np.ndarray | int,
    distance: np.ndarray,
    over_images: np.ndarray,
    shared: np.ndarray,
    image_degrees: int,
) -> np.ndarray:
    """Average p over the variances V_images + max(degrees · V_seeds / χ² - shared, 0), with χ² of these ``degrees``."""
    p = np.zeros(distance.shape)
    degrees = np.broadcast_to(degrees, distance.shape[-1:])
    for count in np.unique(degrees):
        where = degrees == count
        total = 0.0
        for ratio, weight in zip(*_chi_squared(int(count)), strict=True):
            variance = over_images[..., where] + np.maximum(over_seeds[..., where] / ratio - shared[..., where], 0.0)
            total = total + weight * _tail(distance[..., where], variance, image_degrees)
        p[..., where] = total
    return np.minimum(p, 1.0)


def _tail(distance: np.ndarray, variance: np.ndarray, degrees: int) -> np.ndarray:
    """Two-sided p of Student's t by Wallace's transformation to the normal (Annals of Mathematical Statistics 30, 1959)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.where(distance > 0, distance**2 / variance, 0.0)
    z = (8 * degrees + 1) / (8 * degrees + 3) * np.sqrt(degrees * np.log1p(squared / degrees))
    return 2 * special.ndtr(-z)


def _chi_squared(degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of χ²/degrees and their weights (trapezoids of its logarithm, to 1e-12 in the tails)."""
    low = max(-56 / degrees - 2, -58.0) if degrees <= 30 else -12 * np.sqrt(2 / degrees)
    points = np.linspace(low, np.log(1 + (2 * np.sqrt(30 * degrees) + 60) / degrees), _NODES)
    log_density = degrees / 2 * (points - np.exp(points))
    weights = np.exp(log_density - log_density.max())
    return np.exp(points), weights / weights.sum()
