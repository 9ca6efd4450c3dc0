"""Data sets with one folder a class: imagefolder, imagenet, and cifar10 unpacked as files."""

import os
import re
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.store.listing import Listing, of_split, stamp_of

#: Folders of the two splits, the first that exists counts. Validation images are the test split of every comparison here.
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test")}

LAYOUT = "images belong in train/CLASS/ and val/CLASS/ (or test/CLASS/)"


def list_folder(data: str, split: str, root: Path) -> Listing:
    """A split in torchvision's ``ImageFolder`` layout: classes are the sorted names of ``train``'s folders, images are the
    files anywhere below them in sorted order. Hidden files (with a leading dot) are no images; every other file is taken for
    one, whatever its suffix.

    Raises UserError for a missing or empty split, images outside class folders, and classes that ``train`` does not have.
    """
    train, folder = split_folder(data, "train", root), split_folder(data, split, root)
    classes = class_names(train)
    unknown = sorted(set(class_names(folder)) - set(classes))
    if unknown:
        raise UserError(
            f"{folder / unknown[0]}: a class that {train} lacks"
            + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else "")
            + "; both splits need the same class folders"
        )
    names, labels, stats = [], [], []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            for path, stat in _files(folder / name):
                names.append(os.path.relpath(path, root))
                labels.append(label)
                stats.append(stat)
    return Listing(
        data=data,
        split=split,
        root=root,
        classes=tuple(classes),
        names=names,
        labels=np.array(labels, np.int64),
        stamp=stamp_of(zip(names, stats, strict=True)),
    )


def list_imagenet(data: str, split: str, root: Path) -> Listing:
    """ImageNet-1k as ``ImageFolder``: 1000 synset folders (``n01440764``, …) in train and in val. UserError otherwise."""
    classes = class_names(split_folder(data, split, root))
    synsets = [name for name in classes if re.fullmatch(r"n\d{8}", name)]
    if len(synsets) != 1000 or len(classes) != 1000:
        raise UserError(
            f"{split_folder(data, split, root)}: {len(synsets)} synset folders (n01440764, …) of {len(classes)}, not the 1000 "
            "of ImageNet; for a part of it use --data imagefolder"
        )
    return list_folder(data, split, root)


def split_folder(data: str, split: str, root: Path) -> Path:
    """The folder of a split; a UserError says what was expected where there is none."""
    choices = of_split(SPLIT_FOLDERS, split)
    for name in choices:
        if (root / name).is_dir():
            return root / name
    here = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    found = f"found the folders {', '.join(here[:5])}{', …' if len(here) > 5 else ''}" if here else "found no folders"
    raise UserError(f"{root}: no folder {' or '.join(choices)} for {data}; {LAYOUT}; {found}")


def class_names(folder: Path) -> list[str]:
    """Sorted names of the class folders; UserError where there are none, or images beside them."""
    names = []
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            raise UserError(f"{entry.path}: a file outside any class folder; {LAYOUT}")
        names.append(entry.name)
    if not names:
        raise UserError(f"{folder}: no class folders; {LAYOUT}")
    return sorted(names)


def _files(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Files below a class folder with their stats, in sorted order of their paths; links are followed."""
    found = []
    pending = [str(folder)]
    while pending:
        for entry in os.scandir(pending.pop()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                pending.append(entry.path)
            else:
                try:
                    found.append((entry.path, entry.stat()))
                except FileNotFoundError:  # a dangling link: decoding it reports it by name
                    found.append((entry.path, entry.stat(follow_symlinks=False)))
    return sorted(found, key=lambda item: item[0])
