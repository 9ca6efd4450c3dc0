"""Arrays on disk that grow by rows, continue after an interruption, and are checked when they are read.

A finished array is ``NAME.npy``, floats ``[rows, D]``, with a checksum beside it. A growing one is ``NAME.npy.part``, with a
journal of the rows that have reached the disk.
"""

from __future__ import annotations

import io
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.files import Pieces, read_json, write_json

#: Seconds of work that an interruption may cost.
COMMIT_EVERY = 20.0


class ArrayCache:
    """A cache file of ``rows`` rows of ``dtype``."""

    def __init__(self, path: Path, rows: int, dtype: type[np.floating] = np.float32):
        self.path, self.rows, self.dtype = path, rows, np.dtype(dtype)
        self.part = path.with_suffix(".npy.part")
        self.journal = path.with_suffix(".journal.json")
        self.checksum = path.with_suffix(".json")
        self._file: BinaryIO | None = None

    def load(self) -> np.ndarray | None:
        """Map the finished array into memory (changes stay there); None if it is absent, cut short or damaged."""
        try:
            expected = read_json(self.checksum)["crc32"]
            with open(self.path, "rb") as file:
                if _crc(file) != expected:
                    return None
            array = np.load(self.path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return array if array.dtype == self.dtype and array.ndim == 2 and len(array) == self.rows else None

    def resume(self) -> int:
        """Count the intact rows that an interrupted extraction left."""
        try:
            journal = read_json(self.journal)
            with open(self.part, "rb") as file:
                if _crc(file, journal["bytes"]) != journal["crc32"]:
                    return 0
            return int(journal["rows"]) if 0 < journal["rows"] <= self.rows else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def begin(self, rows: int) -> None:
        """Open for appending after the first ``rows`` rows, at most ``resume()``."""
        self._done = rows
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self._file = io.BufferedRandom(Pieces(self.part, "r+" if rows else "w+"))
        self._crc = self._bytes = 0
        if rows:
            np.lib.format.read_magic(self._file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(self._file)
            self._bytes = self._file.tell() + rows * shape[1] * dtype.itemsize
            self._file.truncate(self._bytes)
            self._file.seek(0)
            self._crc = _crc(self._file, self._bytes)

    def append(self, rows: np.ndarray) -> None:
        if self._bytes == 0:
            header = io.BytesIO()
            about = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, rows.shape[1])}
            np.lib.format.write_array_header_1_0(header, about)
            self._write(header.getvalue())
        self._write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self._done += len(rows)

    def _write(self, content: bytes) -> None:
        with self._named():
            self._file.write(content)
        self._crc = zlib.crc32(content, self._crc)
        self._bytes += len(content)

    def commit(self) -> None:
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())
        write_json(self.journal, {"rows": self._done, "bytes": self._bytes, "crc32": self._crc})

    def finish(self) -> None:
        self.close()
        write_json(self.checksum, {"crc32": self._crc})
        self.part.replace(self.path)
        self.journal.unlink(missing_ok=True)

    def remove_begun(self) -> None:
        """Remove what an interrupted extraction left."""
        self.part.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and keep its rows for a continuation."""
        if self._file is not None and not self._file.closed:
            try:
                self.commit()
            finally:
                with self._named():
                    self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The error of a full disk, which knows no file of an open one, names this."""
        try:
            yield
        except OSError as error:
            error.filename = str(self.part)
            raise


def fill(caches: Sequence[ArrayCache], batches: Callable[[int], Iterable[Sequence[np.ndarray]]]) -> None:
    """Grow caches together until they are finished, from where an interruption left them. ``batches(done)`` yields batches of the
    rows after the first ``done``: an array for each cache."""
    done = min(cache.resume() for cache in caches)
    with ExitStack() as opened:  # all are closed, on a full disk, too
        for cache in caches:
            opened.callback(cache.close)
            cache.begin(done)
        committed = time.monotonic()
        for arrays in batches(done):
            for cache, rows in zip(caches, arrays, strict=True):
                cache.append(rows)
            if time.monotonic() - committed > COMMIT_EVERY:
                for cache in caches:
                    cache.commit()
                committed = time.monotonic()
        for cache in caches:
            cache.finish()


def _crc(file: BinaryIO, length: int | None = None) -> int:
    """CRC-32 of at most the next ``length`` bytes (default: all)."""
    crc, left = 0, math.inf if length is None else length
    while left > 0 and (content := file.read(int(min(left, 1 << 24)))):
        crc = zlib.crc32(content, crc)
        left -= len(content)
    return crc
