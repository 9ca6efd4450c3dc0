"""Revisited Oxford and Paris (Radenović et al. 2018, arXiv 1803.11285): queries and the images that each is to find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.sets.benchmark import Benchmark
from data.sets.pickles import read_plain_pickle

#: How well the images of a query show its building; "junk" counts neither way.
GRADES = ("easy", "hard", "junk")


@dataclass(frozen=True, kw_only=True)
class Revisited(Benchmark):
    """Queries and database of a revisited data set.

    Attributes:
        images, queries: files.
        boxes: float64 ``[Q, 4]``: left, top, right and bottom of each query's object, in pixels.
        found: by grade (``GRADES``), for each query the places in ``images`` of that grade, int64.
    """

    images: tuple[Path, ...]
    queries: tuple[Path, ...]
    boxes: np.ndarray
    found: dict[str, list[np.ndarray]]


def read_revisited(data: str, root: Path) -> Revisited:
    """The data set in the layout of its authors: ``gnd_NAME.pkl`` and ``jpg/`` in ``root/NAME``, or in ``root`` itself.

    The ground truth is a pickle; nothing but plain containers, numbers, text and arrays is taken from it.

    Raises UserError for a missing or other file, and for images that are missing.
    """
    folder = root / data if (root / data).is_dir() else root
    path = folder / f"gnd_{data}.pkl"
    truth = read_plain_pickle(path)
    try:
        names = [[str(name) for name in truth[part]] for part in ("imlist", "qimlist")]
        boxes = np.array([np.asarray(query["bbx"], np.float64) for query in truth["gnd"]]).reshape(-1, 4)
        found = {grade: [_places(query[grade]) for query in truth["gnd"]] for grade in GRADES}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{path}: no ground truth of {data} (imlist, qimlist, gnd with bbx, easy, hard, junk): {error}"
        ) from error
    images, queries = (tuple(folder / "jpg" / f"{name}.jpg" for name in of_part) for of_part in names)
    every = np.concatenate([places for lists in found.values() for places in lists])
    right = np.isfinite(boxes).all() and ((every >= 0) & (every < len(images))).all()
    if not queries or len(boxes) != len(queries) or not right:
        raise UserError(
            f"{path}: {len(queries)} queries, {len(boxes)} with ground truth, on {len(images)} images; "
            "numbers and places have to agree, so the file is damaged or of another data set"
        )
    missing = [file for file in (*images, *queries) if not file.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: missing, one of {len(missing)} images that {path.name} lists")
    return Revisited(
        name=data,
        root=folder,
        files=(path, *images, *queries),
        images=images,
        queries=queries,
        boxes=boxes,
        found=found,
    )


def _places(values: Any) -> np.ndarray:
    return np.asarray(values, np.int64).reshape(-1)
