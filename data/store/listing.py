"""The images, masks and labels of a data set's split, before any is decoded."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.store.decode import DamagedImage, Decoded, decode_image, from_array, look_at, opened, read_annotation
from data.store.masks import decode_mask
from data.store.names import Names


@dataclass(frozen=True)
class Sample:
    """One decoded image of a listing.

    Attributes:
        mask: uint8 ``[h, w]`` at the original size; None without masks.
        label_set: bool ``[classes]``; None where an image has one label.
    """

    image: Decoded
    mask: np.ndarray | None
    label_set: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of one split, in a fixed order.

    Attributes:
        data: the data set's name.
        root: folder that ``names`` (images), ``masks`` and ``annotations`` (VOC's XML files) are relative to.
        classes: label c is class c. Mask value c + 1 is class c, and 0 the background.
        labels: int64 ``[n]``; None if an image may have several, from its annotation or else its mask.
        arrays: uint8 ``[n, H, W, 3]``: the images, if they are not files of their own.
        encoded: returns the content of an image's file, or its path, by its index, if the images are in files that hold several.
        upright: photos are turned by their EXIF orientation, as every viewer shows them. False where published numbers come from
            the pixels as stored (torchvision's data sets do not turn), or boxes and masks belong to those.
        stamp: hash over names, sizes and modification times of the files; the store is built anew when it changes.
    """

    data: str
    split: str
    root: Path
    classes: tuple[str, ...]
    names: Sequence[str]
    labels: np.ndarray | None
    masks: list[str] | None = None
    annotations: list[str] | None = None
    arrays: np.ndarray | None = None
    encoded: Callable[[int], bytes | Path] | None = None
    upright: bool = True
    stamp: str

    def __post_init__(self):
        if not isinstance(self.names, Names):
            object.__setattr__(self, "names", Names(self.names))
        if not self.names:
            raise UserError(f"{self.root}: no images for the {self.split} split of {self.data}")
        if self.labels is not None:
            wrong = np.flatnonzero((self.labels < -1) | (self.labels >= len(self.classes)))
            if len(wrong):
                raise UserError(
                    f"{self.root / self.names[wrong[0]]}: label {self.labels[wrong[0]]} is outside 0 to {len(self.classes) - 1}"
                )

    def read(self, index: int, short_side: int | None) -> Sample:
        """Decode an image, its mask and its annotation. Raises DamagedImage for an image to skip, WrongData for a mask or an
        annotation that makes the data set wrong, UserError for a file that cannot be read."""
        image = self.image(index, short_side)
        mask = label_set = None
        if self.masks is not None:
            mask = self.mask(index, image.original_size, image.turn)
        if self.annotations is not None:
            label_set = read_annotation(self.root / self.annotations[index], self.classes)
        elif self.labels is None:
            label_set = np.bincount(mask.ravel(), minlength=256)[1 : len(self.classes) + 1] > 0
        return Sample(image, mask, label_set)

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width in pixels as an image's header tells them; None if it cannot be read, which decoding explains."""
        if self.arrays is not None:
            return self.arrays[index].shape[:2]
        try:
            with opened(self._file(index)) as (_, image):
                return image.height, image.width
        except (DamagedImage, UserError, OSError):
            return None

    def image(self, index: int, short_side: int | None) -> Decoded:
        """``decode_image`` alone."""
        if self.arrays is not None:
            return from_array(self.arrays[index], short_side)
        return decode_image(self._file(index), short_side, self.upright)

    def look_at(self, index: int) -> tuple[bytes, int]:
        """``data.store.decode.look_at`` for an image that was decoded before."""
        if self.arrays is not None:
            decoded = from_array(self.arrays[index])
            return decoded.source, decoded.turn
        return look_at(self._file(index), self.upright)

    def _file(self, index: int) -> Path | bytes:
        return self.root / self.names[index] if self.encoded is None else self.encoded(index)

    def mask(self, index: int, image_size: tuple[int, int], image_turn: int) -> np.ndarray:
        """``decode_mask`` alone; ``image_size`` is the original (height, width)."""
        classes = len(self.classes) + 1
        return decode_mask(self.root / self.masks[index], classes, image_size, image_turn, self.upright)


def below(root: Path, files: Iterable[tuple[str, os.stat_result]]) -> Iterator[tuple[str, os.stat_result]]:
    """Files with their paths relative to a folder, which all were made from. ``os.path.relpath`` is slow."""
    prefix = len(os.path.join(root, ""))  # noqa: PTH118 (pathlib drops the slash)
    return ((path[prefix:], status) for path, status in files)


class Stamp:
    """A listing's stamp, a hash over names, sizes and modification times, made on the way of the files into the listing: their
    stats, 700 bytes each, are not held.

    Attributes:
        count: of the files so far.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.count = 0

    def over(self, files: Iterable[tuple[str, os.stat_result]]) -> Iterator[str]:
        """The files' names, once each is counted."""
        for name, status in files:
            self._digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
            self.count += 1
            yield name

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def stamp_of(files: Iterable[tuple[str, os.stat_result]]) -> str:
    """The stamp of files that are listed already."""
    stamp = Stamp()
    for _ in stamp.over(files):
        pass
    return stamp.hexdigest()
