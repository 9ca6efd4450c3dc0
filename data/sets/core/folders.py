"""torchvision's ``ImageFolder`` layout: one folder for each class."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError, unreadable
from common.names import first_names
from common.progress import warn
from data.sets.core.lists import of_split
from data.store.decode import BRANDS_END, check_file, is_heic
from data.store.listing import Listing, Stamp, below
from data.store.names import Names

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
        images = sum(1 for name in foreign for _ in files_below(folder / name))
        raise UserError(
            f"{folder / foreign[0]}: a class that {train} lacks{more}, with {images:,} images; both splits need the same "
            "class folders"
        )
    counts = []

    def files() -> Iterator[tuple[str, os.stat_result]]:
        for name in classes:
            before = stamp.count
            if (folder / name).is_dir():
                yield from files_below(folder / name)
            counts.append(stamp.count - before)

    stamp = Stamp()
    names = Names(stamp.over(below(root, files())))
    return Listing(
        data=data,
        split=split,
        root=root,
        classes=tuple(classes),
        names=names,
        labels=np.repeat(np.arange(len(classes)), counts),
        upright=upright,
        stamp=stamp.hexdigest(),
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


def files_below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Find the files anywhere below a folder, except ``is_stray`` ones, in the order of their paths, with their stats; links are
    followed. Only the names in the folders on the way to a file are held.

    Raises UserError for a folder that cannot be read, or a link that leads back to a folder above it."""
    open_folders = [_Folder(str(folder))]
    while open_folders:
        directory = open_folders[-1]
        name = next(directory.names, None)
        if name is None:
            open_folders.pop()
            continue
        path = os.path.join(directory.path, name)  # noqa: PTH118 (a million paths)
        if name.endswith("/"):
            inner = _Folder(path[:-1])
            if any(inner.identity == other.identity for other in open_folders):
                raise UserError(f"{inner.path}: a link back to a folder above it; remove it")
            open_folders.append(inner)
            continue
        try:
            status = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:  # a dangling link; the decoder reports it by name
            status = os.lstat(path)
        yield path, status


class _Folder:
    """The names in a folder, sorted; those of folders end in a slash, with which they lie where the paths of their files belong."""

    def __init__(self, path: str):
        self.path = path
        try:
            status = os.stat(path)  # noqa: PTH116
            with os.scandir(path) as entries:
                names = [f"{e.name}/" if e.is_dir() else e.name for e in entries if not is_stray(e.name)]
        except OSError as error:
            raise UserError(f"{path}: this folder of images {unreadable(error)}") from error
        self.identity = (status.st_dev, status.st_ino)
        self.names = iter(sorted(names))
