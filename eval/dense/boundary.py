"""Region and boundary measures of DAVIS (Perazzi et al. 2016, section 4; reference: davis2017-evaluation, metrics.py and utils.py).
Imports numpy and SciPy only."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

#: Distance within which contours match, as a part of the image's diagonal.
BOUND = 0.008


def region_jaccard(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool ``[H, W]``, in [0, 1]; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """F-measure of the contours of two bool ``[H, W]``, in [0, 1].

    A contour pixel matches if the other contour has a pixel within ⌈0.008 · diagonal⌉ (the reference dilates by a disk of that
    radius). Precision is the part of the mask's contour that matches, recall that of the truth's; two empty contours give 1, one 0.
    """
    radius = math.ceil(BOUND * math.hypot(*mask.shape))
    of_mask, of_truth = (np.argwhere(contour(region)) for region in (mask, truth))
    if len(of_mask) == 0 or len(of_truth) == 0:
        return float(len(of_mask) == len(of_truth))
    precision = (cKDTree(of_truth).query(of_mask)[0] <= radius).mean()
    recall = (cKDTree(of_mask).query(of_truth)[0] <= radius).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(region: np.ndarray) -> np.ndarray:
    """Pixels of a bool ``[H, W]`` that differ from their right, lower or lower right neighbour; the image ends without a
    contour (reference: ``_seg2bmap``)."""
    padded = np.pad(region, ((0, 1), (0, 1)), mode="edge")
    return (region != padded[:-1, 1:]) | (region != padded[1:, :-1]) | (region != padded[1:, 1:])


def recall_and_decay(values: np.ndarray) -> tuple[float, float]:
    """The part of the frames at which an object's measure ``[T]`` is above 0.5, and its mean over the first quarter less that over
    the last. Quarters share their end frames, as in the reference's ``db_statistics``."""
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    return float((values > 0.5).mean()), float(first.mean() - last.mean())
