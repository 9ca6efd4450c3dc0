"""Classes of test images that no training image has."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.store.store import ImageStore


def without_training(train: ImageStore, test: ImageStore, rows: np.ndarray | None = None) -> dict[str, Any]:
    """For ``Measurement.data``: ``images``, how many labelled test images are of classes without training images, and
    ``classes``, the names of these; {} if every class has some.

    Args:
        rows: the training images whose labels an evaluation uses, int64; default: all.
    """
    rows = slice(None) if rows is None else rows  # without a copy of all labels
    if test.label_sets is not None:
        lacking = test.label_sets & ~train.label_sets[rows].any(axis=0)
        images, classes = lacking.any(axis=1).sum(), np.flatnonzero(lacking.any(axis=0))
    else:
        labelled = test.labels[test.labels >= 0]
        lacking = labelled[~np.isin(labelled, train.labels[rows])]
        images, classes = len(lacking), np.unique(lacking)
    return {"images": int(images), "classes": [test.titles[c] for c in classes]} if images else {}
