"""Which training images may be learnt from where only some labels may be used: a drawn part, or those on a published list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UsageError, UserError
from data.pairing import labelled
from data.sets.core.lists import read_lines
from data.store.store import ImageStore

#: Indices of images, int64, rising; and what a protocol says of them.
Part = tuple[np.ndarray, dict[str, Any]]


def labelled_parts(store: ImageStore, lists: Sequence[Path], fractions: Sequence[float], seed: int) -> dict[str, Part]:
    """The parts that an evaluation with few labels learns from, by name: those on lists if there are any, else drawn fractions.

    Raises:
        UsageError: two lists of one name.
        UserError: as ``listed_part``.
    """
    if not lists:
        return {f"{part:g}": drawn_part(store, part, seed) for part in dict.fromkeys(fractions)}
    if len({file.stem for file in lists}) < len(lists):
        raise UsageError(f"the lists of labelled images {', '.join(map(str, lists))} need names of their own")
    return {file.stem: listed_part(store, file) for file in lists}


def drawn_part(store: ImageStore, fraction: float, seed: int) -> Part:
    """About ``fraction`` (above 0, at most 1) of the labelled images of every class, at least one of each."""
    rows = np.flatnonzero(labelled(store.labels, store.label_sets, fraction, seed))
    part = "all labels" if fraction == 1 else f"{100 * fraction:g}% of each class, drawn by seed {seed}"
    return rows, {"labels": part, "labelled_images": len(rows)}


def listed_part(store: ImageStore, file: Path) -> Part:
    """The images on a list, one file name a line, with or without folders, as in SimCLR's ``1percent.txt`` and ``10percent.txt``
    (google-research/simclr, ``imagenet_subsets``). Images that the data set skips as damaged are left out and counted.

    Raises:
        UserError: the list cannot be read or names an image twice; a name fits no training image, several, or one without a label.
    """
    names = [line.strip() for line in read_lines(file) if line.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{file}: {'names some images twice' if names else 'names no images'}; give one image a line")
    by_name: dict[str, list[int]] = {}
    for index, path in enumerate(store.names):
        by_name.setdefault(Path(path).name, []).append(index)
    damaged = {Path(path).name for path, _ in store.damaged}
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
    has_label = store.labels[chosen] >= 0 if store.label_sets is None else store.label_sets[chosen].any(axis=1)
    if not has_label.all():
        raise UserError(f"{file}: {store.names[chosen[~has_label][0]]} of {store.name} has no label")
    return chosen, {"labels": f"list {file.name}", "labelled_images": len(chosen), "damaged": skipped}
