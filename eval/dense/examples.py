"""Segmented test images for the report."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import read_arrays, write_arrays
from common.images import VOID
from common.statistics.confusion import class_scores
from data.store.store import ImageStore
from data.views.dense import fitted_size

#: Images of each kind, and their longer side in pixels.
COUNT = 6
SIDE = 192


class Examples:
    """Collects test images: some that are the same for every run, and each head's best and worst.

    Args:
        weights: digest of the backbone's weights.
    """

    def __init__(self, store: ImageStore, weights: str):
        self._store = store
        #: What measurements that share a file have in common.
        self._about = {"weights": np.array(weights), "data": np.array(store.fingerprint)}
        self._fixed = _varied(store)
        self._kept: dict[str, dict[int, tuple[float, np.ndarray]]] = {}

    def offer(self, head: str, image: int, predicted: np.ndarray, matrix: np.ndarray) -> None:
        """Consider a prediction (uint8 ``[H, W]``) with its confusion matrix."""
        iou = class_scores(matrix)["iou"]
        if np.isnan(iou).all():
            return  # void all over
        kept = self._kept.setdefault(head, {})
        kept[image] = (float(np.nanmean(iou)), _small(predicted, Image.Resampling.NEAREST))
        order = sorted((mean, other) for other, (mean, _) in kept.items() if other not in self._fixed)
        for _, other in order[COUNT:-COUNT]:
            del kept[other]

    def take_over(self, path: Path, without: Container[str]) -> None:
        """Keep what an earlier measurement of the same weights and images wrote of other heads than ``without``."""
        try:
            arrays = read_arrays(path)
        except (OSError, ValueError):  # none, or a damaged one, which is written anew
            return
        if any(name not in arrays or arrays[name] != value for name, value in self._about.items()):
            return
        images = {name: image for image, name in enumerate(self._store.names)}
        for head in (name.removeprefix("iou_") for name in arrays if name.startswith("iou_")):
            if head not in without:
                self._kept[head] = {
                    images[str(arrays["names"][place])]: (
                        float(arrays[f"iou_{head}"][place]) / 100,
                        arrays[f"predicted_{head}"][place, : arrays["sizes"][place, 0], : arrays["sizes"][place, 1]],
                    )
                    for place in np.flatnonzero(~np.isnan(arrays[f"iou_{head}"]))
                }

    def save(self, path: Path) -> None:
        """Write ``images``, uint8 ``[k, SIDE, SIDE, 3]``, padded with white; ``truth``, classes ``[k, SIDE, SIDE]``, padded with
        255 (void); ``sizes [k, 2]``, height and width; ``names [k]``; ``classes [C]``; ``fixed``, indices of the images that all
        runs show; ``weights`` and ``data``, digests for ``take_over``. For each head: ``predicted_HEAD`` like ``truth`` and
        ``iou_HEAD [k]``, the mean over an image's classes in percent (255 and NaN for images not kept for it); ``best_HEAD`` and
        ``worst_HEAD``, indices, the extreme one first; no image is in both."""
        images = sorted({image for kept in self._kept.values() for image in kept} | set(self._fixed))
        place = {image: position for position, image in enumerate(images)}
        arrays: dict[str, np.ndarray] = {
            "images": np.full((len(images), SIDE, SIDE, 3), 255, np.uint8),
            "truth": np.full((len(images), SIDE, SIDE), VOID, np.uint8),
            "sizes": np.zeros((len(images), 2), np.int32),
            **self._about,
            "names": np.array([self._store.names[image] for image in images]),
            "classes": np.array(self._store.mask_classes),
            "fixed": np.array([place[image] for image in self._fixed], np.int64),
        }
        for image in images:
            photo = _small(self._store.original_image(image), Image.Resampling.BICUBIC)
            height, width = photo.shape[:2]
            arrays["sizes"][place[image]] = height, width
            arrays["images"][place[image], :height, :width] = photo
            mask = _small(self._store.mask(image), Image.Resampling.NEAREST)
            arrays["truth"][place[image], :height, :width] = mask
        for head, kept in self._kept.items():
            predicted = arrays[f"predicted_{head}"] = np.full_like(arrays["truth"], VOID)
            ious = arrays[f"iou_{head}"] = np.full(len(images), np.nan, np.float32)
            for image, (iou, classes) in kept.items():
                predicted[place[image], : classes.shape[0], : classes.shape[1]] = classes
                ious[place[image]] = 100 * iou
            order = [place[image] for _, image in sorted((iou, image) for image, (iou, _) in kept.items())]
            most = min(COUNT, len(order) // 2)  # no image is both
            arrays[f"worst_{head}"] = np.array(order[:most], np.int64)
            arrays[f"best_{head}"] = np.array(order[::-1][:most], np.int64)
        write_arrays(path, **arrays)


def _varied(store: ImageStore) -> list[int]:
    """Choose images that together show many classes: each adds the most classes not shown yet."""
    order = np.random.default_rng(0).permutation(len(store))[:200]
    contents = {int(image): set(np.unique(store.mask(int(image)))) - {0, VOID} for image in order}
    chosen: list[int] = []
    seen: set[int] = set()
    while len(chosen) < min(COUNT, len(contents)):
        best = max((image for image in contents if image not in chosen), key=lambda image: len(contents[image] - seen))
        chosen.append(best)
        seen |= contents[best]
    return chosen


def _small(array: np.ndarray, resample: Image.Resampling) -> np.ndarray:
    height, width = fitted_size(array.shape[:2], SIDE)
    return np.asarray(Image.fromarray(array).resize((width, height), resample))
