"""The data sets by name. Each is a function that lists the images of a split; ``open_dataset`` puts them into a store."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.errors import UsageError, UserError
from common.registry import Registry
from data.sets.benchmark import Benchmark
from data.sets.cifar10 import list_cifar10
from data.sets.copydays import read_copydays
from data.sets.davis import read_davis
from data.sets.folders import list_folder, list_imagenet
from data.sets.revisited import read_revisited
from data.sets.voc import list_demo, list_voc
from data.sets.voc2007 import list_voc2007
from data.store.listing import Listing, require_folder

if TYPE_CHECKING:
    from data.store.store import ImageStore

Split = Literal["train", "test"]

#: Functions ``(data, split, root) -> Listing``; ``root`` is an existing folder.
DATASETS: Registry[Callable[[str, str, Path], Listing]] = Registry("data set")
DATASETS.register("demo")(list_demo)
DATASETS.register("imagefolder")(list_folder)
DATASETS.register("cifar10")(list_cifar10)
DATASETS.register("imagenet")(list_imagenet)
DATASETS.register("voc2012")(list_voc)
DATASETS.register("voc2007")(list_voc2007)

#: Functions ``(data, root) -> Benchmark`` of data that only evaluations of their own read; ``root`` is an existing folder.
BENCHMARKS: Registry[Callable[[str, Path], Benchmark]] = Registry("benchmark")
BENCHMARKS.register("davis")(read_davis)
BENCHMARKS.register("copydays")(read_copydays)
BENCHMARKS.register("roxford5k")(read_revisited)
BENCHMARKS.register("rparis6k")(read_revisited)

_IMAGE_SIZES = {"demo": 32, "cifar10": 32}


def default_image_size(name: str) -> int:
    """Side in pixels of full-size crops and evaluation images where the user names none."""
    if name not in BENCHMARKS.names():
        DATASETS.get(name)
    return _IMAGE_SIZES.get(name, 224)


def open_benchmark(name: str, root: Path | None) -> Benchmark:
    """What a name in ``BENCHMARKS`` stands for. Raises UserError for a missing folder, and for incomplete or wrong data."""
    return BENCHMARKS.get(name)(name, require_folder(name, root))


def open_dataset(
    name: str,
    split: Split,
    root: Path | None,
    short_side: int | None,
    cache: Path | None = None,
    progress: bool = True,
    stream: bool = False,
) -> ImageStore:
    """The images of a split, decoded on first use, and then kept on the disk where they fit.

    Args:
        name: a name in ``DATASETS``.
        split: ``train``, or ``test``: the validation images where a data set calls them so.
        root: the data set's folder; ``demo`` needs none.
        short_side: images with a longer short side are resized to it (pixels); None keeps all sizes.
        cache: folder of the stores; see ``common.download.cache_root`` for the default.
        progress: show a progress bar while decoding.
        stream: keep none, and decode them anew each time.

    Raises:
        UsageError: unknown data set.
        UserError: missing, incomplete or wrong data.
    """
    from data.store.build import open_store  # imports torch, which listing the names does not need

    if name in BENCHMARKS.names():
        raise UsageError(f"{name} has no training images and no labels; run.py evaluate --data {name} measures on it")
    lister = DATASETS.get(name)
    if short_side is not None and short_side < 2:
        raise UserError(f"short_side is {short_side}; give at least 2 pixels")
    if name == "demo" and root is None:
        root = demo_folder(cache)
    return open_store(lister(name, split, require_folder(name, root)), short_side, cache, progress, stream)


def fetch(name: str, root: Path | None) -> None:
    """Fetch what a data set lacks into its folder. Raises UsageError for one that cannot be fetched, or without a folder."""
    DATASETS.get(name)
    if name != "voc2012":
        here = "needs no files" if name == "demo" else "comes from elsewhere"
        raise UsageError(f"--download fetches voc2012 only; {name} {here}")
    if root is None:
        raise UsageError("--download needs the folder to put the data set into: --data_root DIR")
    from data.sets.voc_download import fetch_voc2012

    fetch_voc2012(Path(root).expanduser())


def demo_folder(cache: Path | None = None) -> Path:
    """The folder of the built-in data set, generated on first use, and anew where its generator has changed."""
    from common.download import cache_root
    from common.lock import owned_lock
    from data.sets import demo

    version = hashlib.sha256(Path(demo.__file__).read_bytes()).hexdigest()[:12]
    folder = cache_root(cache) / f"demo-{version}"
    if not folder.is_dir():
        with owned_lock(cache_root(cache) / "demo.lock", lambda owner: None):
            if not folder.is_dir():
                unfinished = folder.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                demo.build_demo(unfinished)
                unfinished.rename(folder)
    return folder
