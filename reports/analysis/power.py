"""How many seeds, or test images, would have shown a difference of a given size, with the variances that a report measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from reports.analysis.paired import Components, averaged_p, pooled

#: Of the normal distribution, at 80%: the share of such differences that would be found.
_QUANTILE = 0.8416
#: No more seeds are proposed, nor more than so many times the images.
MOST_SEEDS, MOST_TIMES = 50, 1000


@dataclass(frozen=True)
class Needed:
    """For a difference of ``points``: the seeds of each row on as many images, and the images with as many seeds. None: none would
    do; ``seeds`` is also None where the column has single seeds only, whose spread is unknown."""

    points: float
    seeds: int | None
    images: int | None


def needed(
    parts: Components, first: np.ndarray, second: np.ndarray, points: float, tests: int, columns: int, alpha: float
) -> Needed:
    """Number of seeds and of images (or groups) that would have shown a true difference of ``points`` between the median pair of
    ``first`` and ``second``, with probability 80%, in a report with so many tests in so many columns.

    The variances are taken as measured, so the numbers are about as good as these: with three seeds, to a factor of two.
    """
    over_images = parts.over_images_of(first, second)
    apart = float(np.median(np.maximum(over_images - parts.shared_of(first, second), 0)))
    several = parts.seeds > 1
    rows = int(several.sum())
    limits = alpha / tests, alpha / min(columns + 1, tests)
    units = parts.units

    def shows(seeds: int, spread: float, interaction: float, apart: float, degrees: int) -> bool:
        from_seeds, from_both = 2 * spread / seeds, 2 * interaction / seeds
        distance = points - _QUANTILE * np.sqrt(apart + max(from_seeds, from_both))
        if distance <= 0:
            return False
        known = np.array([distance]), np.array([apart + from_both]), np.array([from_both]), degrees
        both = zip((rows * (seeds - 1), seeds - 1), limits, strict=True)
        return all(averaged_p(np.array([from_seeds]), degrees, *known)[0] < limit for degrees, limit in both)

    times = np.geomspace(1, MOST_TIMES, 121)
    if not rows:
        variance = float(np.median(over_images))
        enough = (
            _single(points - _QUANTILE * np.sqrt(variance / more), variance / more, units * more) < limits[0]
            for more in times
        )
        return Needed(points, None, _first(enough, times * units))
    spread, interaction = (
        float(pooled(variances[several], parts.seeds[several])) for variances in (parts.over_seeds, parts.interaction)
    )
    counts = np.arange(2, MOST_SEEDS + 1)
    by_seeds = (shows(int(n), spread, interaction, apart, units - 1) for n in counts)
    now, own = int(np.median(parts.seeds[several])), max(spread - interaction, 0.0)
    by_images = (
        shows(now, own + interaction / more, interaction / more, apart / more, int(units * more) - 1) for more in times
    )
    return Needed(points, _first(by_seeds, counts), _first(by_images, times * units))


def _single(distance: float, variance: float, units: float) -> float:
    """p of a single training each, over images."""
    if distance <= 0:
        return 1.0
    return float(averaged_p(np.zeros(1), 1, np.array([distance]), np.array([variance]), np.zeros(1), int(units) - 1)[0])


def _first(enough: Iterable[bool], sizes: np.ndarray) -> int | None:
    """The first size that is enough, to two digits."""
    size = next((float(size) for size, is_enough in zip(sizes, enough, strict=True) if is_enough), None)
    if size is None:
        return None
    digits = 10 ** max(int(np.log10(size)) - 1, 0)
    return int(np.ceil(size / digits - 1e-9) * digits)
