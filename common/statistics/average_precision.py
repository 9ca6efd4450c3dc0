"""Average precision of scores for several labels an image, with an interval. Imports numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def average_precision(scores: np.ndarray, positives: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps of one class, for several weightings of the images at once. Unit weights give
    ``sklearn.metrics.average_precision_score`` (images of equal score enter together).

    Args:
        scores: ``[n]``, higher is more likely.
        positives: bool ``[n]``.
        weights: ``[r, n]``, at least 0: how often each image counts.

    Returns:
        ``[r]`` in [0, 1]; NaN where no positive has a weight.
    """
    return _area(*_curve(scores, positives, weights))


def interpolated_precision(
    scores: np.ndarray, positives: np.ndarray, weights: np.ndarray, points: int | None = None
) -> np.ndarray:
    """Average precision of VOC, where the precision at a recall is the best at that recall or beyond (Everingham et al. 2010,
    section 4.2). Arguments and result as of ``average_precision``.

    Args:
        points: mean over that many recalls, evenly from 0 to 1 (VOC 2007: 11). None: area under the whole curve (VOC since 2010).
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
    """Positives so far and precision after each run of equal scores, best scores first, ``[r, runs]`` each."""
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
    """The statistic ``weights [r, n] -> [r]``: average precision (in [0, 1]) averaged over the classes that have a positive.
    ``scores``: ``[n, classes]``, ``label_sets``: bool ``[n, classes]``."""
    present = np.flatnonzero(label_sets.any(axis=0))

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_class = np.stack([average_precision(scores[:, c], label_sets[:, c], weights) for c in present])
        # A resample may lack a rare class: its mean is over the others.
        counted = ~np.isnan(per_class)
        return np.where(counted, per_class, 0).sum(axis=0) / counted.sum(axis=0)

    return statistic
