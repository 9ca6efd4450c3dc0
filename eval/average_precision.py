"""Average precision of scores for several labels an image, with an interval. Imports numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def average_precision(scores: np.ndarray, positives: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps of one class, for several weightings of the images at once; for unit weights it
    equals ``sklearn.metrics.average_precision_score`` (images of equal score enter together).

    Args:
        scores: ``[n]``, higher is more likely.
        positives: bool ``[n]``.
        weights: ``[r, n]``, at least 0: how often each image counts.

    Returns:
        ``[r]`` in [0, 1]; NaN where no positive has a weight.
    """
    weights = np.asarray(weights, np.float64)
    order = np.argsort(-scores, kind="stable")
    scores, positives, weights = scores[order], positives[order], weights[:, order]
    last = np.append(scores[1:] != scores[:-1], True)  # of a run of equal scores
    hits = np.cumsum(weights * positives, axis=1)[:, last]
    seen = np.cumsum(weights, axis=1)[:, last]
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    gained = np.diff(hits, axis=1, prepend=0)
    total = hits[:, -1]
    return np.divide((gained * precision).sum(axis=1), total, out=np.full_like(total, np.nan), where=total > 0)


def mean_average_precision(scores: np.ndarray, label_sets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The statistic ``weights [r, n] -> [r]``: average precision (in [0, 1]) averaged over the classes that have a positive.

    Args:
        scores: ``[n, classes]``.
        label_sets: bool ``[n, classes]``.
    """
    present = np.flatnonzero(label_sets.any(axis=0))

    def statistic(weights: np.ndarray) -> np.ndarray:
        per_class = np.stack([average_precision(scores[:, c], label_sets[:, c], weights) for c in present])
        # A resample may lack a rare class: its mean is over the others.
        counted = ~np.isnan(per_class)
        return np.where(counted, per_class, 0).sum(axis=0) / counted.sum(axis=0)

    return statistic
