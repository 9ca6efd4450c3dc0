"""Training images for evaluations with few labels: a drawn part, or those on a published list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UsageError, UserError
from common.files import read_lines
from data.pairing import labelled
from data.store.listing import Listing
from data.store.store import ImageStore

#: Indices of images, int64, rising; and the protocol's fields that describe them.
Part = tuple[np.ndarray, dict[str, Any]]


def labelled_parts(store: ImageStore, lists: Sequence[Path], fractions: Sequence[float], seed: int) -> dict[str, Part]:
    """The parts by name: those on lists if any are given, else drawn fractions. Raises UsageError for two lists of one name,
    and as ``listed_part``."""
    if not lists:
        return {f"{part:g}": drawn_part(store, part, seed) for part in dict.fromkeys(fractions)}
    if len({file.stem for file in lists}) < len(lists):
        raise UsageError(f"the lists of labelled images {', '.join(map(str, lists))} need names of their own")
    return {file.stem: listed_part(store, file) for file in lists}


def most_labelled(listing: Listing, labelled_images: int, lists: Sequence[Path], fractions: Sequence[float]) -> int:
    """About how many labelled images the largest part will have, before any image is decoded. Raises UserError for a list that
    cannot be read."""
    if lists:
        return max(sum(1 for line in read_lines(file) if line.strip()) for file in lists)
    if listing.labels is None:
        return min(labelled_images, round(max(fractions) * labelled_images) + len(listing.classes))
    counts = np.bincount(listing.labels[listing.labels >= 0])
    return int(sum(max(1, round(max(fractions) * count)) for count in counts.tolist() if count))


def drawn_part(store: ImageStore, fraction: float, seed: int) -> Part:
    """Draw about ``fraction`` (in (0, 1]) of the labelled images of every class, at least one of each."""
    rows = np.flatnonzero(labelled(store.labels, store.label_sets, fraction, seed))
    part = "all labels" if fraction == 1 else f"{100 * fraction:g}% of each class, drawn by seed {seed}"
    return rows, {"labels": part, "labelled_images": len(rows)}


def listed_part(store: ImageStore, file: Path) -> Part:
    """Find the images on a list: one file name a line, with or without folders (google-research/simclr,
    ``imagenet_subsets/1percent.txt``). Damaged images are left out and counted.

    Raises UserError for a list that cannot be read, names an image twice, or has a name without exactly one labelled image.
    """
    # Blanks at the ends of a line belong to a name that has them.
    lines = [(line, line.strip()) for line in read_lines(file)]
    listed = {Path(name).name for pair in lines for name in pair}
    by_name: dict[str, list[int]] = {}  # of those alone that may be meant: a data set may have millions
    for index, path in enumerate(store.names):
        if (own := path.rpartition("/")[2]) in listed:
            by_name.setdefault(own, []).append(index)
    damaged = {Path(path).name for path, _ in store.damaged}
    known = by_name.keys() | damaged
    names = [line if Path(line).name in known else stripped for line, stripped in lines]
    names = [name.removeprefix("./") for name in names if name]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{file}: {'names some images twice' if names else 'names no images'}; give one image a line")
    rows, skipped = [], 0
    for name in names:
        fitting = [i for i in by_name.get(Path(name).name, []) if f"/{store.names[i]}".endswith(f"/{name}")]
        if len(fitting) == 1:
            rows.append(fitting[0])
        elif not fitting and Path(name).name in damaged:
            skipped += 1
        else:
            what = f"is the name of {len(fitting)} training images" if fitting else "is no training image"
            raise UserError(f"{file}: {name} {what} of {store.name}; is the list of this data set?")
    chosen = np.sort(np.array(rows, np.int64))
    has_label = store.labelled[chosen]
    if not has_label.all():
        raise UserError(f"{file}: {store.names[chosen[~has_label][0]]} of {store.name} has no label")
    return chosen, {"labels": f"list {file.name}", "labelled_images": len(chosen), "damaged": skipped}
