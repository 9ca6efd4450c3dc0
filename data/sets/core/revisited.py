"""Revisited Oxford and Paris (Radenović et al. 2018, arXiv 1803.11285): queries and the images they should retrieve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.sets.core.benchmark import Benchmark
from data.sets.core.pickles import read_plain_pickle

#: How well the images of a query show its building; "junk" counts neither way.
GRADES = ("easy", "hard", "junk")


class Revisited(Benchmark):
    """The layout of the authors: ``gnd_NAME.pkl`` and ``jpg/`` in ``root/NAME``, or in ``root`` itself.

    Attributes:
        boxes: float64 ``[Q, 4]``: left, top, right and bottom of each query's object, in pixels.
        places: for each grade and query, the places in ``images``, int64.
        landmarks: int64 ``[Q]``: equal for queries of one building, which share images to retrieve (a name does not tell:
            ``oxford_002904`` shows All Souls).
    """

    def __init__(self, name: str, root: Path):
        super().__init__(name, root / name if (root / name).is_dir() else root)
        path = self.root / f"gnd_{name}.pkl"
        truth = read_plain_pickle(path)
        try:
            self.images, self.queries = (
                tuple(self.root / "jpg" / f"{image}.jpg" for image in truth[part]) for part in ("imlist", "qimlist")
            )
            self.boxes = np.array([np.asarray(query["bbx"], np.float64) for query in truth["gnd"]]).reshape(-1, 4)
            self.places = {grade: [_places(query[grade]) for query in truth["gnd"]] for grade in GRADES}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{path}: no ground truth of {name} (imlist, qimlist, gnd with bbx, easy, hard, junk): {error}"
            ) from error
        every = np.concatenate([_places([]), *(places for lists in self.places.values() for places in lists)])
        right = np.isfinite(self.boxes).all() and ((every >= 0) & (every < len(self.images))).all()
        if not self.queries or len(self.boxes) != len(self.queries) or not right:
            raise UserError(
                f"{path}: {len(self.queries)} queries, {len(self.boxes)} with ground truth, on {len(self.images)} images; "
                "numbers and places have to agree, so the file is damaged or of another data set"
            )
        self.landmarks = _connected(
            [np.concatenate(lists) for lists in zip(*(self.places[grade] for grade in GRADES[:2]), strict=True)]
        )
        missing = [file for file in (*self.images, *self.queries) if not file.is_file()]
        if missing:
            raise UserError(f"{missing[0]}: missing, one of {len(missing)} images that {path.name} lists")
        self.files = (path, *self.images, *self.queries)


def _connected(sets: list[np.ndarray]) -> np.ndarray:
    """The first of the sets that each set is linked to by common members, directly or through others."""
    first = np.arange(len(sets))
    holders: dict[int, int] = {}
    for number, members in enumerate(sets):
        for member in members.tolist():
            other = holders.setdefault(member, number)
            a, b = first[other], first[number]
            first[first == max(a, b)] = min(a, b)
    return first


def _places(values: Any) -> np.ndarray:
    return np.asarray(values, np.int64).reshape(-1)
