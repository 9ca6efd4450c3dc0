"""INRIA Copydays (Douze et al. 2009): photos, and strongly edited copies of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.sets.benchmark import Benchmark

#: So many characters at the start of a file's name tell which photo it is a copy of.
PREFIX = 4
_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, kw_only=True)
class Copydays(Benchmark):
    """The originals and the "strong" copies.

    Attributes:
        originals, copies: files.
        relevant: for each copy, the places of its originals, int64.
    """

    originals: tuple[Path, ...]
    copies: tuple[Path, ...]
    relevant: list[np.ndarray]


def read_copydays(data: str, root: Path) -> Copydays:
    """Copydays as INRIA gives it: JPEG files in ``original/`` and ``strong/``.

    Raises UserError for a missing or empty folder, and for a copy whose original is missing.
    """
    originals, copies = (_photos(root / part) for part in ("original", "strong"))
    relevant = []
    for copy in copies:
        places = [place for place, photo in enumerate(originals) if photo.name[:PREFIX] == copy.name[:PREFIX]]
        if not places:
            raise UserError(
                f"{copy}: no file in {root / 'original'} starts with {copy.name[:PREFIX]}, as its original does"
            )
        relevant.append(np.array(places, np.int64))
    return Copydays(
        name=data,
        root=root,
        files=(*originals, *copies),
        originals=originals,
        copies=copies,
        relevant=relevant,
    )


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, by name. Raises UserError where there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = tuple(sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file()))
    if not files:
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(_SUFFIXES))})")
    return files


def _photos(folder: Path) -> tuple[Path, ...]:
    files = tuple(sorted(folder.glob("*.jpg")))
    if not files:
        raise UserError(f"{folder}: no JPEG files; Copydays has its photos in original/ and strong/")
    return files
