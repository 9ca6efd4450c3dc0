"""Build, check and describe a data set: is it whole, and what is in it."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from simple_parsing import field

from common.cli import PluginOption, read_command
from common.download import cache_root
from common.errors import UsageError, UserError, unknown_name
from common.files import size_in_words
from common.images import VOID
from common.names import first_names
from common.progress import Console
from data.datasets import fetch, open_dataset, splits_of
from data.sets.core.base import DATASETS
from data.store.cache import entries, hub_cache, remove
from data.store.store import ImageStore, shared_content
from eval.dense.classes import require_classes

#: With more classes than this only the 10 smallest and the 10 largest are listed.
MOST_CLASSES = 100
#: Names listed for each way of converting images.
MOST_NAMES = 20


@dataclass(kw_only=True)
class DataCommand(PluginOption):
    """Build, check and describe a data set."""

    name: str | None = field(default=None, positional=True, nargs="?")
    """a data set: a file of data/sets/, or of a plug-in"""
    data_root: str | None = None
    """folder of the data set; demo needs none"""
    short_side: int | None = None
    """largest short side of the stored images, in pixels; default: as they are"""
    download: bool = False
    """fetch what is missing (voc2012: images, masks, and SBD's masks of train_aug), with checksums; continues when repeated"""
    cache: bool = False
    """list where decoded images, checks of streamed ones, fetched weights and generated data lie, how much they take, since when"""
    remove: list[str] | None = None
    """names in that list to remove; asks first"""
    yes: bool = False
    """remove without a question"""


def main(words: Sequence[str]) -> int:
    command = read_command("data", __doc__, DataCommand, words)
    if command.cache or command.remove is not None:
        if command.name is not None:
            raise UsageError(f"data {command.name}: --cache lists all data sets; leave the name out")
        clean(command.remove or [], command.yes)
        return 0
    if command.name is None:
        raise UsageError(f"data: which? Give one of {', '.join(DATASETS.names())}, or --cache")
    root = command.data_root and Path(command.data_root)
    if command.download:
        fetch(command.name, root)
    describe(command.name, root, command.short_side)
    return 0


def clean(names: Sequence[str], yes: bool, console: Console | None = None) -> None:
    """Print what the cache holds, or remove the named entries, after a question unless ``yes``. Raises UsageError for an unknown
    name or where nobody can answer, UserError for an entry that is in use."""
    console = console or Console(soft_wrap=True)
    listed = {entry.name: entry for entry in entries()}
    for name in names:
        if name not in listed:
            raise unknown_name("entry of the cache", name, listed)
    if not names:
        console.print(f"cache: {cache_root()} (SSL_COMPARE_CACHE chooses another)", highlight=False)
        rows = [(e.name, e.kind, size_in_words(e.size), f"{e.since:%Y-%m-%d}", e.source) for e in listed.values()]
        rows.append(("all", "", size_in_words(sum(entry.size for entry in listed.values())), "", ""))
        columns = {"name": "left", "what": "left", "size": "right", "since": "left", "images in": "left"}
        table = _table(
            "cache", columns, rows, caption="run.py data --remove NAME … removes entries", caption_justify="left"
        )
        table.columns[0].no_wrap = True  # to be copied
        console.print(table)
        hub, size = hub_cache()
        if size:
            console.print(
                f"timm's weights and data sets of the Hugging Face hub: {size_in_words(size)} in {hub}, with other programs'",
            )
        return
    chosen = [listed[name] for name in dict.fromkeys(names)]
    question = (
        f"remove {', '.join(entry.name for entry in chosen)} ({size_in_words(sum(entry.size for entry in chosen))})?"
    )
    if not yes and not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is here to answer; give --yes")
    if not yes and console.input(f"{escape(question)} [y/N] ", markup=True).strip().lower() not in ("y", "yes"):
        console.print("nothing is removed")
        return
    for entry in chosen:
        remove(entry)
        console.print(f"removed {entry.path}", highlight=False)


#: Below the first table.
OVERVIEW = "sides: smallest / median / largest; the fingerprint is of pixels, the source of names and files"


def describe(
    name: str,
    root: Path | None,
    short_side: int | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> None:
    """Build and check the stores of both splits (images without labels have one), and print tables of them.
    Arguments and errors are ``open_dataset``'s."""
    console = console or Console()
    stores = [open_dataset(name, split, root, short_side, cache) for split in splits_of(name, root, cache)]
    tables = [_overview(stores), *([_classes(stores)] if stores[0].num_classes else [])]
    tables += [_masks(store) for store in stores if store.has_masks]
    for store in stores:
        if store.damaged:
            tables.append(_table(f"skipped images, {store.split}", {"file": "left", "reason": "left"}, store.damaged))
        if store.converted:
            tables.append(_converted(store))
    for table in tables:
        console.print(table)
    for warning in warnings_of(stores):
        console.print(Text(f"warning: {warning}", style="yellow"))


def warnings_of(stores: Sequence[ImageStore]) -> list[str]:
    """List what makes results doubtful without being an error."""
    warnings = []
    if len(stores) > 1 and (shared := shared_content(*stores)):
        pairs = "; ".join(f"{a} = {b}" for a, b in shared[:3]) + ("; …" if len(shared) > 3 else "")
        warnings.append(f"{len(shared)} test images have the same pixels as a training image: {pairs}")
    for store in stores:
        if empty := [store.classes[i] for i in np.flatnonzero(class_counts(store) == 0)]:
            warnings.append(f"{len(empty)} classes have no {store.split} image: {first_names(empty, 5)}")
        if store.num_classes and (unlabelled := int((~store.labelled).sum())):
            warnings.append(f"{unlabelled} {store.split} images have no label")
        if store.damaged:
            warnings.append(f"{len(store.damaged)} {store.split} images are skipped")
        if store.has_masks:
            try:
                require_classes(store, background=True)
            except UserError as error:
                warnings.append(str(error))
    return warnings


def class_counts(store: ImageStore) -> np.ndarray:
    """Count the images of each class, int64 ``[classes]``; an image with several labels counts in each."""
    if store.label_sets is not None:
        return store.label_sets.sum(axis=0)
    return np.bincount(store.labels[store.labels >= 0], minlength=store.num_classes)


def _table(title: str, columns: Mapping[str, str], rows: Iterable[Sequence[str]], **more: Any) -> Table:
    """A table with ``columns`` of heading to justification."""
    table = Table(title=title, title_justify="left", **more)
    for heading, justify in columns.items():
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _overview(stores: list[ImageStore]) -> Table:
    def spread(values: np.ndarray) -> str:
        return f"{values.min()} / {np.median(values):.0f} / {values.max()}"

    columns = [
        {
            "images": f"{len(store):,}",
            "skipped": f"{len(store.damaged):,}",
            "converted to RGB": f"{sum(map(len, store.converted.values())):,}",
            "classes": f"{store.num_classes}",
            "labels an image": _labels(store),
            "short side, pixels": spread(store.original_sizes.min(axis=1)),
            "long side, pixels": spread(store.original_sizes.max(axis=1)),
            "stored short side": "as it is" if store.short_side is None else f"at most {store.short_side}",
            "with an EXIF turn": _turns(store),
            "masks": "yes" if store.has_masks else "no",
            "fingerprint": store.fingerprint,
            "source": store.source,
        }
        for store in stores
    ]
    rows = [(title, *(column[title] for column in columns)) for title in columns[0]]
    headings = {"": "left", **{store.split: "right" for store in stores}}
    return _table(stores[0].name, headings, rows, caption=OVERVIEW, caption_justify="left")


def _turns(store: ImageStore) -> str:
    turned = int((store.turns > 1).sum())
    return f"{turned:,}, {'turned upright' if store.upright else 'read as stored'}" if turned else "0"


def _labels(store: ImageStore) -> str:
    if store.label_sets is not None:
        return f"{store.label_sets.sum(axis=1).mean():.2f}"
    return "one" if store.labelled.any() else "none"


def _classes(stores: list[ImageStore]) -> Table:
    counts = [class_counts(store) for store in stores]
    classes = stores[0].classes
    shown, caption = np.arange(len(classes)), None
    if len(classes) > MOST_CLASSES:
        shown = np.argsort(counts[0], kind="stable")[np.r_[0:10, -10:0]]
        caption = f"the 10 smallest and 10 largest of {len(classes)} classes in {stores[0].split}"
    columns = {"class": "left", **{store.split: "right" for store in stores}}
    rows = [(classes[index], *(f"{count[index]:,}" for count in counts)) for index in shown]
    return _table("images of each class", columns, rows, caption=caption)


def _masks(store: ImageStore) -> Table:
    images, pixels = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for index in range(len(store)):
        present = np.bincount(store.mask(index).ravel(), minlength=256)
        images += present > 0
        pixels += present
    columns = {"value": "right", "class": "left", "images": "right", "share of pixels": "right"}
    rows = [
        (str(value), title, f"{images[value]:,}", f"{100 * pixels[value] / pixels.sum():.2f}%")
        for value, title in [*enumerate(store.mask_classes), (VOID, "void")]
    ]
    return _table(f"masks, {store.split}", columns, rows)


def _converted(store: ImageStore) -> Table:
    rows = [
        (how, f"{len(names):,}", first_names(names, MOST_NAMES, "\n")) for how, names in sorted(store.converted.items())
    ]
    return _table(f"converted images, {store.split}", {"how": "left", "images": "right", "files": "left"}, rows)
