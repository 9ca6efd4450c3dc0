"""PASCAL VOC 2012 in torchvision's layout, and the built-in demo set, which is generated in the same layout."""

import csv
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.images import VOID
from data.store.listing import Listing, of_split, read_lines, read_names, stamp_of

#: VOC's classes in the order of their mask values 1 to 20 (VOC2012 development kit, ``VOCinit.m``).
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
#: Which list is which split. trainval holds both; train_aug is train with SBD's further images (``data.sets.voc_download``).
LISTS = {"train": "train", "test": "val", "trainval": "trainval", "train_aug": "train_aug"}
#: Where the masks of train_aug lie that are not VOC's own.
AUG_MASKS = "SegmentationClassAug"


def palette() -> np.ndarray:
    """VOC's colours of mask values, uint8 ``[256, 3]`` (VOC2012 development kit, ``VOClabelcolormap.m``): bit i of red, green and
    blue, counted from the highest, is bit 3·i, 3·i + 1 and 3·i + 2 of the value."""
    values = np.arange(256)[:, None]
    channels = np.arange(3)[None]
    return sum(((values >> (3 * i + channels)) & 1) << (7 - i) for i in range(8)).astype(np.uint8)


def list_voc(data: str, split: str, root: Path) -> Listing:
    """The images of ``ImageSets/Segmentation``: train, or val as the test split. (``trainval`` and ``train_aug`` are
    known too.)

    An image has several labels: the objects of its XML file in ``Annotations`` that are not difficult, or where there is no
    such folder the classes in its mask. ``root`` is the folder that holds ``VOCdevkit``, that folder, or ``VOC2012`` itself.

    Raises UserError for missing lists, and for listed images, masks or annotations that are missing.
    """
    return _list(data, split, _voc_folder(data, root), CLASSES, None)


def list_demo(data: str, split: str, root: Path) -> Listing:
    """The generated set: VOC's layout, with one label an image in ``labels.csv`` (name, label: a class, or its place from 0 in
    ``classes.txt``)."""
    folder = _voc_folder(data, root)
    path = _side_file(root, folder, "classes.txt")
    classes = tuple(read_names(path))
    if not 1 <= len(classes) < VOID:
        raise UserError(f"{path}: {len(classes)} classes; a mask has room for 1 to {VOID - 1}")
    path = _side_file(root, folder, "labels.csv")
    labels = {}
    try:
        for row in csv.DictReader(read_lines(path), strict=True):
            if row.get("name") is None or row.get("label") is None or None in row:
                raise csv.Error(f"record {len(labels) + 1} does not have the columns name and label")
            if Path(row["name"]).stem in labels:
                raise csv.Error(f"{row['name']} stands there twice")
            labels[Path(row["name"]).stem] = row["label"]
    except csv.Error as error:
        raise UserError(f"{path}: not a table of names and labels ({error})") from error
    numbers = dict(zip(map(str, range(len(classes))), classes, strict=True))
    labels = {name: numbers.get(label, label) for name, label in labels.items()}
    return _list(data, split, folder, classes, labels)


def _list(data: str, split: str, folder: Path, classes: tuple[str, ...], labels: dict[str, str] | None) -> Listing:
    path = folder / "ImageSets" / "Segmentation" / f"{of_split(LISTS, split)}.txt"
    if not path.is_file() and split == "train_aug":
        raise UserError(
            f"{path}: missing; python run.py data voc2012 --data_root DIR --download makes it, with its masks"
        )
    if not path.is_file():
        raise UserError(f"{path}: the list of the {split} images is missing; is this {data} in torchvision's layout?")
    ids = read_names(path)
    names = [f"JPEGImages/{name}.jpg" for name in ids]
    masks = [f"SegmentationClass/{name}.png" for name in ids]
    if split == "train_aug":
        masks = [own if (folder / own).is_file() else f"{AUG_MASKS}/{Path(own).name}" for own in masks]
    annotations = [f"Annotations/{name}.xml" for name in ids] if (folder / "Annotations").is_dir() else None
    if labels is not None:
        annotations = None
    # First, since it sees that all are there.
    stamp = stamp_of_listed(folder, names + masks + (annotations or []), path)
    return Listing(
        data=data,
        split=split,
        root=folder,
        classes=classes,
        names=names,
        labels=None if labels is None else _labels(ids, labels, classes, folder),
        masks=masks,
        annotations=annotations,
        stamp=stamp,
    )


def stamp_of_listed(folder: Path, names: list[str], path: Path) -> str:
    """The stamp of the files that the list at ``path`` asks for. Raises UserError where some are missing or out of reach."""
    stats, missing = [], []
    for name in names:
        try:
            stats.append((name, (folder / name).stat()))
        except FileNotFoundError:
            missing.append(name)
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror})") from error
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise UserError(f"{folder}: {len(missing)} of the files that {path.name} lists are missing: {shown}")
    return stamp_of(stats)


def _labels(ids: list[str], labels: dict[str, str], classes: tuple[str, ...], folder: Path) -> np.ndarray:
    result = []
    for name in ids:
        if name not in labels:
            raise UserError(f"{folder}: labels.csv has no label for {name}")
        if labels[name] not in classes:
            raise UserError(
                f"{folder}: labels.csv gives {name} the label {labels[name]!r}, which is not in classes.txt"
            )
        result.append(classes.index(labels[name]))
    return np.array(result, np.int64)


def _voc_folder(data: str, root: Path) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "ImageSets").is_dir():
            return folder
    raise UserError(f"{root}: no ImageSets here or in VOCdevkit/VOC2012; {data} needs the folder that holds VOCdevkit")


def _side_file(root: Path, folder: Path, name: str) -> Path:
    for path in (root / name, folder / name):
        if path.is_file():
            return path
    raise UserError(f"{root / name}: missing; remove the folder, and the demo set is made again")
