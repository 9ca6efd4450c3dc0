"""The index of a finished store: ``index.npz`` beside its pixels, under a key that changes with the source."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from common.files import atomic_file, read_arrays
from data.store.listing import Listing
from data.store.store import RECORD, ImageStore
from data.store.stream import StreamedStore

#: Part of every store's key: raise it when stores hold something else for the same source.
FORMAT = 2
INDEX = "index.npz"
#: No image has a longer side in pixels, so that the sums below cannot overflow.
MOST_SIDE = 2**24


def key_of(listing: Listing, short_side: int | None) -> str:
    """Hash everything that decides a store's content."""
    labels = "several" if listing.labels is None else hashlib.sha256(listing.labels.tobytes()).hexdigest()
    parts = [FORMAT, listing.stamp, short_side, listing.classes, labels]
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()


def pixel_file(folder: Path, key: str) -> Path:
    return folder / f"pixels-{key[:16]}.bin"


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
        "root": os.fsencode(listing.root).decode(errors="replace"),
        "bytes": size,
        "skipped": skipped,
        "converted": converted,
        "streamed": streamed,
    }
    arrays = {"records": records} if label_sets is None else {"records": records, "label_sets": label_sets}
    with atomic_file(folder / INDEX) as file:
        np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)


def read_store(folder: Path, key: str, listing: Listing, short_side: int | None) -> ImageStore | None:
    """Open the finished store in a folder; None if it is missing, damaged or of another key."""
    try:
        index = read_arrays(folder / INDEX)
        about = json.loads(index["about"].tobytes())
        path = pixel_file(folder, key)
        if about["key"] != key or path.stat().st_size != about["bytes"]:
            return None
        streamed = about.get("streamed", False)
        records, label_sets = index["records"], index.get("label_sets")
        _check(about, records, label_sets, listing, short_side)
        pixels = None if streamed else _mapped(path)
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if pixels is None and not streamed:
        return None
    damaged = [(listing.names[row], reason) for row, reason in about["skipped"]]
    converted = [(listing.names[row], note) for row, note in about["converted"]]
    kind = StreamedStore if streamed else ImageStore
    return kind(listing, short_side, pixels, records, label_sets, damaged, converted)


def _check(
    about: dict, records: np.ndarray, label_sets: np.ndarray | None, listing: Listing, short_side: int | None
) -> None:
    """Raise ValueError unless an index is as ``Builder`` writes it: each of the listing's images once, kept or skipped, in order,
    without a gap in the pixel file. What lies outside the file would be read from whatever memory is there."""
    if records.dtype != RECORD or records.ndim != 1 or not len(records):
        raise ValueError("records of another form")
    if type(about.get("streamed", False)) is not bool:
        raise ValueError("streamed is no truth value")
    notes = [*about["skipped"], *about["converted"]]
    if not all(type(row) is int and isinstance(words, str) for row, words in notes):
        raise ValueError("notes of another form")
    total, rows = len(listing.names), records["row"]
    seen = np.sort(np.concatenate([rows, np.array([row for row, _ in about["skipped"]], np.int64)]))
    if not np.array_equal(seen, np.arange(total)) or (np.diff(rows) <= 0).any():
        raise ValueError("not the images of the listing")
    if not all(0 <= row < total for row, _ in about["converted"]):
        raise ValueError("notes on other images")
    size, original = records["size"].astype(np.int64), records["original_size"].astype(np.int64)
    if size.min() < 1 or max(size.max(), original.max()) > MOST_SIDE or (size > original).any():
        raise ValueError("sizes that no image has")
    resized = (size != original).any(axis=1)
    if resized.any() and (short_side is None or (size[resized].min(axis=1) != short_side).any()):
        raise ValueError("images of another short side")
    if (label_sets is None) != (listing.labels is not None):
        raise ValueError("labels of another form")
    if label_sets is not None and (
        label_sets.dtype != bool or label_sets.shape != (len(records), len(listing.classes))
    ):
        raise ValueError("labels of another form")
    if about.get("streamed"):
        if (records["offset"] != -1).any() or (records["mask_offset"] != -1).any():
            raise ValueError("offsets without a file")
        return
    planes = 3 * size.prod(axis=1)
    masks = original.prod(axis=1) if listing.masks is not None else np.zeros_like(planes)
    ends = np.cumsum(planes + masks)
    mask_offsets = ends - masks if listing.masks is not None else np.full_like(planes, -1)
    offsets = ends - masks - planes
    if (records["offset"] != offsets).any() or (records["mask_offset"] != mask_offsets).any():
        raise ValueError("offsets of another file")
    if ends[-1] != about["bytes"]:
        raise ValueError("a file of another size")


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
