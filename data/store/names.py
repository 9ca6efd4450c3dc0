"""Names of images in few pieces of memory. A list of strings takes about 60 bytes a name beside its characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, islice, pairwise

import numpy as np

#: Names in one piece: their bytes take 1 or 2 more each so, and finding one takes a microsecond.
_TOGETHER = 64
#: Between them. UTF-8 has no such byte, however a name's own bytes that are none are written.
_BETWEEN = b"\xff"


def place_type(images: int) -> np.dtype:
    """The type of a place among so many images."""
    return np.dtype(np.int32 if images < 2**31 else np.int64)


class Names(Sequence[str]):
    """An unchangeable list of names, or some of another's."""

    def __init__(self, names: Iterable[str] = ()):
        names = iter(names)
        self._pieces: list[bytes] = []
        self._length = 0
        self._rows: np.ndarray | None = None
        while some := [name.encode(errors="surrogatepass") for name in islice(names, _TOGETHER)]:
            self._pieces.append(_BETWEEN.join(some))
            self._length += len(some)

    def at(self, rows: np.ndarray) -> Names:
        """The names at places in this list, which both share; the places are held as they are given."""
        part = Names()
        part._pieces, part._length = self._pieces, len(rows)
        part._rows = rows if self._rows is None else self._rows[rows]
        return part

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._length))]
        place = range(self._length)[place]  # as of any list, negative ones and errors included
        if self._rows is not None:
            place = int(self._rows[place])
        return _decoded(self._pieces[place // _TOGETHER].split(_BETWEEN)[place % _TOGETHER])

    def __iter__(self) -> Iterator[str]:
        if self._rows is None:
            for piece in self._pieces:
                yield from map(_decoded, piece.split(_BETWEEN))
            return
        number, names = -1, []
        for part in np.array_split(self._rows, len(self._rows) // 2**16 + 1):
            for row in part.tolist():
                if row // _TOGETHER != number:
                    number = row // _TOGETHER
                    names = self._pieces[number].split(_BETWEEN)
                yield _decoded(names[row % _TOGETHER])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        return f"Names({list(self)})"


def in_order(*lists: Names) -> Iterable[str]:
    """The names of lists together, sorted. Where each list is, as those of folders are, not all are in memory at a time."""
    if all(first <= second for names in lists for first, second in pairwise(names)):
        return merge(*lists)
    return sorted(chain(*lists))


def _decoded(name: bytes) -> str:
    return name.decode(errors="surrogatepass")
