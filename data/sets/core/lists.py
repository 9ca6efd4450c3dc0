"""Lists of images in text files, and their splits."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from common.errors import UserError, unknown_name, unreadable
from common.files import read_lines
from common.names import first_names, short
from data.store.listing import stamp_of

T = TypeVar("T")

#: Bytes of a file's name, on most systems.
LONGEST_NAME = 255


def of_split(choices: dict[str, T], split: str) -> T:
    """``choices[split]``. Raises UsageError naming the splits for any other."""
    if split not in choices:
        raise unknown_name("split", split, choices)
    return choices[split]


def read_names(path: Path, file_of: Callable[[str], Path] | None = None) -> list[str]:
    """Read a list of file names without folder and suffix, one a line: any name that the system allows, without line ends.

    Args:
        file_of: the file or folder of a name. Blanks at the ends of a line belong to a name that has a file with them, else not.

    Raises UserError for other lines and repeated names.
    """
    names: list[str] = []
    for number, line in enumerate(read_lines(path), 1):
        name = line.strip()
        if name != line and file_of is not None and _exists(file_of(line)):
            name = line
        if not name:
            continue
        if "/" in name or "\0" in name or name in (".", "..") or len(os.fsencode(name)) > LONGEST_NAME:
            raise UserError(
                f"{path}, line {number}: {short(name, 80)!r} is no name of an image (without folder and suffix)"
            )
        names.append(name)
    return _once(path, names)


def read_classes(path: Path) -> list[str]:
    """Read names of classes, one a line. Raises UserError for repeated names."""
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if any("\0" in name for name in names):
        raise UserError(f"{path}: no UTF-8 text, since it holds zero bytes")
    return _once(path, names)


def _once(path: Path, names: list[str]) -> list[str]:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        last = len(names) - names[::-1].index(repeated[-1])
        raise UserError(
            f"{path}: {len(repeated)} of its names stand there twice ({repeated[-1]!r}, last as name {last})"
        )
    return names


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that the system refuses
        return False


def stamp_of_listed(folder: Path, names: list[str], path: Path) -> str:
    """``stamp_of`` the files below ``folder`` that the list at ``path`` names. Raises UserError if some are missing."""
    missing = []

    def files() -> Iterator[tuple[str, os.stat_result]]:
        for name in names:
            try:
                status = (folder / name).stat()
            except FileNotFoundError:
                missing.append(name)
                continue
            except OSError as error:
                raise UserError(f"{folder / name}: {unreadable(error)}") from error
            yield name, status

    stamp = stamp_of(files())
    if missing:
        shown = first_names(missing, 3)
        raise UserError(f"{folder}: {len(missing)} of the files that {path.name} lists are missing: {shown}")
    return stamp
