"""Stores that an older version made, without hashes of their images' files and without turns, keep the pixels that they hold."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.ahead import ahead
from common.environment import processors
from common.errors import UserError
from common.progress import working
from data.store.decode import DamagedImage
from data.store.index import Index, key_of, read_index, store_of
from data.store.listing import Listing
from data.store.store import RECORD, ImageStore

#: ``data.store.index.FORMAT`` of such stores.
OLDER = 2
OLDER_RECORD = np.dtype([(name, RECORD[name]) for name in RECORD.names if name not in ("source", "turn")])


def take_over(folder: Path, key: str, listing: Listing, short_side: int | None, progress: bool) -> ImageStore | None:
    """Open an older store of a listing, after one pass over the images' files, which decodes none, and write its index anew.

    None if there is none, or it may hold other pixels than would be decoded now: photos are turned upright since then, some files
    are read that were skipped, others refused that were read, and masks have further rules.
    """
    if listing.masks is not None:
        return None
    index = read_index(folder, key_of(listing, short_side, OLDER), listing, short_side, OLDER_RECORD)
    if index is None or any(_is_usable(listing, row) for row, _ in index.about["skipped"]):
        return None
    try:
        records = _completed(index, listing, progress)
    except (DamagedImage, UserError):  # the build will say which, and why
        return None
    if listing.upright and (records["turn"] > 1).any():
        return None
    index = replace(index, about={**index.about, "key": key}, records=records)
    with suppress(OSError):  # a folder that may only be read
        index.write(folder)
    return store_of(index, folder, listing, short_side)


def _completed(index: Index, listing: Listing, progress: bool) -> np.ndarray:
    """The records with each file's hash and turn."""
    records = np.zeros(len(index.records), RECORD)
    for name in OLDER_RECORD.names:
        records[name] = index.records[name]
    looks = ahead(listing.look_at, map(int, records["row"]), processors(), 4 * processors())
    with working(f"hashing the files of {listing.data} {listing.split}", len(records), show=progress) as work:
        for place, (source, turn) in enumerate(looks):
            records[place]["source"], records[place]["turn"] = np.frombuffer(source, np.uint8), turn
            work.advance(place + 1)
    return records


def _is_usable(listing: Listing, row: int) -> bool:
    """Whether an image that was skipped is one now."""
    try:
        listing.image(row, None)
    except DamagedImage:
        return False
    return True
