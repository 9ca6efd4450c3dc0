"""Average precision of scores for several labels an image, also over resamples. Imports numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def average_precision(scores: np.ndarray, positives: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps of one class: ``[r]`` in [0, 1], NaN where no positive has a weight. Unit weights
    give ``sklearn.metrics.average_precision_score`` (images of equal score enter together).

    Args:
        scores: ``[n]``, higher is more likely.
        positives: bool ``[n]``.
        weights: ``[r, n]``, at least 0: how often each image counts.
    """
    return _area(*_curve(scores, positives, weights))


def interpolated_precision(
    scores: np.ndarray, positives: np.ndarray, weights: np.ndarray, points: int | None = None
) -> np.ndarray:
    """``average_precision`` with the best precision at each recall or beyond (VOC: Everingham et al. 2010, section 4.2).

    Args:
        points: mean over that many recalls from 0 to 1 (VOC 2007: 11). None: area under the curve (VOC since 2010).
    """
    hits, precision = _curve(scores, positives, weights)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    if points is None:
        return _area(hits, best)
    total = hits[:, -1]
    result = np.zeros(len(total))
    for recall in np.linspace(0, 1, points):
        reached = hits >= recall * total[:, None] - 1e-9
        result += np.take_along_axis(best, reached.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(total > 0, result / points, np.nan)


def _curve(scores: np.ndarray, positives: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives so far and precision, ``[r, runs]`` each, after each run of equal scores, best first."""
    weights = np.asarray(weights, np.float64)
    order = np.argsort(-scores, kind="stable")
    scores, positives, weights = scores[order], positives[order], weights[:, order]
    last = np.append(scores[1:] != scores[:-1], True)  # of a run of equal scores
    hits = np.cumsum(weights * positives, axis=1)[:, last]
    seen = np.cumsum(weights, axis=1)[:, last]
    return hits, np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)


def _area(hits: np.ndarray, precision: np.ndarray) -> np.ndarray:
    gained = np.diff(hits, axis=1, prepend=0)
    total = hits[:, -1]
    return np.divide((gained * precision).sum(axis=1), total, out=np.full_like(total, np.nan), where=total > 0)


def mean_average_precision(scores: np.ndarray, label_sets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Make the statistic ``weights [r, n] -> [r]`` in [0, 1], a mean over classes with a positive, from ``[n, classes]`` each."""
    present = np.flatnonzero(label_sets.any(axis=0))

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_class = np.stack([average_precision(scores[:, c], label_sets[:, c], weights) for c in present])
        # A resample may lack a rare class: its mean is over the others.
        counted = ~np.isnan(per_class)
        return np.where(counted, per_class, 0).sum(axis=0) / counted.sum(axis=0)

    return statistic


def mean_interpolated_precision(
    scores: np.ndarray, label_sets: np.ndarray, ignored: np.ndarray, points: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """As ``mean_average_precision``, of ``interpolated_precision``. What is ``ignored``, bool ``[n, classes]``, counts nowhere
    (VOC's difficult objects)."""
    present = np.flatnonzero(label_sets.any(axis=0))

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_class = [
            interpolated_precision(scores[:, c], label_sets[:, c], weights * ~ignored[:, c], points) for c in present
        ]
        return np.nanmean(per_class, axis=0)

    return statistic
