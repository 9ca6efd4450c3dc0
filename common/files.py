"""Files that are whole or absent: everything a run writes goes through here."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from common.errors import UserError, first_line, unreadable

if TYPE_CHECKING:
    import numpy as np

#: A list's largest size.
MAX_LIST_BYTES = 2**28
#: No text, no arrays of one file have more; parts of weights are at most so many times as large as their archive.
MOST_CHARACTERS, MOST_ARRAYS, MOST_INFLATED = 2**30, 2**33, 4
#: Of values in a run's files: numbers are no larger, so that their squares and sums stay numbers, and lists no deeper.
MOST_NUMBER, MOST_DEPTH = 1e30, 32


class Pieces(io.FileIO):
    """A file that takes at most a MiB at a time. For larger pieces Linux 6.18 (ext4) finds larger pages in its memory: 167 MB took
    0.05 s of the system's time in pieces of a MiB, 0.7 in 8 MiB, 0.3 to 1.0 (and ten times that on the wall) at once."""

    def write(self, content: Any) -> int | None:
        return super().write(memoryview(content)[: 2**20])


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for bytes, which replaces ``path``, safe on the disk, when the block ends without an error. The umask
    decides who may read it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = os.fsdecode(os.fsencode(path.name)[:200])  # with what follows no longer than a name may be
    name = str(path.with_name(f".{begun}.{secrets.token_hex(4)}.tmp"))
    created = False
    try:
        with io.BufferedWriter(Pieces(name, "x")) as file:  # tempfile's are for their owner alone, whatever the umask
            created = True
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException as error:
        if created:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, name):
            error.filename = str(path)
        raise


def size_in_words(size: float) -> str:
    """Format bytes on a disk or in memory with three digits.

    >>> size_in_words(3 * 2**29), size_in_words(1000 * 2**20)
    ('1.5 GiB', '0.977 GiB')
    """
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 999.5:  # else three digits would need an exponent
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} EiB"


def as_file_name(text: str) -> str:
    """Make a part of a file's name, at most 200 characters long, of any text.

    >>> as_file_name("imagefolder"), as_file_name("hf:uoft-cs/cifar100,label=fine_label")
    ('imagefolder', 'hf_uoft-cs_cifar100_label=fine_label')
    """
    name = re.sub(r"[^A-Za-z0-9_.=+-]", "_", text)
    return name if len(name) <= 200 else f"{name[:180]}-{digest_of(text)}"


def remove_unfinished(folder: Path) -> None:
    """Delete the half-written files of killed processes below a folder that no other process writes to. Folders in it with a file
    ``lock`` are others' (runs in a folder of runs), and stay as they are."""
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(path, name, "lock").exists()]
        for name in files:
            if name.startswith(".") and name.endswith(".tmp"):
                Path(path, name).unlink(missing_ok=True)


def name_also(path: Path, other: Path) -> None:
    """Make ``other`` another name of the file ``path``, or a copy where the file system has no links."""
    if other.exists() and other.samefile(path):
        return  # POSIX renames nothing onto another name of itself
    with atomic_file(other) as file:
        Path(file.name).unlink()
        try:
            os.link(path, file.name)
        except OSError:
            shutil.copyfile(path, file.name)


def opened(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes. Raises OSError for any other: a pipe or a device may keep the reader waiting, or
    never end. Below ``/dev`` anything may be read: a shell names so what it hands over as a file, such as ``<(…)``."""
    from_shell = os.fspath(path).startswith("/dev/")
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if from_shell else os.O_NONBLOCK))
    mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode) or not (from_shell or stat.S_ISREG(mode)):
        os.close(handle)
        raise OSError(errno.EINVAL, f"a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}, no file", str(path))
    return os.fdopen(handle, "rb")


def archive_damage(path: Path) -> str | None:
    """Describe the damage of a zip archive (of ``torch.save`` or ``np.savez``) by its CRC-32s; None if whole. Raises OSError.

    ``torch.load`` does not check them: it read 288 of 300 files with one bit flipped as other numbers. Parts of archives that say
    themselves that they are none of these are not read: in a few bytes there may be gigabytes."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            reason = (_no_arrays if path.suffix == ".npz" else _inflates)(archive, size)
            part = archive.testzip() if reason is None else None
    except Exception as error:  # damaged bytes can raise anything
        if isinstance(error, OSError) and (error.filename is not None or error.errno not in (None, errno.EINVAL)):
            raise  # EINVAL without a file: a damaged offset
        return first_line(error)
    return reason if part is None else f"{part} has another checksum than when it was written"


def _inflates(archive: zipfile.ZipFile, size: int) -> str | None:
    """Whether parts are larger than the archive of ``size`` bytes: ``torch.save`` compresses nothing."""
    inflated = sum(part.file_size for part in archive.infolist())
    if inflated <= MOST_INFLATED * size + 2**26:
        return None
    return f"its {size:,} bytes would become {inflated:,}, and weights are not compressed"


def _no_arrays(archive: zipfile.ZipFile, size: int) -> str | None:
    """Say which part of an archive of ``size`` bytes is no array of the size that its first bytes tell."""
    import numpy as np  # slow, and reading options does not need it

    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    for part in archive.infolist():
        with archive.open(part) as content:
            try:
                shape, _, kind = readers[np.lib.format.read_magic(content)](content)
            except (ValueError, KeyError):
                return f"{part.filename} is no array"
            if kind.hasobject or part.file_size != content.tell() + math.prod(shape) * kind.itemsize:
                return f"{part.filename} is no array of numbers or text of its size"
    inflated = sum(part.file_size for part in archive.infolist())
    # What lies on the disk itself may be read: a store's index has 89 bytes an image.
    if inflated <= max(MOST_ARRAYS, size):
        return None
    return f"its arrays have {inflated:,} bytes, more than any that a run writes"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.npz`` file. Raises OSError, or ValueError with one line for damaged or other content."""
    import numpy as np

    if reason := archive_damage(path):
        raise ValueError(" ".join(reason.split()))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except OSError:
        raise
    except Exception as error:  # no arrays, although the checksums are right
        raise ValueError(first_line(error)) from error


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a compressed ``.npz`` file atomically."""
    import numpy as np

    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)


def read_text(path: Path, most: int | None = None, errors: str = "strict") -> str:
    """Read a UTF-8 file of at most ``most`` characters (default: ``MOST_CHARACTERS``); ``errors`` as for ``open``. Raises OSError,
    or ValueError with a line."""
    most = MOST_CHARACTERS if most is None else most
    try:
        with io.TextIOWrapper(opened(path), encoding="utf-8-sig", errors=errors) as file:
            text = file.read(most + 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 text ({error.reason} at byte {error.start})") from error
    if len(text) > most:
        raise ValueError(f"more than {most:,} characters")
    return text


def read_list(path: Path) -> str:
    """Read a text file that holds names of files. Bytes that are no UTF-8 stand as in the names that ``os.listdir`` gives, and line
    ends as in the file. Raises UserError for a file that cannot be read, is UTF-16, or has more than ``MAX_LIST_BYTES``."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_LIST_BYTES:
            raise UserError(f"{path}: no regular file, or more than {size_in_words(MAX_LIST_BYTES)}; that is no list")
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise UserError(f"{path}: {unreadable(error)}") from error
    if "\0" in text and text.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        raise UserError(f"{path}: no UTF-8 text, but UTF-16; save it as UTF-8")
    return text


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list, which may hold any characters but their ends, ``\\n`` or ``\\r\\n``. Errors are ``read_list``'s."""
    lines = read_list(path).split("\n")
    if not lines[-1]:
        lines.pop()
    if all(line.endswith("\r") for line in lines[: max(1, len(lines) - 1)]):  # else it belongs to the names
        lines = [line.removesuffix("\r") for line in lines]
    return lines


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically. Raises ValueError for NaN, which JSON lacks and no result is."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of values as ``require_plain`` wants them. Raises OSError, or ValueError with one line."""
    try:
        value = json.loads(read_text(path))
        require_plain(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {first_line(error)}") from error
    return value


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a JSON-lines log, in one write, so a killed process can at most lose its last line. Raises OSError,
    and leaves the log as it was, if the disk takes only a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        end, line = file.seek(0, os.SEEK_END), (json.dumps(record) + "\n").encode()
        try:
            while line:
                line = line[file.write(line) :]
        except OSError as error:
            file.truncate(end)
            error.filename = str(path)
            raise


def require_plain(value: Any) -> None:
    """Raise ValueError unless a value is None, a boolean, text, a number up to ``MOST_NUMBER`` (or NaN, infinity), or lists and
    mappings from text of these, ``MOST_DEPTH`` deep."""
    level = [value]
    for _ in range(MOST_DEPTH):
        deeper = []
        for item in level:
            if isinstance(item, dict):
                if wrong := [key for key in item if not isinstance(key, str)]:
                    raise ValueError(f"{wrong[0]!r} is no name")
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
            elif isinstance(item, (int, float)):
                if MOST_NUMBER < abs(item) < math.inf:
                    raise ValueError(f"a number of more than {MOST_NUMBER:g}")
            elif item is not None and not isinstance(item, str):
                raise ValueError(f"{item!r} is no number and no text")
        if not deeper:
            return
        level = deeper
    raise ValueError("nested too deeply")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines log, except a last line cut short. Raises ValueError naming file and line for other damage."""
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    records = []
    for number, record in parse_json_lines(text):
        if isinstance(record, ValueError):
            raise ValueError(f"{path}, line {number}: not a record ({record})") from record
        records.append(record)
    return records


def parse_json_lines(text: str, skip: Collection[int] = ()) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Yield (line number, record) of a JSON-lines log, with an error in place of a damaged record. Skips the lines numbered in
    ``skip``, empty lines, and a last line cut short by a kill."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if number in skip or not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("no mapping")
            require_plain(record)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # no newline after it: the write was cut short
                return
            record = ValueError(str(error))
        yield number, record


#: libyaml's loader, ten times as fast. Deep nesting overflows its stack and kills the process.
_FAST_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: No configuration has more characters, or more values after aliases are expanded.
MAX_YAML_VALUES, MAX_YAML_LENGTH = 100_000, 2**24


def parse_yaml(text: str) -> Any:
    """Parse YAML text safely: tags that name Python objects are refused.

    Raises ValueError, with one line, also for merge keys (which can fill the memory while they are read) and for aliases that
    stand for too many values."""
    if re.search(r"<<[\"']?\s*:", text):
        raise ValueError("it holds a merge key, <<; write the values out")
    try:
        value = yaml.load(text, Loader=_FAST_YAML if sum(map(text.count, "[{-?:")) < 2000 else yaml.SafeLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # a tag on a value that it does not fit can raise anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    count, pending = 0, [value]
    while pending:
        item = pending.pop()
        count += 1
        if count > MAX_YAML_VALUES:
            raise ValueError(f"more than {MAX_YAML_VALUES:,} values, or an alias within what it stands for")
        pending += [*item, *item.values()] if isinstance(item, dict) else item if isinstance(item, list) else ()
    return value


def read_yaml(path: Path) -> Any:
    """``parse_yaml`` a UTF-8 file. Also raises OSError."""
    return parse_yaml(read_text(path, MAX_YAML_LENGTH))


def digest_of(value: Any) -> str:
    """Hash a JSON-able value into 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
