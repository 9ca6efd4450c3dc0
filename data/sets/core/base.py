"""The base class and the registry of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from common.errors import UsageError, UserError, unknown_name
from common.registry import Registry
from data.store.listing import Listing


class _DataSets(Registry["type[DataSet]"]):
    """Data sets by name. One that ``takes_name`` stands with a name of its own behind a colon: ``hf:NAME``."""

    def get(self, name: str) -> type[DataSet]:
        own, colon, inner = name.partition(":")
        kind = super().get(own if colon and own in self.names() else name)
        if kind.takes_name and not inner:
            raise UsageError(f"--data {name}: give the name behind it, {own}:NAME or {own}:FOLDER")
        if colon and not kind.takes_name:
            raise unknown_name("data set", name, self.names())
        return kind

    def facts(self, name: str) -> dict[str, Any]:
        return super().facts(name.partition(":")[0])


DATASETS: Registry[type[DataSet]] = _DataSets("data set", "data.sets")


class DataSet:
    """A data set in a folder. Subclass it in ``data/sets/NAME.py``, decorated with ``@DATASETS.register("NAME")``.

    Class attributes:
        title: its name in print.
        citation: authors, year and arXiv number, for references.
        is_benchmark: whether one evaluation alone reads it (``data.sets.core.benchmark``).
        has_labels: False if no image has a label, and none is a test image.
        image_size: side in pixels of crops and evaluation images where the user gives none.
        takes_name: whether it stands for many, named behind a colon (``hf:NAME``), and needs no folder.
        make_folder: ``(cache) -> folder`` generates the data; None: the user names the folder.
        fetch: ``(root)`` downloads the missing files; None: the user does.
    """

    title: ClassVar[str]
    citation: ClassVar[str] = ""
    is_benchmark: ClassVar[bool] = False
    has_labels: ClassVar[bool] = True
    takes_name: ClassVar[bool] = False
    image_size: ClassVar[int] = 224
    make_folder: ClassVar[Callable[[Path | None], Path] | None] = None
    fetch: ClassVar[Callable[[Path], None] | None] = None

    def __init__(self, name: str, root: Path | None):
        self.name = name
        self.root = root

    def splits(self) -> tuple[str, ...]:
        """The splits that it has, for its description."""
        return ("train", "test") if self.has_labels else ("train",)

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
