"""Data sets by name: their images in a store, or the files of a benchmark. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UsageError, UserError
from common.progress import working
from data.sets.core.base import DATASETS, DataSet, require_folder
from data.sets.core.benchmark import Benchmark
from data.store.listing import Listing

if TYPE_CHECKING:
    from data.store.store import ImageStore

_listings: ContextVar[dict[tuple, Listing] | None] = ContextVar("listings", default=None)


def default_image_size(name: str) -> int:
    """Side in pixels of crops and evaluation images where the user gives none. Raises UsageError for an unknown name, and
    for a data set whose side is no whole number."""
    side = DATASETS.get(name).image_size
    if not isinstance(side, int):
        raise UsageError(
            f"the data set {name}: image_size {side} is not the side of a square in pixels; give one whole number"
        )
    return side


def open_benchmark(name: str, root: Path | None) -> Benchmark:
    """Open a benchmark. Raises UserError for a missing folder, and for incomplete or wrong data."""
    return DATASETS.get(name)(name, require_folder(name, root))


def list_images(name: str, split: str, root: Path | None, cache: Path | None = None, progress: bool = True) -> Listing:
    """List the images of a split without decoding any; arguments and errors are those of ``open_dataset``."""
    kept = _listings.get()
    key = (name, split, None if root is None else Path(root).expanduser().absolute(), cache)
    if kept is not None and key in kept:
        return kept[key]
    with working(f"listing the images of {name} {split}", show=progress):
        listing = _data_set(name, root, cache).listing(split)
    if kept is not None:
        kept[key] = listing
    return listing


@contextmanager
def listing_once() -> Iterator[None]:
    """Inside, each split is listed once, since looking at 1,000,000 files takes seconds; decorates a command. What has changed when
    the next command begins is seen."""
    kept = _listings.get()
    token = _listings.set({} if kept is None else kept)
    try:
        yield
    finally:
        _listings.reset(token)


def open_dataset(
    name: str,
    split: str,
    root: Path | None,
    short_side: int | None,
    cache: Path | None = None,
    progress: bool = True,
    stream: bool = False,
    build: bool = True,
) -> ImageStore | None:
    """Open the images of a split, decoded on first use and kept on the disk where they fit.

    Args:
        split: ``train``, or ``test``, which may be a data set's validation images.
        root: the data set's folder; ``demo`` needs none.
        short_side: images with a longer short side are resized to it (pixels); None keeps all sizes.
        cache: folder of the stores; see ``common.download.cache_root`` for the default.
        stream: keep no images; decode them anew each time.
        build: without it, None is returned in place of a store that would have to be built.

    Raises:
        UsageError: unknown data set, or a benchmark.
        UserError: missing, incomplete or wrong data.
    """
    from data.store.open import open_store  # imports torch

    if short_side is not None and short_side < 2:
        raise UserError(f"short_side is {short_side}; give at least 2 pixels")
    return open_store(list_images(name, split, root, cache, progress), short_side, cache, progress, stream, build)


def splits_of(name: str, root: Path | None, cache: Path | None = None) -> tuple[str, ...]:
    """The splits that a data set has. Arguments and errors are ``open_dataset``'s."""
    return _data_set(name, root, cache).splits()


def no_labels(data: str, split: str) -> UserError:
    """The error of an evaluation that compares images by labels."""
    return UserError(f"{data}: no image of the {split} split has a label, so nothing can be classified there")


def require_same_classes(data: str, train: Sequence[str], test: Sequence[str]) -> None:
    """Raise UserError if the splits of a data set have different classes."""
    if tuple(train) != tuple(test):
        raise UserError(
            f"{data}: the training and test splits have different classes; give a data set with the same in both"
        )


def _data_set(name: str, root: Path | None, cache: Path | None) -> DataSet:
    kind = DATASETS.get(name)
    if kind.is_benchmark:
        raise UsageError(f"{name} has no training images and no labels; run.py evaluate --data {name} measures on it")
    if kind.takes_name:
        if root is not None:
            raise UsageError(f"--data {name} names its own place; leave --data_root out")
        return kind(name, None)
    if root is None and kind.make_folder is not None:
        with working(f"making the images of {name}"):
            root = kind.make_folder(cache)
    return kind(name, require_folder(name, root))


def fetch(name: str, root: Path | None) -> None:
    """Download a data set's missing files into its folder. Raises UsageError for a data set or call that cannot."""
    kind = DATASETS.get(name)
    if kind.fetch is None:
        whole = [other for other in DATASETS.names() if not DATASETS.facts(other).get("takes_name")]
        able = ", ".join(other for other in whole if DATASETS.get(other).fetch is not None)
        reason = "needs no files" if kind.make_folder is not None else "comes from elsewhere"
        raise UsageError(f"--download fetches {able} only; {name} {reason}")
    if root is None:
        raise UsageError("--download needs the folder to put the data set into: --data_root DIR")
    kind.fetch(Path(root).expanduser())
