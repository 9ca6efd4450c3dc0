"""Data that one evaluation reads in its own way, such as videos with masks, or queries and their answers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from common.errors import UserError, unreadable
from data.sets.core.base import DataSet


class Benchmark(DataSet):
    """A data set without splits of labelled images. The constructor of a subclass sets ``files``, all that the evaluation reads
    in a fixed order, and raises UserError if some are missing or wrong."""

    is_benchmark = True
    files: tuple[Path, ...]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.files, self.root)


def fingerprint_of(files: Iterable[Path], root: Path) -> str:
    """Hash files' contents, and names relative to ``root``, into 16 hexadecimal digits. Raises UserError."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(f"{os.path.relpath(path, root)}\0"))
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: {unreadable(error)}") from error
    return digest.hexdigest()[:16]
