"""What a data set of n images takes to list, open, pair, order and search: a function each, which prepares the work to measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from data.datasets import list_images
from data.pairing import labelled, make_pairing
from data.sets.core import folders
from data.store.build import JOURNAL, Builder
from data.store.index import INDEX, Index, key_of, pixel_file, read_store
from data.store.listing import Listing
from data.store.names import Names
from data.store.open import open_store
from data.store.store import RECORD
from training.batches import ORDER, hold_out

#: Files of a class, images a batch, its views, and features of a small ViT.
OF_A_CLASS, BATCH, VIEWS, WIDTH = 1000, 1024, 10, 384
#: Sides of the photos: the commonest in ImageNet; and their short side in a store for crops of 224 pixels.
PHOTO, SHORT_SIDE = (500, 375), 448

#: Work to be measured: it is called several times, and what it returns is what is held.
Work = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Something that grows.

    Attributes:
        title: what is done, or held.
        sizes: numbers of images, each four times the one before.
        prepare: makes the work for a number of images, in an empty folder.
        memory: whether Python and numpy hold what it takes, so that its bytes can be counted.
        seen: torch holds it, so the memory of the process is looked at, where Linux tells it. How long a search takes is
            docs/performance.md's.
        files: the pattern of the files that it leaves in the folder, whose bytes are counted, too; "": none.
        once: the work is for a batch or a look-up, and should not grow.
    """

    title: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, Path], Work]
    memory: bool = True
    files: str = ""
    once: bool = False
    seen: bool = False


@contextmanager
def pretended_files(root: Path, images: int) -> Iterator[None]:
    """Below ``root`` there are classes with so many images in all, of which only the folders are real: files take 0.2 ms each to
    make."""
    count = -(-images // OF_A_CLASS)
    for number in range(count):
        (root / "train" / f"n{number:08}").mkdir(parents=True, exist_ok=True)
    status = root.stat()

    class Entry:
        def __init__(self, name: str):
            self.name = name

        def is_dir(self) -> bool:
            return False

    def scandir(path: str | Path) -> Any:
        name = Path(path).name
        if Path(path).parent != root / "train":
            return os.scandir(path)
        here = min(OF_A_CLASS, images - int(name[1:]) * OF_A_CLASS)
        return nullcontext(Entry(f"{name}_{number}.JPEG") for number in range(here))

    def stat(path: str) -> os.stat_result:
        return status if path.endswith(".JPEG") else os.stat(path)  # noqa: PTH116

    folders.os = SimpleNamespace(scandir=scandir, stat=stat, path=os.path)
    try:
        yield
    finally:
        folders.os = os


def labels_of(images: int) -> np.ndarray:
    return np.arange(images) // OF_A_CLASS


def listing_of(images: int) -> Listing:
    """The listing of files that do not exist."""
    names = (f"train/n{n // OF_A_CLASS:08}/n{n // OF_A_CLASS:08}_{n}.JPEG" for n in range(images))
    classes = tuple(f"n{c:08}" for c in range(-(-images // OF_A_CLASS)))
    about = {"data": "large", "split": "train", "root": Path("/large"), "stamp": "large"}
    return Listing(**about, classes=classes, names=Names(names), labels=labels_of(images))


def records_of(images: int) -> np.ndarray:
    """Records of checked images, of which no pixels are kept."""
    records = np.zeros(images, RECORD)
    records["row"] = np.arange(images)
    records["size"] = records["original_size"] = PHOTO
    records["offset"] = records["mask_offset"] = -1
    records["turn"] = 1
    records["digest"] = np.random.default_rng(0).integers(0, 256, (images, 16))
    return records


def listed(images: int, folder: Path) -> Work:
    def work() -> Listing:
        with pretended_files(folder, images):
            return folders.list_folder("imagefolder", "train", folder)

    return work


def listed_files(images: int, folder: Path) -> Work:
    for number in range(images):
        file = folder / "train" / f"n{number // OF_A_CLASS:08}" / f"{number}.JPEG"
        if number % OF_A_CLASS == 0:
            file.parent.mkdir(parents=True)
        os.close(os.open(file, os.O_CREAT))
    return lambda: folders.list_folder("imagefolder", "train", folder)


def paired(images: int, folder: Path) -> Work:
    labels = labels_of(images)
    return lambda: make_pairing("same_label", labels, None, VIEWS, None, labelled(labels, None, 1, 0))


def drawn(images: int, folder: Path) -> Work:
    pairing, rng = paired(images, folder)(), np.random.default_rng(0)
    anchors = rng.integers(0, images, BATCH)
    return lambda: pairing.sources(anchors, rng)


def few_labels(images: int, folder: Path) -> Work:
    labels = labels_of(images)
    return lambda: labelled(labels, None, 0.1, 0)


def ordered(images: int, folder: Path) -> Work:
    def work() -> np.ndarray:
        order = hold_out(images, 0)[0]
        np.random.default_rng([ORDER, 0, 0]).shuffle(order)
        return order

    return work


def _written(images: int, folder: Path) -> tuple[Listing, str]:
    """A listing, and the key of its checked store, which is written into the folder."""
    listing = listing_of(images)
    key = key_of(listing, None)
    pixel_file(folder, key).touch()
    about = {"key": key, "pixels": pixel_file(folder, key).name, "bytes": 0, "streamed": True}
    Index({**about, "skipped": [], "converted": []}, records_of(images), None).write(folder)
    return listing, key


def opened(images: int, folder: Path) -> Work:
    listing, key = _written(images, folder)
    return lambda: read_store(folder, key, listing, None)


def part(images: int, folder: Path) -> Work:
    listing, key = _written(images, folder)
    store = read_store(folder, key, listing, None)

    def work() -> Any:
        trained = store.subset(hold_out(images, 1)[0])
        return trained, len(trained.names)

    return work


def hashed(images: int, folder: Path) -> Work:
    listing, key = _written(images, folder)

    def work() -> tuple[str, str]:
        store = read_store(folder, key, listing, None)
        return store.fingerprint, store.source

    return work


def journalled(images: int, folder: Path) -> Work:
    """The journal of a build that was interrupted after its last image, as its continuation reads it."""
    listing = listing_of(images)
    key = key_of(listing, None)
    with open(folder / "building.bin", "wb") as data:
        begun = Builder(folder, key, listing, None, keep=False)
        begun._resume()
        for some in np.array_split(records_of(images), max(1, images // OF_A_CLASS)):
            begun.added["records"] += some.tobytes()
            begun._commit(data, int(some["row"][-1]) + 1)

    def work() -> Builder:
        builder = Builder(folder, key, listing, None, keep=False)
        builder._resume()
        assert builder.following == images
        return builder

    return work


def photos(images: int, folder: Path) -> Listing:
    """Photos as JPEG files, of a handful of different contents."""
    rng, (width, height) = np.random.default_rng(0), PHOTO
    files = []
    for number in range(8):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
        levels = np.asarray(smooth) + rng.normal(0, 10, (height, width, 3))
        file = folder / f"{number}.jpg"
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        files.append(file)
    for number in range(images):
        place = folder / "photos" / "train" / "all" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(files[number % len(files)])
    return folders.list_folder("imagefolder", "train", folder / "photos")


def _built(stream: bool) -> Callable[[int, Path], Work]:
    def prepare(images: int, folder: Path) -> Work:
        listing = photos(images, folder)
        return lambda: open_store(listing, SHORT_SIDE, folder / str(time.monotonic_ns()), False, stream)

    return prepare


def streamed(images: int, folder: Path) -> Work:
    store = open_store(photos(images, folder), SHORT_SIDE, folder / "cache", False, True)
    batches = np.array_split(np.arange(images), images // 32)
    return lambda: [len(store.batch(batch).sizes) for batch in batches]


def shards(images: int, folder: Path) -> Work | None:
    """The same photos in parquet files, read by ``hf:``; None without its packages."""
    try:
        import datasets
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return None
    datasets.config.HF_DATASETS_CACHE = folder / "cache"  # what it reads of the environment, it has read by now
    listing = photos(images, folder)
    rows = [{"bytes": (listing.root / name).read_bytes(), "path": name} for name in listing.names]
    (folder / "shards").mkdir()
    pq.write_table(pa.table({"image": rows}), folder / "shards" / "train-00000-of-00001.parquet")
    found = list_images(f"hf:{folder / 'shards'}", "train", None, progress=False)
    store = open_store(found, SHORT_SIDE, folder / "stores", False, True)
    batches = np.array_split(np.arange(images), images // 32)
    return lambda: [len(store.batch(batch).sizes) for batch in batches]


def features(images: int, folder: Path) -> Work:
    from eval.features.cache import ArrayCache

    rng = np.random.default_rng(0)

    def work() -> np.ndarray:
        cache = ArrayCache(folder / "features.npy", images)
        if not cache.path.exists():
            cache.begin(0)
            for rows in np.array_split(np.arange(images), images // OF_A_CLASS):
                cache.append(rng.normal(size=(len(rows), WIDTH)).astype(np.float32))
            cache.finish()
        return cache.load()

    work()
    return work


def searched(images: int, folder: Path) -> Work:
    import torch

    from eval.features.votes import knn_classify

    bank = torch.from_numpy(features(images, folder)())
    rows, labels = torch.arange(images), torch.from_numpy(labels_of(images))
    queries = torch.randn(16, WIDTH)
    return lambda: knn_classify(bank, labels, queries, [20], 0.07, int(labels[-1]) + 1, bank_rows=rows)


NAMES, ARRAYS, FILES = (5_000, 20_000, 80_000, 320_000), (20_000, 80_000, 320_000, 1_280_000), (64, 256, 1024)
CASES = {
    "files": Case("listing files in class folders", (1_250, 5_000, 20_000), listed_files),
    "listing": Case("listing, names and labels (pretended files)", NAMES, listed),
    "pairing": Case("index of same-label pairing", ARRAYS, paired),
    "draw": Case(f"drawing {VIEWS} views of {BATCH:,} images", ARRAYS, drawn, memory=False, once=True),
    "fraction": Case("a tenth of the labels drawn", ARRAYS, few_labels),
    "order": Case("order of an epoch", ARRAYS, ordered),
    "index": Case("opening a store: its records", ARRAYS, opened, files=INDEX),
    "part": Case("the part that is trained on", ARRAYS, part),
    "hashes": Case("the same, with its fingerprint and source", NAMES, hashed),
    "journal": Case("continuing a build: its journal", NAMES, journalled, files=JOURNAL),
    "store": Case(
        f"building a store, short side {SHORT_SIDE}", FILES, _built(False), memory=False, files="*/*/pixels*"
    ),
    "check": Case("checking images that are streamed", FILES, _built(True), memory=False),
    "stream": Case("streaming from files", FILES, streamed, memory=False),
    "shards": Case("streaming from parquet shards", FILES, shards, memory=False),
    "features": Case(f"features of {WIDTH} numbers, read", NAMES[:3], features, memory=False, files="*.npy"),
    "knn": Case(f"k-NN's bank, {WIDTH} features", NAMES, searched, memory=False, seen=True),
}
