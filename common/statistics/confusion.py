"""Confusion matrices of segmentation and their scores. Void pixels (255) never count."""

from __future__ import annotations

import numpy as np

from common.images import VOID
from common.statistics.bootstrap import RESAMPLES, resample_counts


def confusion_matrix(predicted: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of one image: int64 ``[C, C]`` (rows: true class, columns: predicted) from two arrays ``[H, W]``.
    Raises ValueError if shapes differ or a class is outside 0 to C - 1."""
    if predicted.shape != mask.shape:
        raise ValueError(f"prediction of {predicted.shape} and mask of {mask.shape} differ in size")
    counted = mask != VOID
    true, guess = mask[counted].astype(np.int64), predicted[counted].astype(np.int64)
    if true.size and (true.max() >= num_classes or guess.max() >= num_classes or guess.min() < 0):
        raise ValueError(f"a class is outside 0 to {num_classes - 1}")
    return np.bincount(true * num_classes + guess, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Per-class scores, ``[…, C]`` in [0, 1], of confusion matrices ``[…, C, C]``: "iou", "recall", "precision", "f1".

    All are NaN for a class neither in the masks nor predicted. A class missing in the masks only has no recall and 0
    otherwise; a class never predicted has a precision of 0.
    """
    matrices = np.asarray(matrices, dtype=np.float64)
    hit = np.diagonal(matrices, axis1=-2, axis2=-1)
    true, guessed = matrices.sum(-1), matrices.sum(-2)
    present = true + guessed > 0

    def ratio(above: np.ndarray, below: np.ndarray, where: np.ndarray) -> np.ndarray:
        return np.where(where, above / np.where(below > 0, below, 1), np.nan)

    return {
        "iou": ratio(hit, true + guessed - hit, present),
        "recall": ratio(hit, true, true > 0),
        "precision": ratio(hit, guessed, present),
        "f1": ratio(2 * hit, true + guessed, present),
    }


def scores(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Summary scores in percent of confusion matrices ``[…, C, C]``, summed over images. All but "pixel_accuracy" are means over
    the classes that have the score; "miou" equals torchmetrics' ``MulticlassJaccardIndex(ignore_index=255)``."""
    matrices = np.asarray(matrices, dtype=np.float64)
    by_class = class_scores(matrices)
    total = matrices.sum((-2, -1))

    def mean(values: np.ndarray) -> np.ndarray:
        present = ~np.isnan(values)
        return np.where(present, values, 0).sum(-1) / np.maximum(present.sum(-1), 1)

    result = {
        "miou": mean(by_class["iou"]),
        "pixel_accuracy": np.trace(matrices, axis1=-2, axis2=-1) / np.maximum(total, 1),
        "mean_accuracy": mean(by_class["recall"]),
        "precision": mean(by_class["precision"]),
        "recall": mean(by_class["recall"]),
        "f1": mean(by_class["f1"]),
    }
    return {name: 100 * value for name, value in result.items()}


def bootstrap_scores(matrices: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """``scores`` of bootstrap resamples of the images: ``[resamples]`` each, from per-image confusion matrices ``[n, C, C]``."""
    n, num_classes, _ = matrices.shape
    flat = matrices.reshape(n, -1).astype(np.float64)
    # The report's paired tests draw the same resamples.
    resampled = np.concatenate([counts @ flat for counts in resample_counts(n, resamples, seed)])
    return scores(resampled.reshape(resamples, num_classes, num_classes))
