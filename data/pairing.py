"""Pairing: which image each view of an anchor comes from, so that any method can have weak supervision.

Same-label pairing follows jneyzaguirre1/dino_evaluation: all crops but the first global one come from other images of the
anchor's label. Small classes repeat images here; that code returns too few crops.
"""

from typing import Literal, Protocol

import numpy as np

from common.errors import UsageError, UserError
from data.store.names import place_type

#: Images put into the order of their classes together.
_TOGETHER = 2**14


class Pairing(Protocol):
    """``sources`` maps anchors ``[B]`` to the images that the views are cut from: int64 ``[views, B]``."""

    def sources(self, anchors: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


class SameImage:
    """Every view comes from the anchor."""

    def __init__(self, views: int):
        self.views = views

    def sources(self, anchors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws nothing from ``rng``."""
        return np.tile(np.asarray(anchors, np.int64), (self.views, 1))


class SameLabel:
    """Paired views come from other images with the anchor's label, the others from the anchor.

    One label of an anchor is drawn anew each time. Its paired views come from different images of the class, drawn with
    replacement if these are too few, and from the anchor itself if it has no label or its class no other image.

    Args:
        images: the images of the classes whose labels may be used, class after class.
        sizes: how many of them each class has.
        n: number of all images.
        paired: the views (from 0) that come from other images.
    """

    def __init__(self, images: np.ndarray, sizes: np.ndarray, n: int, views: int, paired: list[int]):
        self.views = views
        self.paired = paired
        # One row per (image, label) that may be used, sorted by label: a class is a slice of `_images`.
        self._images, self._sizes = images, sizes
        self._ends = np.cumsum(sizes)
        # The row of each image, -1 without one.
        self._first, self._choices = np.full(n, -1, images.dtype), None
        for start in range(0, len(images), _TOGETHER):
            some = images[start : start + _TOGETHER]
            self._first[some] = np.arange(start, start + len(some))
        if np.count_nonzero(self._first >= 0) == len(images):  # none has two
            return
        counts = np.bincount(images, minlength=n)
        # The rows of each image, first those whose class has another image: a class of this image alone is the last resort.
        label = np.repeat(np.arange(len(sizes)), sizes)
        alone = sizes[label] < 2
        self._rows = np.lexsort((label, alone, images)).astype(images.dtype)
        useful = np.bincount(images[~alone], minlength=n)
        self._first = (np.cumsum(counts) - counts).astype(images.dtype)
        self._choices = np.where(useful > 0, useful, counts).astype(images.dtype)

    def sources(self, anchors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        anchors = np.asarray(anchors, np.int64)
        result = np.tile(anchors, (self.views, 1))
        has_label = self._first[anchors] >= 0 if self._choices is None else self._choices[anchors] > 0
        columns = np.flatnonzero(has_label)
        if not len(columns) or not self.paired:
            return result
        row = self._draw_row(anchors[columns], rng)
        label = np.searchsorted(self._ends, row, "right")
        sizes, start = self._sizes[label], self._ends[label] - self._sizes[label]
        ranks = _draw(row - start, sizes, len(self.paired), rng)
        result[np.asarray(self.paired)[:, None], columns] = self._images[start + ranks]
        return result

    def _draw_row(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A row of each image, int64, by one of its labels."""
        if self._choices is None:  # one choice needs no random number
            return self._first[images].astype(np.int64)
        return self._rows[self._first[images] + rng.integers(0, self._choices[images])].astype(np.int64)


def _draw(own: np.ndarray, sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ranks below the sizes, int64 ``[count, columns]``, other than ``own`` and, where sizes allow, than each other."""
    # The t-th free rank is t, plus one for each taken rank at or below it, counted in rising order.
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
    """Draw the images whose labels may be used: bool ``[n]``.

    Each class gets the rounded share ``fraction`` (in (0, 1]; else UsageError) of its images, and at least one. Rare classes
    choose first, and later ones count the images already chosen. With single labels, a larger fraction only adds images.

    Args:
        labels: int64 ``[n]``, -1 unlabelled; read where ``label_sets`` is None.
        label_sets: bool ``[n, classes]`` or None.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"label_fraction is {fraction}; give a number above 0 and at most 1")
    with_label = labels >= 0 if label_sets is None else label_sets.any(axis=1)
    if fraction == 1:
        return with_label
    priority = np.arange(len(labels), dtype=place_type(len(labels)))
    np.random.default_rng([seed, 0x1ABE1]).shuffle(priority)
    chosen = np.zeros(len(labels), bool)
    of_classes, sizes = _by_class(labels, label_sets, with_label)
    for images in sorted(np.split(of_classes, np.cumsum(sizes)[:-1]), key=len):
        quota = max(round(len(images) * fraction), min(len(images), 1))
        free = images[~chosen[images]]
        missing = quota - (len(images) - len(free))
        if missing > 0:
            chosen[free[np.argsort(priority[free])[:missing]]] = True
    return chosen


def _by_class(labels: np.ndarray, label_sets: np.ndarray | None, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ``usable`` images class after class, rising in each, and how many each class has. An image with several labels stands in
    several classes."""
    kind = place_type(len(labels))
    if label_sets is not None:
        classes, images = np.nonzero((label_sets & usable[:, None]).T)
        return images.astype(kind), np.bincount(classes, minlength=label_sets.shape[1])
    # Counted, and then put in their places, some at a time: sorting all would take three times the memory of the result.
    parts = [slice(start, start + _TOGETHER) for start in range(0, len(labels), _TOGETHER)]
    classes = 1 + int(max((labels[part][usable[part]].max(initial=-1) for part in parts), default=-1))
    sizes = sum(
        (np.bincount(labels[part][usable[part]], minlength=classes) for part in parts), np.zeros(classes, np.int64)
    )
    images, places = np.empty(sizes.sum(), kind), np.cumsum(sizes) - sizes
    for part in parts:
        rows = np.flatnonzero(usable[part])
        own = labels[part][rows]
        order = np.argsort(own, kind="stable")
        counts = np.bincount(own, minlength=classes)
        begin = np.cumsum(counts) - counts
        images[(places - begin)[own[order]] + np.arange(len(own))] = part.start + rows[order]
        places += counts
    return images, sizes


def make_pairing(
    kind: Literal["same_image", "same_label"],
    labels: np.ndarray,
    label_sets: np.ndarray | None,
    views: int,
    paired_views: list[int] | None,
    usable: np.ndarray,
) -> Pairing:
    """Make the pairing of a run.

    Args:
        labels, label_sets: see ``labelled``.
        views: number of views of a sample.
        paired_views: the views (from 0) that ``same_label`` draws from other images; None: all but the first.
        usable: what ``labelled`` drew.

    Raises:
        UsageError: unknown kind, a view that does not exist.
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
    if not usable.any():
        raise UserError("same_label pairing needs labels, and none of the training images has one; use same_image")
    return SameLabel(*_by_class(labels, label_sets, usable), len(labels), views, paired)
