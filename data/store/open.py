"""The store of a listing is opened, after it is built if it is missing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from common.distributed import is_main
from common.download import cache_root
from common.errors import UserError, why
from common.files import as_file_name, size_in_words
from common.lock import owned_lock
from common.progress import Console
from data.store.build import DATA, Builder, remove_begun, remove_unused
from data.store.decode import kept_size
from data.store.index import key_of, read_store
from data.store.listing import Listing
from data.store.older import take_over
from data.store.store import ImageStore

#: Headers read to estimate a store's size, and the part of the free space that it may take.
HEADERS = 256
PART_OF_FREE_SPACE = 0.95


def open_store(
    listing: Listing,
    short_side: int | None,
    cache: Path | None,
    progress: bool,
    stream: bool = False,
    build: bool = True,
) -> ImageStore | None:
    """Open the store of a listing. It is built if missing, or if the source (names, sizes, times, labels) or ``short_side`` has
    changed; one of several processes builds it.

    With ``stream``, or if a store would not fit on the disk, every image is decoded once to check it, and then anew whenever it
    is needed, unless a store exists.

    Without ``build``, None is returned in place of building.

    Raises UserError for refused data (see ``Listing.read``), no usable image, and a full or read-only cache folder.
    """
    source = hashlib.sha256(os.fsencode(listing.root.resolve())).hexdigest()[:12]
    name = f"{as_file_name(listing.data)}-{listing.split}-{short_side or 'full'}-{source}"
    folder = cache_root(cache) / name
    key = key_of(listing, short_side)
    console = Console(stderr=True, quiet=not is_main(), soft_wrap=True, highlight=False)
    try:
        store = read_store(folder, key, listing, short_side)
        if not build:
            return store or read_store(folder / "streamed", key, listing, short_side)
        if store is None:
            with owned_lock(folder / "lock", lambda owner: console.print(f"waiting for {owner}, which builds {name}")):
                store = _finished(folder, key, listing, short_side, progress)
                needed = _bytes_needed(listing, short_side) if store is None and not stream else None
                if reason := _too_large(folder, needed):
                    console.print(f"{listing.data} {listing.split}: {reason}")
                    stream = True
                if store is None and stream:
                    remove_begun(folder)  # it may be what fills the disk
                    folder = folder / "streamed"
                    store = _finished(folder, key, listing, short_side, progress)
                if store is None:
                    what = f"{len(listing.names):,} images of {listing.data} {listing.split}"
                    building = f"checking {what}, which are not kept; notes go" if stream else f"decoding {what}"
                    size = "" if stream or needed is None else f", about {size_in_words(needed)}"
                    console.print(f"{building} to {folder}{size}")
                    Builder(folder, key, listing, short_side, keep=not stream).run(progress and is_main())
                    store = read_store(folder, key, listing, short_side)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            f"{folder}: the image store cannot be written or read ({why(error)}); "
            + ("free some space, train with --stream, which keeps no images, or " if full else "")
            + "set SSL_COMPARE_CACHE to another folder"
        ) from error
    if store.damaged:
        shown = "; ".join(f"{name} ({reason})" for name, reason in store.damaged[:3])
        rest = f"; … (python run.py data {listing.data} lists all)" if len(store.damaged) > 3 else ""
        console.print(
            f"{listing.data} {listing.split}: {len(store):,} images, {len(store.damaged):,} more skipped: {shown}{rest}",
        )
    if not store.upright and (turned := int((store.turns > 1).sum())):
        console.print(
            f"{listing.data} {listing.split}: {turned:,} photos carry an EXIF orientation; their pixels are taken as stored, "
            "as published numbers are made"
        )
    return store


def _finished(folder: Path, key: str, listing: Listing, short_side: int | None, progress: bool) -> ImageStore | None:
    """The store in a folder, or the one that an older version made of the same pixels."""
    store = read_store(folder, key, listing, short_side)
    return store or take_over(folder, key, listing, short_side, progress and is_main())


def _bytes_needed(listing: Listing, short_side: int | None) -> int | None:
    """Estimate a store's size by some images; None if none can be read."""
    rows = np.unique(np.linspace(0, len(listing.names) - 1, HEADERS).astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # data.store.decode refuses such images itself
        sizes = [size for row in rows if (size := _bytes_of(listing, row, short_side)) is not None]
    return round(sum(sizes) / len(sizes) * len(listing.names)) if sizes else None  # the build will say why


def _too_large(folder: Path, needed: int | None) -> str | None:
    """Explain why a store of so many bytes would not fit on the disk; None if it would. An older store of the same images, which
    nobody reads, makes room for it."""
    if needed is None:
        return None
    begun = folder / DATA
    already = begun.stat().st_size if begun.exists() else 0

    def free() -> int:
        return shutil.disk_usage(folder).free + already

    if needed <= PART_OF_FREE_SPACE * free():
        return None
    used = remove_unused(folder)
    if needed <= PART_OF_FREE_SPACE * free():
        return None
    older = "".join(
        f"; an older store of them, {size_in_words(path.stat().st_size)}, cannot be removed, since a process reads it: {path}"
        for path in used
    )
    return (
        f"decoded, the images would take about {size_in_words(needed)}, and {size_in_words(free())} are free at {folder.parent}; "
        f"so they are decoded once now, to check them, and anew for each batch{older}"
    )


def _bytes_of(listing: Listing, row: int, short_side: int | None) -> int | None:
    """Bytes of an image and its mask in a store, by the image's header; None if that cannot be read."""
    size = listing.size(row)
    if size is None:
        return None
    height, width = size
    kept_width, kept_height = kept_size(width, height, short_side)
    return 3 * kept_width * kept_height + (0 if listing.masks is None else width * height)
