"""PASCAL VOC's classes, and its layout as torchvision unpacks it: images, masks and lists in ``VOCdevkit/VOC2012``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import UserError
from data.sets.core.lists import of_split, read_names, stamp_of_listed
from data.store.listing import Listing

#: In the order of their mask values 1 to 20 (VOC2012 development kit, ``VOCinit.m``).
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
#: The list of each split. train_aug is train with SBD's further images (``data.sets.core.voc_download``).
LISTS = {"train": "train", "test": "val", "trainval": "trainval", "train_aug": "train_aug"}
#: Folder of the masks of train_aug that are not VOC's own.
AUG_MASKS = "SegmentationClassAug"


def find_devkit(data: str, root: Path, year: str, lists: str) -> Path:
    """``root``, ``root/YEAR`` or ``root/VOCdevkit/YEAR``, whichever holds the folder ``lists``. Raises UserError."""
    for folder in (root, root / year, root / "VOCdevkit" / year):
        if (folder / lists).is_dir():
            return folder
    raise UserError(f"{root}: no {lists} here or in VOCdevkit/{year}; {data} needs the folder that holds VOCdevkit")


def list_segmentation(
    data: str,
    split: str,
    folder: Path,
    classes: tuple[str, ...],
    labels: dict[str, str] | None = None,
    upright: bool = False,
) -> Listing:
    """List the images and masks of a split (a key of ``LISTS``).

    Args:
        labels: the class of each image; None: an image has several labels, from its XML file, or else from its mask.
        upright: as in ``Listing``; VOC's masks and boxes belong to the pixels as stored.

    Raises UserError for missing lists, images, masks or annotations, and for a missing or unknown label.
    """
    path = folder / "ImageSets" / "Segmentation" / f"{of_split(LISTS, split)}.txt"
    if not path.is_file() and split == "train_aug":
        raise UserError(
            f"{path}: missing; python run.py data voc2012 --data_root DIR --download makes it, with its masks"
        )
    if not path.is_file():
        raise UserError(f"{path}: the list of the {split} images is missing; is this {data} in torchvision's layout?")
    ids = read_names(path, lambda name: folder / "JPEGImages" / f"{name}.jpg")
    names = [f"JPEGImages/{name}.jpg" for name in ids]
    masks = [f"SegmentationClass/{name}.png" for name in ids]
    if split == "train_aug":
        masks = [own if (folder / own).is_file() else f"{AUG_MASKS}/{Path(own).name}" for own in masks]
    has_annotations = labels is None and (folder / "Annotations").is_dir()
    annotations = [f"Annotations/{name}.xml" for name in ids] if has_annotations else None
    stamp = stamp_of_listed(folder, names + masks + (annotations or []), path)
    return Listing(
        data=data,
        split=split,
        root=folder,
        classes=classes,
        names=names,
        labels=None if labels is None else _label_numbers(ids, labels, classes, folder),
        masks=masks,
        annotations=annotations,
        upright=upright,
        stamp=stamp,
    )


def _label_numbers(ids: list[str], labels: dict[str, str], classes: tuple[str, ...], folder: Path) -> np.ndarray:
    numbers = []
    for name in ids:
        if name not in labels:
            raise UserError(f"{folder}: labels.csv has no label for {name}")
        if labels[name] not in classes:
            raise UserError(
                f"{folder}: labels.csv gives {name} the label {labels[name]!r}, which is not in classes.txt"
            )
        numbers.append(classes.index(labels[name]))
    return np.array(numbers, np.int64)
