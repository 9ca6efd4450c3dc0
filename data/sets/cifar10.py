"""CIFAR-10, from the original python batches or as a folder of files."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.sets.folders import list_folder
from data.store.listing import Listing, of_split, stamp_of

#: In the order of the original labels, which is also their sorted order.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


def list_cifar10(data: str, split: str, root: Path) -> Listing:
    """CIFAR-10 from ``cifar-10-batches-py`` (or the folder that holds it), or from ``train/CLASS`` and ``test/CLASS``.

    Raises UserError for missing or damaged batches, other classes than the ten, or an untrusted pickle.
    """
    first = of_split(BATCHES, split)[0]
    for folder in (root, root / "cifar-10-batches-py"):
        if (folder / first).exists():
            return _list_batches(data, split, folder)
    if not (root / "train").is_dir():
        raise UserError(
            f"{root}: neither the python batches of CIFAR-10 (cifar-10-batches-py/{first}) nor folders "
            "train/CLASS and test/CLASS"
        )
    listing = list_folder(data, split, root)
    if listing.classes != CLASSES:
        raise UserError(f"{root / 'train'}: the class folders are not the ten of CIFAR-10 ({', '.join(CLASSES)})")
    return listing


def _list_batches(data: str, split: str, folder: Path) -> Listing:
    pixels, labels, names, stats = [], [], [], []
    for batch in BATCHES[split]:
        path = folder / batch
        content = _read_batch(path)
        pixels.append(content[0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(content[1])
        names += [f"{batch}/{i:05d}" for i in range(len(content[1]))]
        stats.append((batch, path.stat()))
    return Listing(
        data=data,
        split=split,
        root=folder,
        classes=CLASSES,
        names=names,
        labels=np.concatenate(labels),
        arrays=np.concatenate(pixels),
        stamp=stamp_of(stats),
    )


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 ``[n, 3072]`` (red, green, blue planes, row by row) and labels int64 ``[n]`` of one batch file."""
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except FileNotFoundError:
        raise UserError(f"{path}: this batch of CIFAR-10 is missing") from None
    except _Untrusted as error:
        raise UserError(
            f"{path}: an untrusted pickle that wants to call {error}; get CIFAR-10 from its own site"
        ) from None
    except Exception as error:
        raise UserError(f"{path}: damaged, not a batch of CIFAR-10 ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or b"data" not in content or b"labels" not in content:
        raise UserError(f"{path}: not a batch of CIFAR-10 (no data and labels; CIFAR-100 is another data set)")
    pixels = content[b"data"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise UserError(f"{path}: the pixels are not uint8 rows of 3 × 32 × 32 values")
    labels = content[b"labels"]
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise UserError(f"{path}: there is not one whole number as label for each of the {len(pixels)} images")
    return pixels, np.array(labels, np.int64)


class _Untrusted(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    """Reads numpy arrays, lists, numbers and bytes. Anything else that a pickle may call is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: np.dtype(code)  # the flags after the code are numbers, which new numpy warns of
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 of Python 3 writes bytes
            return lambda text, encoding: text.encode(encoding)
        raise _Untrusted(f"{module}.{name}")
