"""Statistics of a comparison on plain arrays; ``tests/reports/analysis/test_statistics.py`` checks them on simulated data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats takes over a second to import

from common.statistics.bootstrap import LEVEL, RESAMPLES, resample_counts
from common.statistics.intervals import Scale, t_interval

#: Confidence level of the variance over seeds in degrees of freedom, by which intervals cover 95% best: docs/statistics.md.
CAUTION = 0.75


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1 in the denominator) and 95% t interval of the mean on its scale. One value has no ``std``
    and no interval; equal values have no interval, since one of no width would claim certainty."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def over_seeds(values: Sequence[float], scale: Scale = ()) -> Summary:
    """Summarize values of independent trainings (seeds); a ``scale`` that does not hold them is ignored."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"values of shape {array.shape}; a non-empty vector is needed")
    mean, n = float(array.mean()), len(array)
    if n == 1:
        return Summary(1, mean, None, None, None)
    std = float(array.std(ddof=1))
    if std < 1e-9 * max(1.0, abs(mean)):
        return Summary(n, mean, 0.0, None, None)
    if scale and not (scale[0] <= array.min() and (scale[1] is None or array.max() <= scale[1])):
        scale = ()
    return Summary(n, mean, std, *t_interval(mean, std, n, scale))


def bootstrap_means(
    values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Bootstrap means ``[resamples, k]`` of per-image values ``[n, k]``. All columns see the same resamples, which makes
    differences of columns a paired bootstrap. ``groups`` as in ``resample_counts``."""
    values = np.asarray(values, dtype=np.float32)
    draws = resample_counts(len(values), resamples, seed, groups)
    return np.concatenate(
        [counts.astype(np.float32) @ values / counts.sum(axis=1, dtype=np.float32)[:, None] for counts in draws]
    )


def percentile_interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of the percentile bootstrap along the first axis."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def mcnemar(only_a: np.ndarray | int, only_b: np.ndarray | int) -> np.ndarray:
    """Exact two-sided McNemar test: p-values for numbers of images that only A, and only B, got right (both 0: p is 1)."""
    only_a, only_b = np.asarray(only_a), np.asarray(only_b)
    fewer, total = np.minimum(only_a, only_b), only_a + only_b
    return np.minimum(1.0, 2 * special.bdtr(fewer, total, 0.5))


def upper_limit(degrees: np.ndarray | int) -> np.ndarray:
    """Upper confidence limit (``CAUTION``) of a normal sample's variance whose estimate, of these ``degrees`` of freedom, is 1."""
    return degrees / (2 * special.gammaincinv(np.asarray(degrees) / 2, 1 - CAUTION))


def difference_test(
    difference: np.ndarray | float,
    image_variance: np.ndarray | float,
    images: int,
    seed_variances: Sequence[tuple[np.ndarray | float, np.ndarray | int]] = (),
    interaction: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Paired t test of one difference of two means over seeds and test images.

    Seeds and images are both samples, whose variances add: ``V = V_images + s_A²/n_A + s_B²/n_B - interaction``, and at least
    ``V_images``. ``difference / √V`` follows Student's t with Satterthwaite's degrees of freedom.

    These weigh the parts by their variances, and an estimate from two seeds may by chance be next to nothing, which would give the
    many degrees of the images. So the variance over seeds enters the degrees, not V, by an upper confidence limit
    (``CAUTION``). For the far tail of a corrected test this is not enough: see ``paired.corrected``.

    Args:
        difference: mean of A minus mean of B.
        image_variance: variance of ``difference`` over samples of images (a paired bootstrap's).
        images: number of independent test images, or groups of them.
        seed_variances: for A and B, variance over seeds (n - 1 in the denominator) and number of seeds (2 or more); empty for
            a test of these trained networks only.
        interaction: the part of the difference's variance that both other parts hold, as seeds err on different images.

    Returns:
        two-sided p-values, and half the width of the 95% interval of the difference.
    """
    over_images = np.asarray(image_variance, dtype=np.float64)
    parts = [(np.asarray(s2, dtype=np.float64) / n, np.maximum(np.asarray(n) - 1, 1)) for s2, n in seed_variances]
    seeds = sum((part for part, _ in parts), np.zeros_like(over_images))
    beyond = np.maximum(seeds - interaction, 0.0)  # what seeds add to the images' part
    variance = over_images + beyond
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = beyond * sum((upper_limit(degrees) * part for part, degrees in parts), 0.0) / seeds
        share = np.where(beyond > 0, limit / (over_images + limit), 0.0)
        of_seeds = np.where(beyond > 0, sum((part**2 / degrees for part, degrees in parts), 0.0) / seeds**2, 0.0)
        freedom = 1 / (share**2 * of_seeds + (1 - share) ** 2 / max(images - 1, 1))
        t = np.where(variance > 0, np.abs(difference) / np.sqrt(variance), np.where(difference != 0, np.inf, 0.0))
    return 2 * special.stdtr(freedom, -t), special.stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p-values by Holm's step-down correction of the family-wise error. NaN (not tested) stays NaN and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else []
    return adjusted
