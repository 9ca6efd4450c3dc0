"""Data that one evaluation reads in its own way, such as videos with their masks, or queries with what they are to find: no splits
of labelled images, so no image store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Files of a benchmark, found to be there. Subclasses say what they are.

    Attributes:
        name: the data set's name.
        root: its folder.
        files: all that is read, in a fixed order.
    """

    name: str
    root: Path
    files: tuple[Path, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the files' names and bytes: equal where these and their order are equal."""
        return fingerprint_of(self.files, self.root)


def fingerprint_of(files: Iterable[Path], root: Path) -> str:
    """16 hexadecimal digits over the names of files, relative to ``root``, and their bytes. Raises UserError where one cannot be
    read."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(f"{os.path.relpath(path, root)}\0"))
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()[:16]
