"""The image store keeps a decoded split as uint8 in one memory-mapped file. A batch is a gather by index."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.class_names import readable
from common.errors import UserError
from common.names import hash_of
from data.store.decode import DamagedImage
from data.store.listing import Listing
from data.store.names import Names, place_type

#: The record of each image. Offsets are bytes in the memory-mapped file, which holds images as [3, height, width] and masks as
#: [original height, original width]; mask_offset is -1 without a mask.
RECORD = np.dtype(
    [
        ("row", "<i8"),  # in the listing
        ("offset", "<i8"),
        ("size", "<i4", 2),
        ("original_size", "<i4", 2),
        ("mask_offset", "<i8"),
        ("digest", "u1", 16),
        ("mask_digest", "u1", 16),
        ("source", "u1", 16),  # hash of the image's file
        ("turn", "u1"),  # the EXIF orientation that it carries, whether applied or not
    ]
)

#: A batch takes at most so many times the memory of its images' own pixels.
MOST_PADDING = 4
#: Images hashed together: what a hash takes in is not held once more.
_TOGETHER = 2**16


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes, in one tensor, or in several where padding would multiply their memory.

    Attributes:
        blocks: rows of the batch, int64 ``[n]``, on the CPU, and their pixels, uint8 ``[n, 3, Hmax, Wmax]``, zero below and to the
            right of each image. Each row is in one block.
        sizes: int64 ``[B, 2]``: heights and widths in pixels, always on the CPU, which plans crops.
    """

    blocks: tuple[tuple[Tensor, Tensor], ...]
    sizes: Tensor

    @classmethod
    def padded(cls, pixels: Tensor, sizes: Tensor) -> ImageBatch:
        """A batch in one tensor, uint8 ``[B, 3, Hmax, Wmax]``."""
        return cls(((torch.arange(len(pixels)), pixels),), sizes)

    @property
    def pixels(self) -> Tensor:
        """uint8 ``[B, 3, Hmax, Wmax]`` of a batch in one tensor; raises ValueError for another."""
        ((_, pixels),) = self.blocks
        return pixels

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.blocks[0][1].device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """Move the pixels to another device."""
        return self._map(lambda pixels: pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ImageBatch:
        """Copy the pixels to memory that a GPU reads by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        return ImageBatch(tuple((rows, change(pixels)) for rows, pixels in self.blocks), self.sizes)


class ImageStore:
    """The images of a split, or some of them; ``data.datasets.open_dataset`` opens it.

    Attributes:
        listing: the split's images before any was decoded.
        classes: class names; a label is an index into them.
        titles: names of the classes for readers, such as the words of ImageNet's synsets.
        short_side: images with a longer shorter side were resized to it (pixels); None: all have their original size.
        damaged: (name, reason) of the split's skipped images.
        converted: names of the split's images that were not RGB, by how they were converted.
    """

    def __init__(
        self,
        listing: Listing,
        short_side: int | None,
        pixels: np.ndarray | None,
        records: np.ndarray,
        label_sets: np.ndarray | None,
        damaged: list[tuple[str, str]],
        converted: dict[str, Names],
    ):
        self.listing = listing
        self._pixels = pixels
        self._records = records
        self.name = listing.data
        self.split = listing.split
        self.classes = listing.classes
        self.titles = readable(listing.classes)
        self.short_side = short_side
        self._label_sets = label_sets
        if label_sets is not None:
            self._labels = np.where(label_sets.sum(axis=1) == 1, label_sets.argmax(axis=1), -1).astype(np.int64)
        elif len(records) == len(listing.names):
            self._labels = listing.labels
        else:
            self._labels = listing.labels[records["row"]]
        self.damaged = damaged
        self.converted = converted
        self._grid = None if pixels is None else _equal_images(pixels, records)
        # Parts of a store share all this, and say by their places which images they have; None: all.
        self._places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._records if self._places is None else self._places)

    def _of(self, array: np.ndarray) -> np.ndarray:
        """This store's entries of an array with one for each record; a copy only for a part of a store."""
        return array if self._places is None else array[self._places]

    def _at(self, indices: np.ndarray | int) -> np.ndarray | int:
        """Places of images in the arrays that parts of a store share."""
        return indices if self._places is None else self._places[indices]

    @property
    def labels(self) -> np.ndarray:
        """int64 ``[n]``; -1: unlabelled, or not exactly one label. A part of a store puts them together anew each time; see
        ``label_of``."""
        return self._of(self._labels)

    @property
    def label_sets(self) -> np.ndarray | None:
        """bool ``[n, classes]`` if an image may have several labels, else None."""
        return None if self._label_sets is None else self._of(self._label_sets)

    def label_of(self, indices: np.ndarray) -> np.ndarray:
        """The labels at ``indices [B]``: int64 ``[B]``, or bool ``[B, classes]`` if an image may have several."""
        return (self._labels if self._label_sets is None else self._label_sets)[self._at(indices)]

    @property
    def original_sizes(self) -> np.ndarray:
        """int ``[n, 2]``: heights and widths of the source images in pixels."""
        return self._of(self._records["original_size"])

    @property
    def digests(self) -> np.ndarray:
        """uint8 ``[n, 16]``: equal for equal pixels."""
        return self._of(self._records["digest"])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def labelled(self) -> np.ndarray:
        """Which images have a label, or one at least of several: bool ``[n]``."""
        return self.labels >= 0 if self.label_sets is None else self.label_sets.any(axis=1)

    @cached_property
    def names(self) -> Names:
        """Paths relative to ``root``: stable ids of the images."""
        if len(self._records) < len(self.listing.names):
            return self.listing.names.at(self._of(self._records["row"].astype(place_type(len(self.listing.names)))))
        return self.listing.names if self._places is None else self.listing.names.at(self._places)

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the decoded pixels, masks and labels, in order."""
        return self._hash(self.classes, "digest")

    @cached_property
    def source(self) -> str:
        """Hash over what the pixels come from, in order: names, files, masks and labels. Equal at every ``short_side``."""
        return self._hash(chain(self.classes, self.names), "source")

    def _hash(self, names: Iterable[str], of_images: str) -> str:
        digest = hash_of(names, "\0")
        records = self._records
        for array in (records[of_images], records["mask_digest"], self._labels, self._label_sets):
            if array is None:
                digest.update(b"-")
                continue
            for start in range(0, len(self), _TOGETHER):
                part = slice(start, min(start + _TOGETHER, len(self)))
                digest.update(np.ascontiguousarray(array[self._at(part)]))
        return digest.hexdigest()[:16]

    @property
    def turns(self) -> np.ndarray:
        """EXIF orientations of the photos, uint8 ``[n]``, 1 to 8; applied if ``upright``."""
        return self._of(self._records["turn"])

    @property
    def upright(self) -> bool:
        """Whether photos are turned by their EXIF orientation."""
        return self.listing.upright

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return self.listing.root

    @property
    def has_masks(self) -> bool:
        return self.listing.masks is not None

    def name_classes(self, file: str | Path | None) -> None:
        """Give the classes the names of a file. Raises UserError if it does not name all (``common.class_names``)."""
        self.titles = readable(self.classes, file)

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the mask values 0, 1, …."""
        return ("background", *self.titles)

    def batch(self, indices: np.ndarray | Tensor) -> ImageBatch:
        """Gather the images at ``indices [B]``, in any order, perhaps repeated. Raises IndexError outside 0 to n - 1."""
        rows = np.asarray(indices, np.int64).reshape(-1)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"image indices from {rows.min()} to {rows.max()}; the store holds 0 to {len(self) - 1}")
        sizes = self._records["size"][self._at(rows)].astype(np.int64)
        if self._grid is not None:
            pixels = np.empty((len(rows), *self._grid.shape[1:]), np.uint8)
            np.take(self._grid, self._at(rows), axis=0, out=pixels, mode="clip")
            return ImageBatch.padded(torch.from_numpy(pixels), torch.from_numpy(sizes))
        blocks, corners = [], {}
        for members in _blocks(sizes):
            own = sizes[members]
            height, width = own.max(axis=0) if len(members) else (0, 0)
            # numpy asks the system for huge pages, unlike torch, so the first write is several times as fast.
            new = np.empty if (own == (height, width)).all() else np.zeros
            pixels = new((len(members), 3, height, width), np.uint8)
            for place, image, (h, w) in zip(members.tolist(), pixels, own.tolist(), strict=True):
                corners[place] = image[:, :h, :w]
            blocks.append((torch.from_numpy(members), torch.from_numpy(pixels)))
        self._fill([corners[place] for place in range(len(rows))], rows.tolist())
        return ImageBatch(tuple(blocks), torch.from_numpy(sizes))

    def _fill(self, targets: list[np.ndarray], rows: list[int]) -> None:
        """Write images into arrays of their sizes, uint8 ``[3, h, w]``."""
        for target, row in zip(targets, rows, strict=True):
            target[:] = self._planes(row)

    def _planes(self, index: int) -> np.ndarray:
        """uint8 ``[3, h, w]``."""
        record = self._records[self._at(index)]
        h, w = record["size"].tolist()
        offset = int(record["offset"])
        return self._pixels[offset : offset + 3 * h * w].reshape(3, h, w)

    def image(self, index: int) -> np.ndarray:
        """uint8 ``[H, W, 3]`` as stored."""
        return np.ascontiguousarray(self._planes(index).transpose(1, 2, 0))

    def original_image(self, index: int) -> np.ndarray:
        """uint8 ``[H, W, 3]`` at full resolution, read from the source. Raises UserError if that cannot be read any more."""
        try:
            return self.listing.image(self._records[self._at(index)]["row"], None).pixels
        except DamagedImage as error:
            raise UserError(f"{self.names[index]} of {self.name} cannot be read any more: {error}") from error

    def mask(self, index: int) -> np.ndarray | None:
        """uint8 ``[H, W]`` at the original resolution: 0 background, c + 1 class c, 255 void; None without masks."""
        record = self._records[self._at(index)]
        if record["mask_offset"] < 0:
            return None
        h, w = record["original_size"].tolist()
        return self._pixels[record["mask_offset"] : record["mask_offset"] + h * w].reshape(h, w).copy()

    def subset(self, indices: np.ndarray | Tensor) -> ImageStore:
        """A store of the images at ``indices [m]``, in this order, on the same file."""
        part = copy.copy(self)
        for of_images in ("names", "fingerprint", "source"):
            part.__dict__.pop(of_images, None)
        rows = np.asarray(indices).reshape(-1)
        places = self._places
        if places is None:
            places = np.arange(len(self._records), dtype=place_type(len(self._records)))
        part._places = places[rows if rows.dtype.kind in "iu" else rows.astype(np.int64)]
        return part


def shared_content(a: ImageStore, b: ImageStore) -> list[tuple[str, str]]:
    """Pair names of images in ``a`` and in ``b`` with equal pixels (the first of each)."""
    first: dict[bytes, int] = {}
    for place, digest in enumerate(b.digests):
        first.setdefault(digest.tobytes(), place)
    # By their halves, which numpy compares, some of the larger set at a time; few are left to look up.
    halves = np.sort(np.ascontiguousarray(b.digests).view("<u8")[:, 0])
    found = []
    for start in range(0, len(a), _TOGETHER):
        part = np.ascontiguousarray(a.digests[start : start + _TOGETHER])
        own = part.view("<u8")[:, 0]
        likely = halves[np.minimum(np.searchsorted(halves, own), len(halves) - 1)] == own
        for row in np.flatnonzero(likely).tolist():
            if (place := first.pop(part[row].tobytes(), None)) is not None:
                found.append((a.names[start + row], b.names[place]))
    return found


def _blocks(sizes: np.ndarray) -> list[np.ndarray]:
    """Rows of ``sizes [B, 2]`` to pad to one size each: all together, unless a few long images would make the rest large."""
    area = sizes.prod(axis=1).sum()
    if len(sizes) * sizes.max(axis=0, initial=0).prod() <= MOST_PADDING * area:
        return [np.arange(len(sizes))]
    # Images whose heights, and whose widths, lie between the same powers of two: padded to less than four times their own pixels.
    kinds = np.frexp(sizes)[1]
    return [np.flatnonzero((kinds == kind).all(axis=1)) for kind in np.unique(kinds, axis=0)]


def _equal_images(pixels: np.ndarray, records: np.ndarray) -> np.ndarray | None:
    """View images of one size, at equal distances in the file, as one array ``[n, 3, H, W]``; None for others."""
    sizes, offsets = records["size"], records["offset"]
    if not (sizes == sizes[0]).all():
        return None
    h, w = sizes[0].tolist()
    step = int(offsets[1] - offsets[0]) if len(offsets) > 1 else 3 * h * w
    if not (np.diff(offsets) == step).all():
        return None
    start = pixels[offsets[0] :]
    return np.lib.stride_tricks.as_strided(start, (len(offsets), 3, h, w), (step, h * w, w, 1), writeable=False)
