"""DAVIS 2017 (Pont-Tuset et al. 2017, arXiv 1704.00675): videos at 480p with a mask of their objects for each frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.images import VOID
from data.sets.core.base import DATASETS
from data.sets.core.benchmark import Benchmark
from data.sets.core.folders import is_stray
from data.sets.core.lists import read_names
from data.store.masks import read_ids

LIST = Path("ImageSets/2017/val.txt")


@dataclass(frozen=True)
class Video:
    """A sequence: as many masks as frames, in the order of their names."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    def read_masks(self) -> np.ndarray:
        """Read the object ids of all frames, uint8 ``[T, H, W]``: 0 background, 1, 2, … the objects of the first frame.

        If the first mask holds 0 and 255 only, as in DAVIS 2016, 255 is object 1 in all masks; else it is void, which the
        benchmark counts as background. Objects that the first mask lacks become background, too.

        Raises UserError for unreadable masks, masks of other sizes, and a first mask without objects or with a gap in its ids.
        """
        masks = [read_ids(file) for file in self.masks]
        first = masks[0]
        for file, mask in zip(self.masks, masks, strict=True):
            if mask.shape != first.shape:
                (h, w), (first_h, first_w) = mask.shape, first.shape
                raise UserError(
                    f"{file}: the mask is {h}×{w} pixels and the video's first {first_h}×{first_w} (height×width); "
                    "masks of a video have one size"
                )
        ids = np.stack(masks)
        values = set(np.unique(first).tolist())
        objects = sorted(values - {0, VOID})
        if not objects and VOID in values:
            for file, mask in zip(self.masks, masks, strict=True):
                if not np.isin(mask, (0, VOID)).all():
                    raise UserError(
                        f"{file}: holds other values than 0 and 255, which the video's first mask has; one of them is of "
                        "another video, or damaged"
                    )
            return (ids == VOID).astype(np.uint8)
        if objects != list(range(1, len(objects) + 1)) or not objects:
            numbers = ", ".join(map(str, objects)) or "none"
            raise UserError(
                f"{self.masks[0]}: the objects of a video's first mask are numbered 1, 2, … (here: {numbers}); nothing can be "
                "propagated from it"
            )
        ids[ids > len(objects)] = 0
        return ids


@DATASETS.register("davis")
class Davis(Benchmark):
    """The validation videos: ``ImageSets/2017/val.txt``, ``JPEGImages/480p/VIDEO``, ``Annotations/480p/VIDEO``."""

    title = "DAVIS 2017"
    citation = "Pont-Tuset et al. 2017, arXiv 1704.00675"

    def __init__(self, name: str, root: Path):
        super().__init__(name, root)
        path = root / LIST
        if not path.is_file():
            raise UserError(f"{path}: the list of videos is missing; is {root} in DAVIS 2017's layout?")
        if not (names := read_names(path, lambda video: root / "JPEGImages" / "480p" / video)):
            raise UserError(f"{path}: names no video; is {root} a whole DAVIS 2017?")
        self.videos = tuple(_video(root, video) for video in names)
        self.files = tuple(file for video in self.videos for file in (*video.frames, *video.masks))


def _video(root: Path, name: str) -> Video:
    folder = root / "JPEGImages" / "480p" / name
    frames = sorted(frame for frame in folder.glob("*.jpg") if not is_stray(frame.name))
    if len(frames) < 4:
        raise UserError(
            f"{folder}: {len(frames)} frames (JPEG files); a video has at least 4: the first and the last are not measured"
        )
    masks = [root / "Annotations" / "480p" / name / f"{frame.stem}.png" for frame in frames]
    missing = [mask for mask in masks if not mask.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: the mask is missing, one of {len(missing)} that the video {name} lacks")
    return Video(name, tuple(frames), tuple(masks))
