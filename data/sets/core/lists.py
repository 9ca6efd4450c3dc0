"""Lists of images in text files, and their splits."""

import re
import stat
from pathlib import Path
from typing import TypeVar

from common.errors import UserError, unknown_name
from common.files import read_text
from data.store.listing import stamp_of

T = TypeVar("T")

#: A list's largest size.
MAX_BYTES = 2**28


def of_split(choices: dict[str, T], split: str) -> T:
    """``choices[split]``. Raises UsageError naming the splits for any other."""
    if split not in choices:
        raise unknown_name("split", split, choices)
    return choices[split]


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file. Raises UserError for other files and for one above ``MAX_BYTES``."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise UserError(f"{path}: no regular file, or more than 256 MiB; that is no list")
        return read_text(path).splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def read_names(path: Path) -> list[str]:
    """Read a list of file names without folder and suffix, one a line. Raises UserError for other lines and repeated names."""
    names: dict[str, int] = {}
    repeated = []
    for number, line in enumerate(read_lines(path), 1):
        if not (name := line.strip()):
            continue
        if not re.fullmatch(r"[^\s/\\\x00-\x1f\x7f\ufffd]{1,200}", name) or name.startswith("."):
            raise UserError(
                f"{path}, line {number}: {name[:80]!r} is no name of an image (a word without folder and suffix)"
            )
        if name in names:
            repeated.append(name)
        names[name] = number
    if repeated:
        raise UserError(
            f"{path}: {len(repeated)} of its names stand there twice ({repeated[0]} last in line {names[repeated[0]]})"
        )
    return list(names)


def stamp_of_listed(folder: Path, names: list[str], path: Path) -> str:
    """``stamp_of`` the files below ``folder`` that the list at ``path`` names. Raises UserError if some are missing."""
    stats, missing = [], []
    for name in names:
        try:
            stats.append((name, (folder / name).stat()))
        except FileNotFoundError:
            missing.append(name)
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror})") from error
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise UserError(f"{folder}: {len(missing)} of the files that {path.name} lists are missing: {shown}")
    return stamp_of(stats)
