"""Image stores are built by decoding in parallel and writing in order; a journal lets an interrupted build continue."""

from __future__ import annotations

import base64
import json
import os
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from PIL import Image

from common.ahead import Room, ahead
from common.environment import processors
from common.errors import UserError
from common.files import append_json_line, remove_unfinished, write_text
from common.names import first_names
from common.progress import working
from data.store.decode import DamagedImage, WrongData
from data.store.index import is_in_use, pixel_file, write_index
from data.store.listing import Listing, Sample
from data.store.store import RECORD

#: The pixel file of an unfinished store.
DATA = "building.bin"
#: What has been decoded into it.
JOURNAL = "building.jsonl"
#: Entries of its lines that are bytes.
_PACKED = ("records", "label_sets")
#: Seconds between commits to the journal: the most work that an interruption costs.
COMMIT_SECONDS = 2.0
#: What images that are decoded ahead, as many as four a processor, take together: 64 processors would take 18 GB of photos of 24
#: megapixels.
MOST_BYTES = 2**32


class Builder:
    """One build. ``building.bin`` grows by images and masks in the listing's order. A line of ``building.jsonl`` describes the
    images added since the line before, once they are on the disk. Without ``keep`` only the lines are written."""

    def __init__(self, folder: Path, key: str, listing: Listing, short_side: int | None, keep: bool):
        self.folder, self.key, self.listing, self.short_side, self.keep = folder, key, listing, short_side, keep
        self.data = folder / DATA
        self.journal = folder / JOURNAL
        # Of all images so far, once; and what the journal does not hold yet.
        self.done, self.added = _nothing(), _nothing()
        self.following = self.end = 0

    def run(self, progress: bool) -> None:
        """Build or continue, then finish the store. Raises UserError for refused data."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder)
        self._resume()
        with open(self.data, "r+b") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # data.store.decode refuses them itself
            file.seek(0, os.SEEK_END)
            self._add_images(file, progress)
        self._finish()

    def _resume(self) -> None:
        """Continue after the last commit of an interrupted build of the same source."""
        pixels = pixel_file(self.folder, self.key)
        if self.journal.exists() and not self.data.exists() and pixels.is_file():
            pixels.replace(self.data)  # an older version renamed it before it wrote the index
        whole = 0
        try:
            lines = _lines(self.journal)
            header, whole = next(lines)
            usable = header == {"key": self.key} and self.data.is_file()
            for line, end in lines if usable else ():
                self._take(line)
                whole = end
        except (OSError, ValueError, KeyError, TypeError, StopIteration):  # no journal, an empty one, or a damaged one
            usable = False
        if not usable or self.data.stat().st_size < self.end:
            self.done, self.following, self.end = _nothing(), 0, 0
            self.data.write_bytes(b"")
            write_text(self.journal, json.dumps({"key": self.key}) + "\n")
        else:
            os.truncate(self.journal, whole)  # a last line cut short would spoil the next
        os.truncate(self.data, self.end)

    def _take(self, line: dict) -> None:
        """Continue after a line of the journal."""
        if line["checksum"] != _checksum(line):
            raise ValueError("another line than was written")
        for entry, values in self.done.items():
            values.extend(base64.b64decode(line[entry]) if entry in _PACKED else line[entry])
        self.following, self.end = line["next"], line["end"]

    def _add_images(self, file: BinaryIO, show: bool) -> None:
        start, total = self.following, len(self.listing.names)
        skipped = len(self.done["skipped"])
        title = f"{'decoding' if self.keep else 'checking'} {self.listing.data} {self.listing.split}"
        began = committed = time.monotonic()
        room = Room(MOST_BYTES, self._need, _held)
        outcomes = ahead(self._read, range(start, total), processors(), 4 * processors(), room)
        with working(title, total, start, show) as work:
            for row, outcome in enumerate(outcomes, start):
                self._add(file, row, outcome)
                skipped += isinstance(outcome, DamagedImage)
                now = time.monotonic()
                if now - committed >= COMMIT_SECONDS or row == total - 1:
                    self._commit(file, row + 1)
                    committed = now
                rate = (row + 1 - start) / max(now - began, 1e-9)
                work.advance(row + 1, f"{rate:.0f} images/s" + (f", {skipped} skipped" if skipped else ""))

    def _need(self, row: int) -> int:
        """Bytes that decoding an image takes: its pixels, as they come out of the file and once more, and its mask's."""
        height, width = self.listing.size(row) or (0, 0)
        return height * width * (6 if self.listing.masks is None else 7)

    def _read(self, row: int) -> tuple[np.ndarray, list[np.ndarray], Sample] | Exception:
        """Decode an image, in a thread, into record, planes and sample, or the reason to skip it or refuse the data set."""
        try:
            sample = self.listing.read(row, self.short_side)
        except (DamagedImage, WrongData) as reason:
            return reason
        planes = sample.image.planes
        record = np.zeros((), RECORD)
        record["row"] = row
        record["size"] = planes[0].shape
        record["original_size"] = sample.image.original_size
        record["digest"] = _digest(*planes)
        record["source"] = np.frombuffer(sample.image.source, np.uint8)
        record["turn"] = sample.image.turn
        if sample.mask is not None:
            record["mask_digest"] = _digest(sample.mask)
        return record, planes, sample

    def _add(self, file: BinaryIO, row: int, outcome: tuple[np.ndarray, list[np.ndarray], Sample] | Exception) -> None:
        if isinstance(outcome, WrongData):
            self.added["refused"].append(str(outcome))
            return
        if isinstance(outcome, DamagedImage):
            self.added["skipped"].append((row, str(outcome)))
            return
        record, planes, sample = outcome
        record["offset"] = self._write(file, *planes)
        record["mask_offset"] = -1 if sample.mask is None else self._write(file, sample.mask)
        self.added["records"] += record.tobytes()
        if sample.label_set is not None:
            self.added["label_sets"] += sample.label_set.tobytes()
        if sample.image.note:
            self.added["converted"].append((row, sample.image.note))

    def _write(self, file: BinaryIO, *arrays: np.ndarray) -> int:
        """Write the arrays and return the offset of the first, or -1 without ``keep``."""
        if not self.keep:
            return -1
        offset = file.tell()
        for array in arrays:
            file.write(array.data)
        return offset

    def _commit(self, file: BinaryIO, following: int) -> None:
        """Write the journal's line about the images added since the last."""
        file.flush()
        os.fsync(file.fileno())
        line = {"next": following, "end": file.tell(), **self.added}
        for entry in _PACKED:
            line[entry] = base64.b64encode(line[entry]).decode()
        line["checksum"] = _checksum(line)
        append_json_line(self.journal, line)
        for entry, values in self.done.items():
            values.extend(self.added[entry])
        self.added, self.end = _nothing(), line["end"]

    def _finish(self) -> None:
        listing, refused, skipped = self.listing, self.done["refused"], self.done["skipped"]
        records = np.frombuffer(self.done["records"], RECORD)
        if refused or not len(records):
            self.data.unlink()
            self.journal.unlink()
            if refused:
                rest = refused[1:]
                more = f" (and {len(rest)} more: {first_names(rest, 3, '; ')})" if rest else ""
                raise UserError(refused[0] + more)
            row, reason = skipped[0]
            raise UserError(
                f"{listing.root}: none of the {len(skipped)} images of {listing.data} {listing.split} can be used; "
                f"the first, {listing.names[row]}: {reason}"
            )
        label_sets = None
        if listing.labels is None:
            label_sets = np.frombuffer(self.done["label_sets"], bool).reshape(len(records), len(listing.classes))
        pixels = pixel_file(self.folder, self.key)
        # In this order, a process that dies between two steps leaves a journal and its data, from which the next one finishes.
        notes = skipped, self.done["converted"]
        write_index(self.folder, self.key, listing, records, label_sets, self.end, *notes, not self.keep)
        self._publish(pixels)
        self.journal.unlink()
        remove_unused(self.folder, but=pixels)

    def _publish(self, pixels: Path) -> None:
        """Give the data its final name; the same data that a process has mapped, under an index that was damaged, stay."""
        if pixels.exists() and pixels.stat().st_size == self.data.stat().st_size and is_in_use(pixels):
            self.data.unlink()
        else:
            self.data.replace(pixels)


def remove_unused(folder: Path, but: Path | None = None) -> list[Path]:
    """Remove the pixel files in a store's folder that no process reads, except ``but``; returns those that are read. On a network
    file system a file that is removed is gone for other machines, too, in the middle of their training."""
    used = []
    for pixels in folder.glob("pixels-*.bin"):
        if pixels == but:
            continue
        if is_in_use(pixels):
            used.append(pixels)
        else:
            pixels.unlink(missing_ok=True)
    return used


def remove_begun(folder: Path) -> None:
    """Remove what an interrupted build has left."""
    for name in (DATA, JOURNAL):
        (folder / name).unlink(missing_ok=True)


def _held(outcome: tuple[np.ndarray, list[np.ndarray], Sample] | Exception) -> int:
    """Bytes of a decoded image and its mask."""
    if isinstance(outcome, Exception):
        return 0
    _, planes, sample = outcome
    return sum(plane.nbytes for plane in planes) + (0 if sample.mask is None else sample.mask.nbytes)


def _nothing() -> dict[str, bytearray | list]:
    """The entries of a journal line without images."""
    return {entry: bytearray() if entry in _PACKED else [] for entry in (*_PACKED, "converted", "skipped", "refused")}


def _lines(journal: Path) -> Iterator[tuple[dict, int]]:
    """The lines of a journal, which may be larger than memory, and where each ends; not a last one that was cut short. Raises
    OSError, and ValueError for a line that is no mapping."""
    with open(journal, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("no mapping")
            yield value, file.tell()


def _checksum(line: dict) -> int:
    return zlib.crc32(json.dumps({name: value for name, value in line.items() if name != "checksum"}).encode())


def _digest(*planes: np.ndarray) -> np.ndarray:
    """Hash shape and content into 16 bytes. A hash safe against forgery took nearly as long as decoding the image."""
    digest = xxhash.xxh3_128(repr((len(planes), *planes[0].shape)).encode())
    for plane in planes:
        digest.update(plane.data)
    return np.frombuffer(digest.digest(), np.uint8)
