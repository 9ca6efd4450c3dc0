"""Pairing: which image each view of each anchor comes from. So any method can have weak supervision.

Same-label pairing follows jneyzaguirre1/dino_evaluation: the first global crop comes from the anchor image, and every other
crop from another image of its label. That code returns too few crops for small classes; images are repeated here.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from common.errors import UsageError, UserError


class Pairing(Protocol):
    """``sources(anchors [B], rng)`` is the index matrix ``[views, B]`` (int64) of the images the views are cut from."""

    def sources(self, anchors: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


class SameImage:
    """Every view comes from the anchor."""

    def __init__(self, views: int):
        self.views = views

    def sources(self, anchors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``[B]`` to ``[views, B]``; draws nothing from ``rng``."""
        return np.tile(np.asarray(anchors, np.int64), (self.views, 1))


class SameLabel:
    """Paired views come from other images with the anchor's label, the others from the anchor.

    An anchor with several labels takes part with one of them, drawn anew each time. Its paired views come from different images
    if the class has enough besides the anchor, else from images drawn with replacement, and from the anchor itself only if the
    class has no other image or the anchor no label.

    Args:
        classes: the images of each class whose labels may be used.
        n: number of all images.
        views: number of views V.
        paired: the views (from 0) that come from other images.
    """

    def __init__(self, classes: Sequence[np.ndarray], n: int, views: int, paired: list[int]):
        self.views = views
        self.paired = paired
        # One row per (image, label) that may be used, sorted by label: a class is a slice of `_images`.
        self._images = np.concatenate(classes)
        self._sizes = np.array([len(images) for images in classes])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._label = np.repeat(np.arange(len(classes)), self._sizes)
        self._rank = np.arange(len(self._images)) - self._starts[self._label]  # of the image within its class
        # The rows of each image, first those whose class has another image: a class of this image alone is the last resort.
        alone = self._sizes[self._label] < 2
        self._rows = np.lexsort((self._label, alone, self._images))
        counts = np.bincount(self._images, minlength=n)
        useful = np.bincount(self._images[~alone], minlength=n)
        self._first = np.cumsum(counts) - counts
        self._choices = np.where(useful > 0, useful, counts)

    def sources(self, anchors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``[B]`` to ``[V, B]``."""
        anchors = np.asarray(anchors, np.int64)
        result = np.tile(anchors, (self.views, 1))
        columns = np.flatnonzero(self._choices[anchors] > 0)
        if not len(columns) or not self.paired:
            return result
        images = anchors[columns]
        row = self._rows[self._first[images] + rng.integers(0, self._choices[images])]
        label = self._label[row]
        ranks = _draw(self._rank[row], self._sizes[label], len(self.paired), rng)
        result[np.asarray(self.paired)[:, None], columns] = self._images[self._starts[label] + ranks]
        return result


def _draw(own: np.ndarray, sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each column, ``count`` ranks in [0, size) that differ from ``own`` and, where the size allows, from each other.

    The t-th free rank is t, plus one for each taken rank at or below it, counted in rising order. Returns int64
    ``[count, columns]``.
    """
    distinct = sizes - 1 >= count
    others = np.maximum(sizes - 1, 1)
    taken = own[None]  # in rising order; if images may repeat, only the anchor is excluded
    drawn = []
    for step in range(count):
        free = np.where(distinct, others - step, others)
        ranks = rng.integers(0, free)
        for excluded, below in enumerate(taken):
            ranks += (ranks >= below) & (distinct | (excluded == 0))
        ranks = np.where(sizes > 1, ranks, own)
        drawn.append(ranks)
        # Columns with repeats keep `own` in front and pad with it, which the mask above ignores.
        taken = np.where(distinct, np.sort(np.concatenate([taken, ranks[None]]), axis=0), own)
    return np.stack(drawn)


def labelled(labels: np.ndarray, label_sets: np.ndarray | None, fraction: float, seed: int) -> np.ndarray:
    """The images whose labels may be used: bool ``[n]``, the same for the same seed.

    Each class gets the rounded share ``fraction`` of its images, and at least one. With several labels an image, rare classes
    choose first, and later ones count the images already chosen. With single labels, a larger fraction contains a smaller one's
    images.

    Args:
        labels: int64 ``[n]``, -1 unlabelled; read where ``label_sets`` is None.
        label_sets: bool ``[n, classes]`` or None.
        fraction: in (0, 1]; UsageError otherwise.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"label_fraction is {fraction}; give a number above 0 and at most 1")
    priority = np.random.default_rng([seed, 0x1ABE1]).permutation(len(labels))
    chosen = np.zeros(len(labels), bool)
    for images in sorted(_images_of_classes(labels, label_sets), key=len):
        quota = max(round(len(images) * fraction), min(len(images), 1))
        free = images[~chosen[images]]
        missing = quota - (len(images) - len(free))
        if missing > 0:
            chosen[free[np.argsort(priority[free])[:missing]]] = True
    return chosen


def _images_of_classes(labels: np.ndarray, label_sets: np.ndarray | None) -> list[np.ndarray]:
    """The images of each class, rising."""
    if label_sets is not None:
        return [np.flatnonzero(column) for column in label_sets.T]
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(labels.max(initial=-1) + 1))
    return np.split(order, ends)[1:]  # without the unlabelled, which are -1


def make_pairing(
    kind: Literal["same_image", "same_label"],
    labels: np.ndarray,
    label_sets: np.ndarray | None,
    views: int,
    paired_views: list[int] | None,
    label_fraction: float,
    seed: int,
) -> Pairing:
    """The pairing of a run.

    Args:
        kind: ``same_image`` or ``same_label``.
        labels: int64 ``[n]``, -1 unlabelled; read where ``label_sets`` is None.
        label_sets: bool ``[n, classes]`` where an image may have several labels, else None.
        views: number of views of a sample.
        paired_views: the views (from 0) that ``same_label`` draws from other images; None: all but the first.
        label_fraction, seed: see ``labelled``.

    Raises:
        UsageError: unknown kind, a view that does not exist, a fraction outside (0, 1].
        UserError: ``same_label`` for images without any label.
    """
    if kind == "same_image":
        return SameImage(views)
    if kind != "same_label":
        raise UsageError(f"unknown pairing {kind!r}; give same_image or same_label")
    paired = list(range(1, views)) if paired_views is None else sorted(paired_views)
    if len(set(paired)) < len(paired) or any(not 0 <= view < views for view in paired):
        raise UsageError(
            f"paired_views is {paired_views}; give different numbers from 0 to {views - 1} (views count from 0)"
        )
    usable = labelled(labels, label_sets, label_fraction, seed)
    if not usable.any():
        raise UserError("same_label pairing needs labels, and none of the training images has one; use same_image")
    classes = [images[usable[images]] for images in _images_of_classes(labels, label_sets)]
    return SameLabel(classes, len(labels), views, paired)
