"""What the cache folder holds: stores, checks of streamed images, weights and generated data; since when, and how much."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.download import WEIGHTS, cache_root
from common.errors import UserError, why
from common.files import read_arrays
from common.lock import owned_lock
from data.store.build import DATA, JOURNAL
from data.store.index import INDEX, is_in_use


@dataclass(frozen=True)
class Entry:
    """A part of the cache that can be removed by itself.

    Attributes:
        name: of its folder or file, below the cache folder.
        kind: in words.
        source: the folder that its images come from; "" if unknown.
        size: bytes on the disk.
        since: when it was made.
    """

    name: str
    path: Path
    kind: str
    source: str
    size: int
    since: datetime


def entries(cache: Path | None = None) -> list[Entry]:
    """List the cache, the largest first. Raises OSError."""
    root = cache_root(cache)
    if not root.is_dir():
        return []
    paths = [path for path in root.iterdir() if path.name != WEIGHTS and not path.name.endswith(".lock")]
    paths += [file for file in (root / WEIGHTS).glob("*/*") if file.name != ".lock"]
    listed = [_entry(path, path.relative_to(root).as_posix()) for path in paths]
    return sorted(listed, key=lambda entry: (-entry.size, entry.name))


def hub_cache() -> tuple[Path, int]:
    """The Hugging Face hub's cache, which other programs share, and its bytes (0 where there is none)."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    return folder, _size(_files(folder))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.is_file() else []
    return [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_blocks * 512 for file in files)


def _entry(path: Path, name: str) -> Entry:
    files = _files(path)
    kind, source, made = "generated data", "", path
    if name.startswith(f"{WEIGHTS}/"):
        kind = "weights"
    elif (path / INDEX).is_file():
        kind, made = "store", path / INDEX
        if any(file.parent == path and file.name == DATA for file in files):
            kind = "store, and one being built"
    elif any((folder / JOURNAL).is_file() for folder in (path, path / "streamed")):
        kind, made = "unfinished store", path / JOURNAL
    elif (path / "streamed" / INDEX).is_file():
        kind, made = "check of streamed images", path / "streamed" / INDEX
    elif path.is_dir() and not files:
        kind = "empty folder"
    elif {file.name for file in files} == {"lock"}:
        kind = "empty store"
    if made.name == INDEX:
        source = _source(made)
    made = made if made.exists() else path
    return Entry(name, path, kind, source, _size(files), datetime.fromtimestamp(made.stat().st_mtime, UTC))


def _source(index: Path) -> str:
    """The folder that an index names; older ones name none."""
    try:
        return str(json.loads(read_arrays(index)["about"].tobytes()).get("root") or "")
    except (OSError, ValueError, KeyError, AttributeError):
        return ""


def remove(entry: Entry) -> None:
    """Delete an entry. Raises UserError if a process uses or builds it, or it cannot be deleted."""

    def refuse(owner: str) -> None:
        raise UserError(f"{entry.path}: {owner} is at work on it; wait for its end")

    try:
        if not entry.path.is_dir():
            entry.path.unlink()
            return
        if entry.kind == "generated data":
            shutil.rmtree(entry.path)
            return
        with owned_lock(entry.path / "lock", refuse):
            for pixels in entry.path.glob("pixels-*.bin"):
                if is_in_use(pixels):
                    raise UserError(f"{entry.path}: a process reads its images; wait for its end")
            for path in entry.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
            # Within the lock, and at last: a process that waits for it may build here the moment it has it.
            (entry.path / "lock").unlink()
            with suppress(OSError):  # one has begun, under a lock file of its own
                entry.path.rmdir()
    except OSError as error:
        raise UserError(f"{entry.path}: cannot be removed ({why(error)})") from error
