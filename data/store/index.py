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
from data.store.store import ImageStore
from data.store.stream import StreamedStore

#: Part of every store's key: raise it when stores hold something else for the same source.
FORMAT = 2
INDEX = "index.npz"


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
        pixels = None if streamed else _mapped(path)
        records, label_sets = index["records"], index.get("label_sets")
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if pixels is None and not streamed:
        return None
    damaged = [(listing.names[row], reason) for row, reason in about["skipped"]]
    converted = [(listing.names[row], note) for row, note in about["converted"]]
    kind = StreamedStore if streamed else ImageStore
    return kind(listing, short_side, pixels, records, label_sets, damaged, converted)


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
