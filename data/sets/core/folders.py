"""torchvision's ``ImageFolder`` layout: one folder for each class."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.names import first_names
from common.progress import warn
from data.sets.core.lists import of_split
from data.store.decode import BRANDS_END, check_file, is_heic
from data.store.listing import Listing, names_below, stamp_of

#: The first folder of a split that exists is read. Every comparison here tests on the validation images.
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "test")}

#: What systems and archives leave in folders, beside what begins with a dot.
LEFT_BY_SYSTEMS = (
    *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini"),
    *("icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin"),
    *("system volume information", "lost+found", "__pycache__"),
)

LAYOUT = "images belong in train/CLASS/ and val/CLASS/ (or test/CLASS/), or are read without labels by --data images"


def list_folder(data: str, split: str, root: Path, upright: bool = True) -> Listing:
    """List the images of ``root/train`` or ``root/val`` (``root/test``): every file, except ``is_stray`` ones, below the class
    folders, which are those of ``train``, sorted.

    Raises UserError for a missing or empty split, images outside class folders, and classes that ``train`` lacks.
    """
    train, folder = split_folder(data, "train", root), split_folder(data, split, root)
    classes = class_names(train)
    foreign = sorted(set(class_names(folder)) - set(classes))
    if foreign:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        images = sum(len(files_below(folder / name)) for name in foreign)
        raise UserError(
            f"{folder / foreign[0]}: a class that {train} lacks{more}, with {images:,} images; both splits need the same "
            "class folders"
        )
    paths, labels, stats = [], [], []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            for path, stat in files_below(folder / name):
                paths.append(path)
                labels.append(label)
                stats.append(stat)
    names = names_below(root, paths)
    return Listing(
        data=data,
        split=split,
        root=root,
        classes=tuple(classes),
        names=names,
        labels=np.array(labels, np.int64),
        upright=upright,
        stamp=stamp_of(zip(names, stats, strict=True)),
    )


def split_folder(data: str, split: str, root: Path) -> Path:
    """Find the folder of a split. Raises UserError, with the folders that exist, if it is missing."""
    choices = of_split(SPLIT_FOLDERS, split)
    for name in choices:
        if (root / name).is_dir():
            return root / name
    here = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_stray(entry.name))
    seen = f"found the folders {first_names(here, 5)}" if here else "found no folders"
    raise UserError(f"{root}: no folder {' or '.join(choices)} for {data}; {LAYOUT}; {seen}")


def class_names(folder: Path) -> list[str]:
    """List the class folders, sorted. Files beside them that are no images, such as a README, are left out, and named once.

    Raises UserError for a folder without them, for images beside them, and for a link to nothing."""
    names, others = [], []
    for entry in os.scandir(folder):
        if is_stray(entry.name):
            continue
        if entry.is_dir():
            names.append(entry.name)
        elif entry.is_symlink() and not Path(entry.path).exists():
            raise UserError(f"{entry.path}: a link to nothing; mend or remove it")
        elif is_image(Path(entry.path)):
            raise UserError(f"{entry.path}: a file outside any class folder; {LAYOUT}")
        else:
            others.append(entry.name)
    if not names:
        raise UserError(f"{folder}: no class folders; {LAYOUT}")
    if others:
        _name_left_out(folder, tuple(sorted(others)))
    return sorted(names)


@functools.cache
def _name_left_out(folder: Path, names: tuple[str, ...]) -> None:
    """Name files once a process, which lists a folder several times."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    warn(f"{folder}: left out, no images and no class folders: {', '.join(names[:5])}{more}")


def is_stray(name: str) -> bool:
    """Whether a file or folder is hidden, or left by a system or an archive (``Thumbs.db``, ``__MACOSX``)."""
    return name.startswith(".") or name.casefold() in LEFT_BY_SYSTEMS


def is_image(path: Path) -> bool:
    """Whether a file has an image's suffix, even if it is damaged, or can be opened as an image."""
    if path.suffix.lower() in (*Image.registered_extensions(), ".heic", ".heif"):
        return True
    try:
        check_file(path)
        with open(path, "rb") as file:
            if is_heic(file.read(BRANDS_END)):
                return True
            with Image.open(file):
                return True
    except Exception:  # Pillow raises many kinds
        return False


def files_below(folder: Path) -> list[tuple[str, os.stat_result]]:
    """List the files anywhere below a folder, except ``is_stray`` ones, sorted by path, with their stats; links are followed.

    Raises UserError for a folder that cannot be read, or a link that leads back to a folder above it."""
    files = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(str(folder), frozenset())]
    while pending:
        directory, above = pending.pop()
        try:
            status = Path(directory).stat()
            here = (status.st_dev, status.st_ino)
            entries = [entry for entry in os.scandir(directory) if not is_stray(entry.name)]
        except OSError as error:
            raise UserError(f"{directory}: this folder of images cannot be read ({error.strerror})") from error
        if here in above:
            raise UserError(f"{directory}: a link back to a folder above it; remove it")
        for entry in entries:
            if entry.is_dir():
                pending.append((entry.path, above | {here}))
            else:
                try:
                    files.append((entry.path, entry.stat()))
                except FileNotFoundError:  # a dangling link; the decoder reports it by name
                    files.append((entry.path, entry.stat(follow_symlinks=False)))
    return sorted(files, key=lambda item: item[0])
