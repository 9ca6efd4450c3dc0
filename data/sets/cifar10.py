"""CIFAR-10, from the original python batches or as a folder of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import UserError
from data.sets.core.base import DATASETS, DataSet
from data.sets.core.folders import list_folder
from data.sets.core.lists import of_split
from data.sets.core.pickles import read_plain_pickle
from data.store.listing import Listing, stamp_of

#: In the order of the original labels, which is also their sorted order.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


@DATASETS.register("cifar10")
class CIFAR10(DataSet):
    """``cifar-10-batches-py`` (or the folder that holds it), or ``train/CLASS`` and ``test/CLASS``."""

    title = "CIFAR-10"
    citation = "Krizhevsky 2009"
    image_size = 32

    def listing(self, split: str) -> Listing:
        root, first = self.root, of_split(BATCHES, split)[0]
        for folder in (root, root / "cifar-10-batches-py"):
            if (folder / first).exists():
                return self._list_batches(split, folder)
        if not (root / "train").is_dir():
            raise UserError(
                f"{root}: neither the python batches of CIFAR-10 (cifar-10-batches-py/{first}) nor folders "
                "train/CLASS and test/CLASS"
            )
        listing = list_folder(self.name, split, root)
        if listing.classes != CLASSES:
            raise UserError(f"{root / 'train'}: the class folders are not the ten of CIFAR-10 ({', '.join(CLASSES)})")
        return listing

    def _list_batches(self, split: str, folder: Path) -> Listing:
        paths = [folder / batch for batch in BATCHES[split]]
        pixels, labels = zip(*map(_read_batch, paths), strict=True)
        return Listing(
            data=self.name,
            split=split,
            root=folder,
            classes=CLASSES,
            names=[f"{path.name}/{i:05d}" for path, part in zip(paths, labels, strict=True) for i in range(len(part))],
            labels=np.concatenate(labels),
            arrays=np.concatenate(pixels),
            stamp=stamp_of((path.name, path.stat()) for path in paths),
        )


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a batch file: pixels uint8 ``[n, 32, 32, 3]`` and labels int64 ``[n]``."""
    content = read_plain_pickle(path)
    if isinstance(content, dict):  # a Python 3 that copied the file may have written its keys as bytes
        content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if not isinstance(content, dict) or not {"data", "labels"} <= content.keys():
        raise UserError(f"{path}: not a batch of CIFAR-10 (no data and labels; CIFAR-100 is another data set)")
    pixels = np.asarray(content["data"]) if hasattr(content["data"], "__array__") else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise UserError(f"{path}: the pixels are not uint8 rows of 3 × 32 × 32 values")
    labels = content["labels"]
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise UserError(f"{path}: needs one whole number as label for each of the {len(pixels)} images")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)
