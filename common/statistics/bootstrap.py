"""Bootstrap intervals over test samples: quantiles 2.5% and 97.5% of a statistic over resamples with replacement
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). Imports numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
#: Counts drawn at once, which bounds the memory.
_CHUNK = 1 << 22


def mean_interval(
    values: np.ndarray, resamples: int = 20 * RESAMPLES, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """95% interval of the mean of ``values [n]``. Few distinct ones (0 and 1 for wrong and right) are drawn from the
    multinomial distribution, at no cost per sample. ``groups`` as in ``resample_counts``. Raises ValueError for no or non-finite
    values."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"a bootstrap needs finite values [n], n ≥ 1, and got shape {values.shape}")
    n = len(values)
    if groups is not None:
        draws = resample_counts(n, min(resamples, RESAMPLES), seed, groups)
        return _percentiles(np.concatenate([counts @ values / counts.sum(axis=1) for counts in draws]))
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > 64:
        return bootstrap(lambda weights: weights @ values / n, n, min(resamples, RESAMPLES), seed)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    return _percentiles(drawn @ distinct / n)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95% interval of any statistic of n samples. Raises ValueError if no resample has a value.

    Args:
        statistic: takes how often each sample is drawn, float64 ``[r, n]``, and returns ``[r]``; NaN values are left out.
        seed: draws equal resamples for every statistic, so that differences can be paired.
    """
    results = [statistic(weights) for weights in resample_counts(n, resamples, seed)]
    return _percentiles(np.concatenate(results))


def resample_counts(n: int, resamples: int, seed: int = 0, groups: np.ndarray | None = None):
    """Yield float64 ``[r, n]``, how often each sample is drawn, in chunks of ``resamples`` rows in all. The first rows do not
    depend on ``resamples``. With ``groups``, int ``[n]`` from 0, whole groups are drawn (a video with all its objects), since
    their samples are no independent ones."""
    if n < 1:
        raise ValueError("a bootstrap needs at least one sample")
    units = n if groups is None else int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.integers(units, size=(size, units))
        drawn += np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)
        yield counts if groups is None else counts[:, groups]


def _percentiles(results: np.ndarray) -> tuple[float, float]:
    results = results[~np.isnan(results)]
    if len(results) == 0:
        raise ValueError("no resample has a value")
    low, high = np.quantile(results, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
