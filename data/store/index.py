"""The index of a finished store: ``index.npz`` beside its pixels, under a key that changes with the source."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.files import atomic_file, read_arrays
from data.store.listing import Listing
from data.store.names import place_type
from data.store.store import RECORD, ImageStore
from data.store.stream import StreamedStore

#: Part of every store's key: raise it when stores hold something else for the same source.
FORMAT = 3
INDEX = "index.npz"
#: No image has a longer side in pixels, so that the sums below cannot overflow.
MOST_SIDE = 2**24
#: Images checked together: what the check computes of each takes as much memory as its record.
_TOGETHER = 2**16


def key_of(listing: Listing, short_side: int | None, format: int = FORMAT) -> str:
    """Hash everything that decides a store's content."""
    labels = "several" if listing.labels is None else hashlib.sha256(np.ascontiguousarray(listing.labels)).hexdigest()
    parts = [format, listing.stamp, short_side, listing.classes, labels, *([listing.upright] if format > 2 else [])]
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()


def pixel_file(folder: Path, key: str) -> Path:
    return folder / f"pixels-{key[:16]}.bin"


@dataclass(frozen=True)
class Index:
    """What an index file holds.

    Attributes:
        about: the key, the pixel file's name and bytes, and rows of the listing that were skipped or converted, with why or how.
        records: ``data.store.store.RECORD``, one an image.
        label_sets: bool ``[n, classes]`` if an image may have several labels.
    """

    about: dict[str, Any]
    records: np.ndarray
    label_sets: np.ndarray | None

    def write(self, folder: Path) -> None:
        arrays = {"records": self.records}
        if self.label_sets is not None:
            arrays["label_sets"] = self.label_sets
        with atomic_file(folder / INDEX) as file:
            np.savez(file, about=np.frombuffer(json.dumps(self.about).encode(), np.uint8), **arrays)


def write_index(
    folder: Path,
    key: str,
    listing: Listing,
    records: np.ndarray,
    label_sets: np.ndarray | None,
    size: int,
    skipped: list[tuple[int, str]],
    converted: list[tuple[int, str]],
    streamed: bool,
) -> None:
    """Finish a store. ``size``: bytes of its pixel file; ``skipped``, ``converted``: row of the listing, and why or how."""
    about = {
        "key": key,
        "pixels": pixel_file(folder, key).name,
        "root": os.fsencode(listing.root).decode(errors="replace"),
        "bytes": size,
        "skipped": skipped,
        "converted": converted,
        "streamed": streamed,
    }
    Index(about, records, label_sets).write(folder)


def read_index(
    folder: Path, key: str, listing: Listing, short_side: int | None, record: np.dtype = RECORD
) -> Index | None:
    """Read a finished store's index; None if it is missing, damaged or of another key. ``record``: what the key's format has of an
    image."""
    try:
        arrays = read_arrays(folder / INDEX)
        about = json.loads(arrays["about"].tobytes())
        about.setdefault("pixels", pixel_file(folder, key).name)
        if not re.fullmatch(r"pixels-[0-9a-f]{16}\.bin", about["pixels"]):
            raise ValueError("no pixel file")
        if about["key"] != key or _pixels_of(folder, about).stat().st_size != about["bytes"]:
            return None
        index = Index(about, arrays["records"], arrays.get("label_sets"))
        if index.records.dtype != record:
            raise ValueError("records of another form")
        _check(about, index.records, index.label_sets, listing, short_side)
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError):
        return None
    return index


def _pixels_of(folder: Path, about: dict[str, Any]) -> Path:
    return folder / about["pixels"]


def store_of(index: Index, folder: Path, listing: Listing, short_side: int | None) -> ImageStore | None:
    """Map a store's pixels; None if another process removed them meanwhile."""
    streamed, pixels = index.about.get("streamed", False), None
    if not streamed:
        try:
            pixels = _mapped(_pixels_of(folder, index.about))
        except (FileNotFoundError, ValueError):
            return None
        if pixels is None:
            return None
    damaged = [(listing.names[row], reason) for row, reason in index.about["skipped"]]
    rows_of: dict[str, list[int]] = {}
    for row, how in index.about["converted"]:  # which may be all, such as greyscale images
        rows_of.setdefault(how, []).append(row)
    places = place_type(len(listing.names))
    converted = {how: listing.names.at(np.array(rows, places)) for how, rows in rows_of.items()}
    kind = StreamedStore if streamed else ImageStore
    return kind(listing, short_side, pixels, index.records, index.label_sets, damaged, converted)


def read_store(folder: Path, key: str, listing: Listing, short_side: int | None) -> ImageStore | None:
    """Open the finished store in a folder; None if it is missing, damaged or of another key."""
    index = read_index(folder, key, listing, short_side)
    return None if index is None else store_of(index, folder, listing, short_side)


def _check(
    about: dict, records: np.ndarray, label_sets: np.ndarray | None, listing: Listing, short_side: int | None
) -> None:
    """Raise ValueError unless an index is as ``Builder`` writes it: each of the listing's images once, kept or skipped, in order,
    without a gap in the pixel file. What lies outside the file would be read from whatever memory is there."""
    if records.ndim != 1 or not len(records):
        raise ValueError("records of another form")
    if "turn" in records.dtype.names and not ((records["turn"] >= 1) & (records["turn"] <= 8)).all():
        raise ValueError("orientations that EXIF has not")
    if type(about.get("streamed", False)) is not bool:
        raise ValueError("streamed is no truth value")
    notes = [*about["skipped"], *about["converted"]]
    if not all(type(row) is int and isinstance(words, str) for row, words in notes):
        raise ValueError("notes of another form")
    total, rows = len(listing.names), records["row"]
    skipped = np.array([row for row, _ in about["skipped"]], np.int64)
    if ((skipped < 0) | (skipped >= total)).any() or len(rows) + len(skipped) != total:
        raise ValueError("not the images of the listing")
    if not np.array_equal(rows, np.delete(np.arange(total, dtype=place_type(total)), skipped)):
        raise ValueError("not the images of the listing")
    if not all(0 <= row < total for row, _ in about["converted"]):
        raise ValueError("notes on other images")
    if (label_sets is None) != (listing.labels is not None):
        raise ValueError("labels of another form")
    if label_sets is not None and (
        label_sets.dtype != bool or label_sets.shape != (len(records), len(listing.classes))
    ):
        raise ValueError("labels of another form")
    end = 0
    for start in range(0, len(records), _TOGETHER):
        end = _check_images(records[start : start + _TOGETHER], end, about, listing, short_side)
    if not about.get("streamed") and end != about["bytes"]:
        raise ValueError("a file of another size")


def _check_images(records: np.ndarray, begin: int, about: dict, listing: Listing, short_side: int | None) -> int:
    """``_check`` the sizes of some images and where they are. ``begin``: where the first has to be; returns where they end."""
    size, original = records["size"].astype(np.int64), records["original_size"].astype(np.int64)
    if size.min() < 1 or max(size.max(), original.max()) > MOST_SIDE or (size > original).any():
        raise ValueError("sizes that no image has")
    resized = (size != original).any(axis=1)
    if resized.any() and (short_side is None or (size[resized].min(axis=1) != short_side).any()):
        raise ValueError("images of another short side")
    if about.get("streamed"):
        if (records["offset"] != -1).any() or (records["mask_offset"] != -1).any():
            raise ValueError("offsets without a file")
        return begin
    planes = 3 * size.prod(axis=1)
    masks = original.prod(axis=1) if listing.masks is not None else np.zeros_like(planes)
    ends = begin + np.cumsum(planes + masks)
    mask_offsets = ends - masks if listing.masks is not None else np.full_like(planes, -1)
    offsets = ends - masks - planes
    if (records["offset"] != offsets).any() or (records["mask_offset"] != mask_offsets).any():
        raise ValueError("offsets of another file")
    return int(ends[-1])


def _mapped(path: Path) -> np.ndarray | None:
    """Map a pixel file, and mark it as in use for as long as the map lives; None if it was removed meanwhile."""
    with open(path, "rb") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink == 0:
            return None
        return np.asarray(np.memmap(file, np.uint8, mode="r"))  # its own descriptor keeps the lock


def is_in_use(pixels: Path) -> bool:
    """Whether a process, on any machine, has mapped a pixel file; also where that cannot be told, as of another user's file."""
    try:
        with open(pixels, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
