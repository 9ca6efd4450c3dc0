"""Build, check and describe a data set: is it whole, and what is in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from simple_parsing import field

from common.cli import PluginOption, read_command
from common.images import VOID
from data.datasets import fetch, open_dataset
from data.store.store import ImageStore, shared_content

#: With more classes than this only the smallest and the largest are listed.
MOST_CLASSES = 100
#: Names listed for each way of converting images.
MOST_NAMES = 20


@dataclass(kw_only=True)
class DataCommand(PluginOption):
    """Options of the command that builds, checks and describes a data set."""

    name: str = field(positional=True)
    """a data set: a file of data/sets/, or of a plug-in"""
    data_root: str | None = None
    """folder of the data set; demo needs none"""
    short_side: int | None = None
    """largest short side of the stored images, in pixels; default: as they are"""
    download: bool = False
    """fetch what is missing (voc2012: images, masks, and SBD's masks of train_aug), with checksums; continues when repeated"""


def main(words: Sequence[str]) -> int:
    command = read_command("data", __doc__, DataCommand, words)
    root = command.data_root and Path(command.data_root)
    if command.download:
        fetch(command.name, root)
    describe(command.name, root, command.short_side)
    return 0


def describe(
    name: str,
    root: Path | None,
    short_side: int | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> None:
    """Build both splits' stores, check them and print tables: images, sizes, skipped and converted files by name, images of
    each class, masks, fingerprints, and images that stand in both splits.

    Args: see ``data.datasets.open_dataset``. Raises its errors where the data are refused.
    """
    console = console or Console()
    stores = [open_dataset(name, split, root, short_side, cache) for split in ("train", "test")]
    console.print(_overview(stores))
    console.print(_classes(stores))
    for store in stores:
        if store.has_masks:
            console.print(_masks(store))
    for store in stores:
        _print_files(console, store)
    for warning in warnings_of(*stores):
        console.print(Text(f"warning: {warning}", style="yellow"))


def warnings_of(train: ImageStore, test: ImageStore) -> list[str]:
    """What is not wrong but makes results doubtful, one sentence each."""
    found = []
    shared = shared_content(train, test)
    if shared:
        pairs = "; ".join(f"{a} = {b}" for a, b in shared[:3]) + ("; …" if len(shared) > 3 else "")
        found.append(f"{len(shared)} test images have the same pixels as a training image: {pairs}")
    for store in (train, test):
        counts = class_counts(store)
        empty = [store.classes[i] for i in np.flatnonzero(counts == 0)]
        if empty:
            shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
            found.append(f"{len(empty)} classes have no {store.split} image: {shown}")
        unlabelled = len(store) - _labelled(store)
        if unlabelled:
            found.append(f"{unlabelled} {store.split} images have no label")
        if store.damaged:
            found.append(f"{len(store.damaged)} {store.split} images are skipped")
    return found


def class_counts(store: ImageStore) -> np.ndarray:
    """Images of each class, int64 ``[classes]``; an image with several labels counts in each."""
    if store.label_sets is not None:
        return store.label_sets.sum(axis=0)
    return np.bincount(store.labels[store.labels >= 0], minlength=store.num_classes)


def _labelled(store: ImageStore) -> int:
    return int((store.labels >= 0).sum() if store.label_sets is None else store.label_sets.any(axis=1).sum())


def _overview(stores: list[ImageStore]) -> Table:
    table = Table(
        title=stores[0].name, title_justify="left", caption="sides: smallest / median / largest", caption_justify="left"
    )
    table.add_column("")
    rows = {
        "images": [f"{len(store):,}" for store in stores],
        "skipped": [f"{len(store.damaged):,}" for store in stores],
        "converted to RGB": [f"{len(store.converted):,}" for store in stores],
        "classes": [f"{store.num_classes}" for store in stores],
        "labels an image": [
            "one" if s.label_sets is None else f"{s.label_sets.sum(axis=1).mean():.2f}" for s in stores
        ],
        "short side, pixels": [_spread(store.original_sizes.min(axis=1)) for store in stores],
        "long side, pixels": [_spread(store.original_sizes.max(axis=1)) for store in stores],
        "stored short side": ["as it is" if s.short_side is None else f"at most {s.short_side}" for s in stores],
        "masks": ["yes" if store.has_masks else "no" for store in stores],
        "fingerprint": [store.fingerprint for store in stores],
    }
    for store in stores:
        table.add_column(store.split, justify="right", overflow="fold")
    for title, values in rows.items():
        table.add_row(title, *values)
    return table


def _classes(stores: list[ImageStore]) -> Table:
    counts = [class_counts(store) for store in stores]
    classes = stores[0].classes
    table = Table(title="images of each class", title_justify="left")
    table.add_column("class")
    for store in stores:
        table.add_column(store.split, justify="right")
    shown = np.arange(len(classes))
    if len(classes) > MOST_CLASSES:
        shown = np.argsort(counts[0], kind="stable")[np.r_[0:10, -10:0]]
        table.caption = f"the 10 smallest and 10 largest of {len(classes)} classes in {stores[0].split}"
    for index in shown:
        table.add_row(Text(classes[index]), *(f"{count[index]:,}" for count in counts))
    return table


def _masks(store: ImageStore) -> Table:
    images = np.zeros(256, np.int64)
    pixels = np.zeros(256, np.int64)
    for index in range(len(store)):
        present = np.bincount(store.mask(index).ravel(), minlength=256)
        images += present > 0
        pixels += present
    table = Table(title=f"masks, {store.split}", title_justify="left")
    for column, justify in (("value", "right"), ("class", "left"), ("images", "right"), ("share of pixels", "right")):
        table.add_column(column, justify=justify)
    for value, title in [*enumerate(store.mask_classes), (VOID, "void")]:
        table.add_row(str(value), Text(title), f"{images[value]:,}", f"{100 * pixels[value] / pixels.sum():.2f}%")
    return table


def _print_files(console: Console, store: ImageStore) -> None:
    """Skipped files with their reasons (all of them), converted ones by how (the first few)."""
    if store.damaged:
        table = Table(title=f"skipped images, {store.split}", title_justify="left")
        table.add_column("file", overflow="fold")
        table.add_column("reason", overflow="fold")
        for name, reason in store.damaged:
            table.add_row(Text(name), Text(reason))
        console.print(table)
    ways: dict[str, list[str]] = {}
    for name, how in store.converted:
        ways.setdefault(how, []).append(name)
    if ways:
        table = Table(title=f"converted images, {store.split}", title_justify="left")
        table.add_column("how")
        table.add_column("images", justify="right")
        table.add_column("files", overflow="fold")
        for how, names in sorted(ways.items()):
            table.add_row(
                how, f"{len(names):,}", Text("\n".join(names[:MOST_NAMES] + ["…"] * (len(names) > MOST_NAMES)))
            )
        console.print(table)


def _spread(values: np.ndarray) -> str:
    return f"{values.min()} / {np.median(values):.0f} / {values.max()}"
