"""The base class and the registry of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from common.errors import UserError
from common.registry import Registry
from data.store.listing import Listing

DATASETS: Registry[type[DataSet]] = Registry("data set", "data.sets")


class DataSet:
    """A data set in a folder. Subclass it in ``data/sets/NAME.py``, decorated with ``@DATASETS.register("NAME")``.

    Class attributes:
        title: its name in print.
        is_benchmark: whether one evaluation alone reads it (``data.sets.core.benchmark``).
        has_labels: False if no image has a label, and none is a test image.
        image_size: side in pixels of crops and evaluation images where the user gives none.
        make_folder: ``(cache) -> folder`` generates the data; None: the user names the folder.
        fetch: ``(root)`` downloads the missing files; None: the user does.
    """

    title: ClassVar[str]
    is_benchmark: ClassVar[bool] = False
    has_labels: ClassVar[bool] = True
    image_size: ClassVar[int] = 224
    make_folder: ClassVar[Callable[[Path | None], Path] | None] = None
    fetch: ClassVar[Callable[[Path], None] | None] = None

    def __init__(self, name: str, root: Path):
        self.name = name
        self.root = root

    def listing(self, split: str) -> Listing:
        """List the images of ``train`` or ``test``, which may be called validation images.

        Raises UsageError for an unknown split, UserError for missing, incomplete or wrong data.
        """
        raise NotImplementedError


def names_with_images() -> list[str]:
    """List the data sets to train on."""
    return [name for name in DATASETS.names() if not DATASETS.facts(name)["is_benchmark"]]


def image_sizes() -> list[str]:
    """List the default image sizes for help: ``cifar10: 32``, …"""
    return [f"{name}: {DATASETS.facts(name)['image_size']}" for name in names_with_images()]


def require_folder(data: str, root: Path | None) -> Path:
    """The absolute path of a data set's folder. Raises UserError if it is not given or does not exist."""
    if root is None:
        raise UserError(f"the data set {data} needs its folder: --data_root DIR")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (--data_root of {data})")
    return root.absolute()
