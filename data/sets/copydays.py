"""INRIA Copydays (Douze et al. 2009): photos, and strongly edited copies of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import UserError
from data.sets.core.base import DATASETS
from data.sets.core.benchmark import Benchmark
from data.sets.core.folders import is_stray

#: Characters at the start of a file's name that a copy shares with its original.
PREFIX = 4
_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}


@DATASETS.register("copydays")
class Copydays(Benchmark):
    """JPEG files in ``original/`` and ``strong/``; ``relevant`` has the places (int64) of each copy's originals."""

    title = "Copydays"
    citation = "Douze et al. 2009"

    def __init__(self, name: str, root: Path):
        super().__init__(name, root)
        self.originals, self.copies = (_photos(root / part) for part in ("original", "strong"))
        self.files = (*self.originals, *self.copies)
        self.relevant = []
        for copy in self.copies:
            start = copy.name[:PREFIX]
            places = [place for place, photo in enumerate(self.originals) if photo.name[:PREFIX] == start]
            if not places:
                raise UserError(f"{copy}: no file in {root / 'original'} starts with {start}, as its original does")
            self.relevant.append(np.array(places, np.int64))


def image_files(folder: Path) -> tuple[Path, ...]:
    """List the image files of a folder, by name. Raises UserError if it has none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = tuple(
        sorted(
            file
            for file in folder.iterdir()
            if file.suffix.lower() in _SUFFIXES and not is_stray(file.name) and file.is_file()
        )
    )
    if not files:
        raise UserError(f"{folder}: holds no images ({', '.join(sorted(_SUFFIXES))})")
    return files


def _photos(folder: Path) -> tuple[Path, ...]:
    files = tuple(sorted(file for file in folder.glob("*.jpg") if not is_stray(file.name)))
    if not files:
        raise UserError(f"{folder}: no JPEG files; Copydays has its photos in original/ and strong/")
    return files
