"""Are there classes in masks at all, and which are missing?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import UserError
from common.images import VOID
from common.names import first_names
from common.progress import track, warn
from data.store.listing import Listing
from data.store.masks import read_ids
from data.store.store import ImageStore


def require_classes(images: Listing | ImageStore, background: bool) -> None:
    """Raise UserError if no mask of a split holds a class, or, with ``background`` as a class of its own, if all pixels are of one.
    Reads as few masks as decide it; of a listing, whose images have not been decoded, the files themselves."""
    if isinstance(images, Listing):
        data, classes = images.data, len(images.classes)
        masks = (read_ids(images.root / mask, None, classes + 1) for mask in images.masks)
        count = len(images.masks)
    else:
        data, classes, count = images.name, images.num_classes, len(images)
        masks = (images.mask(index) for index in range(count))
    held: set[int] = set()
    for mask in masks:
        held |= set(np.flatnonzero(_present(mask)).tolist())
        if held - {0, VOID} and len(held - {VOID}) > background:
            return
    if held - {0, VOID}:
        void = f" and {VOID} (void)" if VOID in held else ""
        problem = f"{min(held - {VOID})}{void} alone, so there is nothing to tell apart"
    else:
        names = {0: "0 (background)", VOID: f"{VOID} (void, which counts nowhere)"}
        problem = f"no class, only {' and '.join(names[value] for value in sorted(held))}"
    first, last = images.classes[0], images.classes[-1]
    numbers = f"1 ({first})" if classes == 1 else f"1 ({first}) to {classes} ({last})"
    void = f"; where {VOID} stands for an object, write its class in place" if VOID in held else ""
    raise UserError(
        f"the {count:,} masks of {data} {images.split} hold {problem}; number the pixels of a class {numbers}, and those of the "
        f"background 0{void}"
    )


def values_in(store: ImageStore) -> np.ndarray:
    """Mark the values that each image's mask holds, bool ``[n, 256]``."""
    values = np.zeros((len(store), 256), bool)
    for index in track(range(len(store)), f"looking through the masks of {store.name} {store.split}", len(store)):
        values[index] = _present(store.mask(index))
    return values


def missing_classes(train: np.ndarray, test: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What masks lack, for ``Measurement.data``: by split ``absent_from_masks``, names of classes; of the test split also
    ``without_training``, the names of its classes that no training mask has, and the number of images with one.

    Args:
        train, test: ``values_in`` the splits, or test images' classes ``[n, C]``.
        classes: names of the mask values 0, 1, ….
    """
    of_train, of_test = train[:, : len(classes)], test[:, : len(classes)]
    absent = {
        split: {"absent_from_masks": [classes[c] for c in np.flatnonzero(~values.any(axis=0))]}
        for split, values in (("train", of_train), ("test", of_test))
    }
    untrained = of_test.any(axis=0) & ~of_train.any(axis=0)
    if untrained.any():
        images = int(of_test[:, untrained].any(axis=1).sum())
        names = [classes[c] for c in np.flatnonzero(untrained)]
        absent["test"]["without_training"] = {"images": images, "classes": names}
    return absent


def warn_of_missing(evaluation: str, missing: dict[str, dict[str, Any]], train: np.ndarray) -> None:
    """Say which classes are in no mask (``missing_classes``), and how many training masks (``values_in``) hold void alone."""
    for split in ("train", "test"):
        if names := missing[split]["absent_from_masks"]:
            place = "training" if split == "train" else "test"
            warn(f"{evaluation}: {len(names)} classes are in no {place} mask: {first_names(names)}")
    if void := int((train[:, VOID] & ~train[:, 1:VOID].any(axis=1)).sum()):
        warn(
            f"{evaluation}: {void:,} of {len(train):,} training masks hold no class, but {VOID}, which is void; where it stands "
            "for an object, write the object's number in place"
        )


def _present(mask: np.ndarray) -> np.ndarray:
    present = np.zeros(256, bool)
    present[mask.ravel()] = True
    return present
