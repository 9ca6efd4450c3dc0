"""Which training images may be learnt from where only a part of them has labels: a drawn part, or those on a published list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UsageError, UserError
from data.pairing import labelled
from data.sets.core.lists import read_lines
from data.store.store import ImageStore


def labelled_parts(
    store: ImageStore, lists: Sequence[Path], fractions: Sequence[float], seed: int
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """The parts that an evaluation with few labels learns from, by name: the lists where there are any, else drawn fractions.

    Raises:
        UsageError: two lists of one name.
        UserError: as ``listed_part``.
    """
    if not lists:
        return {f"{part:g}": drawn_part(store, part, seed) for part in dict.fromkeys(fractions)}
    names = [file.stem for file in lists]
    if len(set(names)) < len(names):
        raise UsageError(f"the lists of labelled images {', '.join(map(str, lists))} need names of their own")
    return {file.stem: listed_part(store, file) for file in lists}


def drawn_part(store: ImageStore, fraction: float, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """About ``fraction`` (above 0, at most 1) of the labelled images of every class, at least one of each.

    Returns:
        their indices, int64, rising; and what a protocol has to say of them.
    """
    rows = np.flatnonzero(labelled(store.labels, store.label_sets, fraction, seed))
    part = "all labels" if fraction == 1 else f"{100 * fraction:g}% of each class, drawn by seed {seed}"
    return rows, {"labels": part, "labelled_images": len(rows)}


def listed_part(store: ImageStore, file: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The images on a list, one file name a line, with or without folders, as SimCLR's ``1percent.txt`` and ``10percent.txt``
    (google-research/simclr, ``imagenet_subsets``) have them.

    Returns:
        as ``drawn_part``. Images that the data set skips as damaged are left out, and the protocol counts them.

    Raises:
        UserError: the list cannot be read, names an image twice, one that the data set lacks, has no label of or more than once.
    """
    names = [line.strip() for line in read_lines(file) if line.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{file}: {'names some images twice' if names else 'names no images'}; give one image a line")
    known: dict[str, list[int]] = {}
    for index, name in enumerate(store.names):
        known.setdefault(Path(name).name, []).append(index)
    damaged = {Path(name).name for name, _ in store.damaged}
    rows, skipped = [], 0
    for name in names:
        found = [index for index in known.get(Path(name).name, []) if f"/{store.names[index]}".endswith(f"/{name}")]
        if len(found) == 1:
            rows.append(found[0])
        elif not found and Path(name).name in damaged:
            skipped += 1
        else:
            what = f"is the name of {len(found)} training images" if found else "is no training image"
            raise UserError(f"{file}: {name} {what} of {store.name}; is the list of this data set?")
    chosen = np.sort(np.array(rows, np.int64))
    has_label = store.labels[chosen] >= 0 if store.label_sets is None else store.label_sets[chosen].any(axis=1)
    if not has_label.all():
        raise UserError(f"{file}: {store.names[chosen[~has_label][0]]} of {store.name} has no label")
    return chosen, {"labels": f"list {file.name}", "labelled_images": len(chosen), "damaged": skipped}
