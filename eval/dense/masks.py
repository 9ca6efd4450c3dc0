"""Predicted masks as palette PNGs, which image viewers show in VOC's colours and programs read as class ids."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from common.files import atomic_file
from common.images import voc_palette


class MaskFiles:
    """The masks of a test set by one head, in ``folder``: a file for each image, of the image's size and name."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder = folder
        self._files = [folder / name for name in mask_names(names)]

    @property
    def are_whole(self) -> bool:
        return all(file.is_file() for file in self._files)

    def clear(self) -> None:
        """Remove the masks of an earlier prediction."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def write(self, image: int, classes: np.ndarray) -> None:
        """Write the classes of an image, uint8 ``[H, W]``."""
        write_mask(self._files[image], classes)


def write_mask(path: Path, values: np.ndarray) -> None:
    """Write a mask, uint8 ``[H, W]``, as a palette PNG."""
    mask = Image.fromarray(values)
    mask.putpalette(voc_palette().tobytes())
    with atomic_file(path) as file:
        mask.save(file, "PNG")


def mask_names(names: Sequence[str]) -> list[str]:
    """Name the mask of each image like the image, below the folder that all images share; with the image's suffix where two differ
    in nothing else.

    >>> mask_names(["JPEGImages/2007_000033.jpg", "JPEGImages/2007_000042.jpg"])
    ['2007_000033.png', '2007_000042.png']
    >>> mask_names(["val/a/1.jpg", "val/b/1.jpg", "val/b/1.png"])
    ['a/1.png', 'b/1.jpg.png', 'b/1.png.png']
    """
    paths = [[part for part in PurePosixPath(name).parts if part not in ("/", "..")] for name in names]
    first, last = min(paths)[:-1], max(paths)[:-1]
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    whole = ["/".join(parts[shared:]) for parts in paths]
    stems = [str(PurePosixPath(name).with_suffix("")) for name in whole]
    counts = Counter(stem.casefold() for stem in stems)  # some file systems do not tell A from a
    return [f"{stem if counts[stem.casefold()] == 1 else name}.png" for stem, name in zip(stems, whole, strict=True)]
