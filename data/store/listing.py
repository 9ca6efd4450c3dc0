"""What a data set's split consists of, before any image is decoded."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import numpy as np

from common.errors import UserError, unknown_name
from data.store.decode import DamagedImage, Decoded, WrongData, check_file, decode_image, decode_mask, from_array

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One decoded image of a listing with what belongs to it: its class mask (uint8 ``[h, w]`` at the original size) and,
    where an image may have several labels, which (bool ``[classes]``); else None."""

    image: Decoded
    mask: np.ndarray | None
    label_set: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of one split, in a fixed order.

    Attributes:
        data, split: the data set's name; ``train`` or ``test``.
        root: folder that ``names``, ``masks`` and ``annotations`` are relative to.
        classes: class names; a label is an index into them. Mask value c + 1 is class c, and 0 the background.
        names: of the images.
        labels: int64 ``[n]``, or None where an image may have several labels: those come from its annotation, or else from
            the classes in its mask.
        masks: class masks, or None where the data set has none.
        annotations: VOC's XML files, or None.
        arrays: uint8 ``[n, H, W, 3]``: the images themselves, where they are not files of their own.
        stamp: hash over the names, sizes and modification times of the files; another one means another data set.
    """

    data: str
    split: str
    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: np.ndarray | None
    masks: list[str] | None = None
    annotations: list[str] | None = None
    arrays: np.ndarray | None = None
    stamp: str

    def __post_init__(self):
        if not self.names:
            raise UserError(f"{self.root}: no images for the {self.split} split of {self.data}")
        if self.labels is not None:
            wrong = np.flatnonzero((self.labels < -1) | (self.labels >= len(self.classes)))
            if len(wrong):
                raise UserError(
                    f"{self.root / self.names[wrong[0]]}: label {self.labels[wrong[0]]} is outside 0 to {len(self.classes) - 1}"
                )

    def read(self, index: int, short_side: int | None) -> Sample:
        """Decode one image, mask and annotation. Raises DamagedImage for an image to be skipped, WrongData for a mask or
        an annotation that makes the data set wrong, UserError where a file cannot be read."""
        image = self.image(index, short_side)
        mask = label_set = None
        if self.masks is not None:
            mask = self.mask(index, image.original_size)
        if self.annotations is not None:
            label_set = read_annotation(self.root / self.annotations[index], self.classes)
        elif self.labels is None:
            label_set = np.bincount(mask.ravel(), minlength=256)[1 : len(self.classes) + 1] > 0
        return Sample(image, mask, label_set)

    def image(self, index: int, short_side: int | None) -> Decoded:
        """Decode one image alone. Raises as ``data.store.decode.decode_image``."""
        if self.arrays is not None:
            return from_array(self.arrays[index], short_side)
        return decode_image(self.root / self.names[index], short_side)

    def mask(self, index: int, image_size: tuple[int, int]) -> np.ndarray:
        """Decode the mask of an image of that original (height, width). Raises as ``data.store.decode.decode_mask``."""
        return decode_mask(self.root / self.masks[index], len(self.classes) + 1, image_size)


def read_annotation(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    """Bool ``[classes]``: those of the objects in a VOC annotation that are not marked difficult, as VOC's classification
    task counts them. WrongData names the file where it is missing, no XML, or holds an unknown class."""
    try:
        check_file(path)
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError:
        raise WrongData(f"{path}: the annotation is missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (DamagedImage, ElementTree.ParseError, ValueError, LookupError) as error:
        raise WrongData(f"{path}: not XML ({error})") from error
    label_set = np.zeros(len(classes), bool)
    for item in objects:
        name = item.findtext("name", "").strip()
        if name not in classes:
            raise WrongData(f"{path}: unknown class {name!r} (known: {', '.join(classes)})")
        if item.findtext("difficult", "0").strip() != "1":
            label_set[classes.index(name)] = True
    return label_set


def read_lines(path: Path) -> list[str]:
    """The lines of a text file (UTF-8, at most 256 MiB), without their ends. UserError names a file that is something else."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > 2**28:
            raise UserError(f"{path}: no regular file, or more than 256 MiB; that is no list")
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8 text ({error.reason} at byte {error.start})") from error


def read_names(path: Path) -> list[str]:
    """The names in a list of images: one a line, none twice, each that of a file without its folder and suffix. UserError names the
    file and the line otherwise."""
    names, repeated = {}, []
    for number, line in enumerate(read_lines(path), 1):
        if not (name := line.strip()):
            continue
        if not re.fullmatch(r"[^\s/\\\x00-\x1f\x7f\ufffd]{1,200}", name) or name.startswith("."):
            raise UserError(
                f"{path}, line {number}: {name[:80]!r} is no name of an image (a word without folder and suffix)"
            )
        if name in names:
            repeated.append(name)
        names[name] = number
    if repeated:
        raise UserError(
            f"{path}: {len(repeated)} of its names stand there twice ({repeated[0]} last in line {names[repeated[0]]})"
        )
    return list(names)


def stamp_of(entries: Iterable[tuple[str, os.stat_result]]) -> str:
    """Hash over names, sizes and modification times."""
    digest = hashlib.sha256()
    for name, found in entries:
        digest.update(os.fsencode(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0"))
    return digest.hexdigest()


def of_split(choices: dict[str, T], split: str) -> T:
    """``choices[split]``; UsageError names the known splits otherwise."""
    if split not in choices:
        raise unknown_name("split", split, choices)
    return choices[split]


def require_folder(data: str, root: Path | None) -> Path:
    """The data set's folder, or a UserError saying which one to give."""
    if root is None:
        raise UserError(f"the data set {data} needs its folder: --data_root DIR")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (--data_root of {data})")
    return root.absolute()
