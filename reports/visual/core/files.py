"""Image files that users hand in, read as image viewers show them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.progress import warn
from data.sets.core.folders import is_image, is_stray
from data.store.decode import DamagedImage, decode_image
from reports.visual.core.style import readable


def files_of(paths: Sequence[str]) -> list[Path]:
    """List files, and the image files of folders in the order of their names, 2 before 10. Files of folders that are no images are
    named in a note. Raises UserError for a missing path or a folder without images."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside, others = _images_in(path)
            if not inside:
                raise UserError(f"{path}: a folder without image files in it; give image files, or a folder of them")
            if others:
                more = f" and {len(others) - 5} more" if len(others) > 5 else ""
                warn(f"{path}: left out, no images: {readable(', '.join(others[:5]))}{more}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file or folder; give image files, or folders of them")
    return files


def _images_in(folder: Path) -> tuple[list[Path], list[str]]:
    """A folder's images in their order, and the names of what else is there. A file with an image's suffix is one, even damaged:
    reading it says so."""
    visible = [entry for entry in folder.iterdir() if not is_stray(entry.name)]
    images = [entry for entry in visible if entry.is_file() and is_image(entry)]
    others = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in visible if entry not in images]
    return sorted(images, key=natural_order), sorted(others)


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sort numbers in names by their values: frame2.png before frame10.png."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def picture_pixels(path: Path) -> np.ndarray:
    """Read an image as viewers show it: upright by its EXIF orientation, and on white where it is transparent: uint8
    ``[H, W, 3]``. Raises UserError, with the reason, for a file that is damaged or ambiguous."""
    try:
        return decode_image(path, as_seen=True).pixels
    except DamagedImage as error:
        raise UserError(f"{path}: no usable image: {error}") from error
