"""Region and boundary measures of DAVIS (Perazzi et al. 2016, section 4; reference: davis2017-evaluation, metrics.py, utils.py)."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

#: Largest distance of matching contours, as a part of the image's diagonal.
BOUND = 0.008


def region_jaccard(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool ``[H, W]``, in [0, 1]; 1 if both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """F-measure of the contours of two bool ``[H, W]``, in [0, 1].

    A contour pixel matches if the other contour has a pixel within ⌈0.008 · diagonal⌉ (the reference dilates by such a disk).
    Precision is the matching part of the mask's contour, recall of the truth's. Two empty contours give 1, one gives 0.
    """
    radius = math.ceil(BOUND * math.hypot(*mask.shape))
    of_mask, of_truth = (np.argwhere(contour(region)) for region in (mask, truth))
    if len(of_mask) == 0 or len(of_truth) == 0:
        return float(len(of_mask) == len(of_truth))
    precision = (cKDTree(of_truth).query(of_mask)[0] <= radius).mean()
    recall = (cKDTree(of_mask).query(of_truth)[0] <= radius).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(region: np.ndarray) -> np.ndarray:
    """Mark pixels of a bool ``[H, W]`` that differ from their right, lower or lower right neighbour (reference: ``_seg2bmap``)."""
    padded = np.pad(region, ((0, 1), (0, 1)), mode="edge")
    return (region != padded[:-1, 1:]) | (region != padded[1:, :-1]) | (region != padded[1:, 1:])


def recall_and_decay(values: np.ndarray) -> tuple[float, float]:
    """The part of an object's frames ``[T]`` above 0.5, and the mean of their first quarter less that of the last. Quarters share
    end frames, as in the reference's ``db_statistics``."""
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    return float((values > 0.5).mean()), float(first.mean() - last.mean())
