"""Building image stores: decode in parallel, write in order, keep a journal, so that an interrupted build continues."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shutil
import time
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.ahead import ahead
from common.distributed import is_main
from common.download import cache_root
from common.errors import UserError
from common.files import append_json_line, atomic_file, read_arrays, read_json_lines, remove_unfinished, write_text
from common.lock import owned_lock
from data.store.decode import DamagedImage, WrongData, check_file, kept_size
from data.store.listing import Listing
from data.store.store import RECORD, ImageStore
from data.store.stream import StreamedStore, processors

#: Part of every store's key: raise it when what a store holds for the same source changes.
FORMAT = 2
#: Seconds between commits to the journal: the most work that an interruption costs.
COMMIT_SECONDS = 2.0
#: Images whose headers are read to see how large a store will be, and the part of the free space that it may take.
HEADERS = 256
PART_OF_FREE_SPACE = 0.95


def open_store(
    listing: Listing, short_side: int | None, cache: Path | None, progress: bool, stream: bool = False
) -> ImageStore:
    """The store of a listing, built if there is none yet, or if the source (names, sizes, modification times, labels) or
    ``short_side`` has changed. Processes that want the same store at once wait for the first.

    With ``stream``, or where a store would not fit on the disk, every image is decoded once, to check and count it, and then
    anew whenever it is needed; a store that exists is used all the same.

    Raises UserError for data that are refused (see ``Listing.read``), for a split without a usable image, and for a full or
    read-only cache folder.
    """
    source = hashlib.sha256(os.fsencode(listing.root.resolve())).hexdigest()[:12]
    folder = cache_root(cache) / f"{listing.data}-{listing.split}-{short_side or 'full'}-{source}"
    key = _key(listing, short_side)
    console = Console(stderr=True, quiet=not is_main(), soft_wrap=True, highlight=False)
    try:
        store = _load(folder, key, listing, short_side)
        if store is None:
            with owned_lock(
                folder / "lock", lambda owner: console.print(f"waiting for {owner}, which builds {folder.name}")
            ):
                store = _load(folder, key, listing, short_side)
                if store is None:
                    if not stream and (told := _too_large(folder, listing, short_side)):
                        console.print(f"{listing.data} {listing.split}: {told}", markup=False)
                        stream = True
                    folder = folder / "streamed" if stream else folder
                    store = _load(folder, key, listing, short_side)
                if store is None:
                    _Builder(folder, key, listing, short_side, keep=not stream).run(progress and is_main())
                    store = _load(folder, key, listing, short_side)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            f"{folder}: the image store cannot be written or read ({error.strerror or error}); "
            + ("free some space, train with --stream, which keeps no images, or " if full else "")
            + "set SSL_COMPARE_CACHE to another folder"
        ) from error
    if store.damaged:
        shown = "; ".join(f"{name} ({reason})" for name, reason in store.damaged[:3])
        rest = f"; … (python run.py data {listing.data} lists all)" if len(store.damaged) > 3 else ""
        console.print(
            f"{listing.data} {listing.split}: {len(store):,} images, {len(store.damaged):,} more skipped: {shown}{rest}",
            markup=False,
        )
    return store


def _too_large(folder: Path, listing: Listing, short_side: int | None) -> str | None:
    """A sentence where the listing's store would not fit on the disk of ``folder``, by the sizes of some of its images."""
    rows = np.unique(np.linspace(0, len(listing.names) - 1, HEADERS).astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # data.store.decode refuses such images itself
        sizes = [size for row in rows if (size := _bytes_of(listing, row, short_side)) is not None]
    if not sizes:
        return None  # the build says what is wrong with them
    needed = sum(sizes) / len(sizes) * len(listing.names)
    begun = folder / _Builder.DATA
    free = shutil.disk_usage(folder).free + (begun.stat().st_size if begun.exists() else 0)
    if needed <= PART_OF_FREE_SPACE * free:
        return None
    return (
        f"decoded, the images would take about {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free at {folder.parent}; "
        "so they are decoded once now, to check them, and anew for each batch"
    )


def _bytes_of(listing: Listing, row: int, short_side: int | None) -> int | None:
    """What an image and its mask take in a store, by the image's header; None where it has none."""
    if listing.arrays is not None:
        height, width = listing.arrays[row].shape[:2]
    else:
        try:
            check_file(path := listing.root / listing.names[row])
            with Image.open(path) as image:
                width, height = image.size
        except Exception:  # Pillow raises many kinds; the build tells what it finds
            return None
    kept = kept_size(width, height, short_side)
    return 3 * kept[0] * kept[1] + (0 if listing.masks is None else width * height)


class _Builder:
    """One build. ``building.bin`` grows by images and masks, in the listing's order; each line of ``building.jsonl`` tells of
    what was added since the line before and has reached the disk. Without ``keep`` only the lines are written."""

    DATA = "building.bin"

    def __init__(self, folder: Path, key: str, listing: Listing, short_side: int | None, keep: bool):
        self.folder, self.key, self.listing, self.short_side, self.keep = folder, key, listing, short_side, keep
        self.data = folder / self.DATA
        self.journal = folder / "building.jsonl"
        self.commits: list[dict] = []

    def run(self, progress: bool) -> None:
        """Build or continue, then put the finished store in its place. Raises UserError for refused data."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder)
        self._resume()
        start = self.commits[-1]["next"] if self.commits else 0
        with open(self.data, "r+b") as file, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # data.store.decode refuses such images itself
            file.seek(0, os.SEEK_END)
            self._add_images(file, start, progress)
        self._finish()

    def _resume(self) -> None:
        """Take over what an interrupted build of the same source left, up to its last commit."""
        try:
            header, *self.commits = read_json_lines(self.journal)
            usable = header == {"key": self.key} and self.data.is_file() and all(map(_is_commit, self.commits))
        except (OSError, ValueError):  # no journal, an empty one, or a damaged one
            usable = False
        end = self.commits[-1]["end"] if usable and self.commits else 0
        if not usable or self.data.stat().st_size < end:
            self.commits, end = [], 0
            self.data.write_bytes(b"")
        os.truncate(self.data, end)
        # Written anew, since a last line cut short would spoil the next.
        write_text(self.journal, "".join(json.dumps(line) + "\n" for line in ({"key": self.key}, *self.commits)))

    def _add_images(self, file: BinaryIO, start: int, show: bool) -> None:
        total = len(self.listing.names)
        columns = ("{task.description}", "images/s {task.fields[rate]:.0f}", "skipped {task.fields[skipped]}")
        bar = Progress(
            TextColumn(columns[0]),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(columns[1]),
            TextColumn(columns[2]),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        skipped = sum(len(commit["skipped"]) for commit in self.commits)
        commit = _Commit(file.tell(), self.keep)
        began = committed = time.monotonic()
        with bar:
            task = bar.add_task(
                f"{'decoding' if self.keep else 'checking'} {self.listing.data} {self.listing.split}",
                total=total,
                completed=start,
                rate=0.0,
                skipped=skipped,
            )
            # A bounded number ahead, since decoded photos are large.
            outcomes = ahead(self._read, range(start, total), processors(), 4 * processors())
            for row, outcome in enumerate(outcomes, start):
                commit.add(file, row, outcome)
                now = time.monotonic()
                if now - committed >= COMMIT_SECONDS or row == total - 1:
                    skipped += len(commit.skipped)
                    self._commit(file, commit, row + 1)
                    commit, committed = _Commit(file.tell(), self.keep), now
                bar.update(task, completed=row + 1, rate=(row + 1 - start) / max(now - began, 1e-9), skipped=skipped)

    def _read(self, row: int) -> _Outcome:
        """Decode one image. It runs in a thread: Pillow and hashlib let the others run while they work."""
        try:
            sample = self.listing.read(row, self.short_side)
        except DamagedImage as reason:
            return _Outcome(skipped=str(reason))
        except WrongData as error:
            return _Outcome(refused=str(error))
        planes = sample.image.planes
        record = np.zeros((), RECORD)
        record["row"] = row
        record["size"] = planes[0].shape
        record["original_size"] = sample.image.original_size
        record["digest"] = _digest(*planes)
        if sample.mask is not None:
            record["mask_digest"] = _digest(sample.mask)
        return _Outcome(record, planes, sample.mask, sample.label_set, sample.image.note)

    def _commit(self, file: BinaryIO, commit: _Commit, following: int) -> None:
        file.flush()
        os.fsync(file.fileno())
        line = commit.line(file.tell(), following)
        append_json_line(self.journal, line)
        self.commits.append(line)

    def _finish(self) -> None:
        listing = self.listing
        refused = [message for commit in self.commits for message in commit["refused"]]
        skipped = [(row, reason) for commit in self.commits for row, reason in commit["skipped"]]
        records = np.frombuffer(b"".join(base64.b64decode(commit["records"]) for commit in self.commits), RECORD)
        if refused or not len(records):
            self.data.unlink()
            self.journal.unlink()
            if refused:
                more = f" (and {len(refused) - 1} more: {'; '.join(refused[1:4])})" if len(refused) > 1 else ""
                raise UserError(refused[0] + more)
            row, reason = skipped[0]
            raise UserError(
                f"{listing.root}: none of the {len(skipped)} images of {listing.data} {listing.split} can be used; "
                f"the first, {listing.names[row]}: {reason}"
            )
        arrays = {"records": records}
        if listing.labels is None:
            packed = b"".join(base64.b64decode(commit["label_sets"]) for commit in self.commits)
            arrays["label_sets"] = np.frombuffer(packed, bool).reshape(len(records), len(listing.classes))
        converted = [pair for commit in self.commits for pair in commit["converted"]]
        about = {"key": self.key, "bytes": self.commits[-1]["end"], "skipped": skipped, "converted": converted}
        about["streamed"] = not self.keep
        self.data.replace(self.folder / _pixel_file(self.key))
        with atomic_file(self.folder / "index.npz") as file:
            np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
        self.journal.unlink()
        for old in self.folder.glob("pixels-*.bin"):
            if old.name != _pixel_file(self.key):
                old.unlink()


class _Outcome:
    """What became of one image: its record and contents, or why it was skipped, or why the data set is refused."""

    def __init__(self, record=None, planes=None, mask=None, label_set=None, note="", skipped=None, refused=None):
        self.record, self.planes, self.mask, self.label_set, self.note = record, planes, mask, label_set, note
        self.skipped, self.refused = skipped, refused


class _Commit:
    """What is added between two lines of the journal."""

    def __init__(self, end: int, keep: bool):
        self.end, self.keep = end, keep
        self.records: list[np.ndarray] = []
        self.label_sets: list[np.ndarray] = []
        self.converted: list[tuple[int, str]] = []
        self.skipped: list[tuple[int, str]] = []
        self.refused: list[str] = []

    def add(self, file: BinaryIO, row: int, outcome: _Outcome) -> None:
        if outcome.refused is not None:
            self.refused.append(outcome.refused)
            return
        if outcome.skipped is not None:
            self.skipped.append((row, outcome.skipped))
            return
        outcome.record["offset"] = self._write(file, *outcome.planes)
        outcome.record["mask_offset"] = -1 if outcome.mask is None else self._write(file, outcome.mask)
        self.records.append(outcome.record)
        if outcome.label_set is not None:
            self.label_sets.append(outcome.label_set)
        if outcome.note:
            self.converted.append((row, outcome.note))

    def _write(self, file: BinaryIO, *arrays: np.ndarray) -> int:
        if not self.keep:
            return -1
        offset = self.end
        for array in arrays:
            file.write(array.data)
            self.end += array.nbytes
        return offset

    def line(self, end: int, following: int) -> dict:
        line = {
            "next": following,
            "end": end,
            "records": base64.b64encode(b"".join(record.tobytes() for record in self.records)).decode(),
            "label_sets": base64.b64encode(b"".join(label_set.tobytes() for label_set in self.label_sets)).decode(),
            "converted": self.converted,
            "skipped": self.skipped,
            "refused": self.refused,
        }
        return {**line, "checksum": _checksum(line)}


def _is_commit(line: dict) -> bool:
    """Whether a journal's line is what ``_Commit.line`` writes, unchanged."""
    return line.get("checksum") == _checksum(line)


def _checksum(line: dict) -> int:
    return zlib.crc32(json.dumps({name: value for name, value in line.items() if name != "checksum"}).encode())


def _load(folder: Path, key: str, listing: Listing, short_side: int | None) -> ImageStore | None:
    """The finished store, or None where there is none for this key or its file is not whole."""
    try:
        index = read_arrays(folder / "index.npz")
        about = json.loads(index["about"].tobytes())
        if about["key"] != key:
            return None
        records, label_sets = index["records"], index.get("label_sets")
        path = folder / _pixel_file(key)
        if path.stat().st_size != about["bytes"]:
            return None
        streamed = about.get("streamed", False)
        pixels = None if streamed else np.asarray(np.memmap(path, np.uint8, mode="r"))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    damaged = [(listing.names[row], reason) for row, reason in about["skipped"]]
    converted = [(listing.names[row], note) for row, note in about["converted"]]
    kind = StreamedStore if streamed else ImageStore
    return kind(listing, short_side, pixels, records, label_sets, damaged, converted)


def _key(listing: Listing, short_side: int | None) -> str:
    labels = "several" if listing.labels is None else hashlib.sha256(listing.labels.tobytes()).hexdigest()
    parts = [FORMAT, listing.stamp, short_side, listing.classes, labels]
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()


def _pixel_file(key: str) -> str:
    return f"pixels-{key[:16]}.bin"


def _digest(*planes: np.ndarray) -> np.ndarray:
    """16 bytes that are equal for equal shape and content, and by chance for others: they tell apart, they protect from nobody. A
    cryptographic hash took nearly as long as decoding the image."""
    digest = xxhash.xxh3_128(repr((len(planes), *planes[0].shape)).encode())
    for plane in planes:
        digest.update(plane.data)
    return np.frombuffer(digest.digest(), np.uint8)
