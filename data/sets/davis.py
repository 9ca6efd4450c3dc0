"""DAVIS 2017 (Pont-Tuset et al. 2017, arXiv 1704.00675): videos at 480p with a mask of their objects for each frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.sets.benchmark import Benchmark
from data.store.decode import read_ids
from data.store.listing import read_names

#: Value of void pixels, or of the one object where a video's first mask knows no other.
VOID = 255
LIST = Path("ImageSets/2017/val.txt")


@dataclass(frozen=True)
class Video:
    """One sequence.

    Attributes:
        name: of its folder.
        frames, masks: files, in the order of their names; the same number of both.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    def read_masks(self) -> np.ndarray:
        """Object ids of all frames, uint8 ``[T, H, W]``: 0 background, 1, 2, … the objects of the first frame.

        Where the first mask has no values but 0 and 255, as DAVIS 2016 has them, 255 is object 1 in all of them; elsewhere it
        is void, which the benchmark counts as background. Objects that the first mask lacks are no part of the
        benchmark, and become background, too.

        Raises UserError for a mask that cannot be read, of other pixels than ids, or of another size than the first; for a first
        mask without an object, or with a gap in its ids.
        """
        masks = []
        for file in self.masks:
            mask = read_ids(file)
            if masks and mask.shape != masks[0].shape:
                (h, w), (first_h, first_w) = mask.shape, masks[0].shape
                raise UserError(
                    f"{file}: the mask is {h}×{w} pixels and the video's first {first_h}×{first_w} (height×width); "
                    "masks of a video have one size"
                )
            masks.append(mask)
        ids = np.stack(masks)
        known = np.unique(ids[0])
        if set(known.tolist()) <= {0, VOID} and VOID in known:
            other = [file for file, mask in zip(self.masks, ids, strict=True) if not np.isin(mask, (0, VOID)).all()]
            if other:
                raise UserError(
                    f"{other[0]}: holds other values than 0 and 255, which the video's first mask has; one of them is "
                    "of another video, or damaged"
                )
            return (ids == VOID).astype(np.uint8)
        objects = [number for number in known.tolist() if number not in (0, VOID)]
        if objects != list(range(1, len(objects) + 1)) or not objects:
            found = ", ".join(map(str, objects)) or "none"
            raise UserError(
                f"{self.masks[0]}: the objects of a video's first mask are numbered 1, 2, … (here: {found}); nothing can be "
                "propagated from it"
            )
        ids[ids > len(objects)] = 0
        return ids


@dataclass(frozen=True, kw_only=True)
class Davis(Benchmark):
    """The videos of the validation list."""

    videos: tuple[Video, ...]


def read_davis(data: str, root: Path) -> Davis:
    """The validation videos in DAVIS 2017's layout: ``ImageSets/2017/val.txt``, ``JPEGImages/480p/VIDEO``,
    ``Annotations/480p/VIDEO``.

    Raises UserError for a missing or empty list, a video without frames, and a frame without its mask.
    """
    listed = root / LIST
    if not listed.is_file():
        raise UserError(f"{listed}: the list of videos is missing; is {root} in DAVIS 2017's layout?")
    if not (names := read_names(listed)):
        raise UserError(f"{listed}: names no video; is {root} a whole DAVIS 2017?")
    videos = tuple(_video(root, name) for name in names)
    files = tuple(file for video in videos for file in (*video.frames, *video.masks))
    return Davis(name=data, root=root, files=files, videos=videos)


def _video(root: Path, name: str) -> Video:
    frames = sorted((root / "JPEGImages" / "480p" / name).glob("*.jpg"))
    masks = [root / "Annotations" / "480p" / name / f"{frame.stem}.png" for frame in frames]
    if len(frames) < 4:
        raise UserError(
            f"{root / 'JPEGImages' / '480p' / name}: {len(frames)} frames (JPEG files); a video has at least 4: the first and "
            "the last are not measured"
        )
    missing = [mask for mask in masks if not mask.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: the mask is missing, one of {len(missing)} that the video {name} lacks")
    return Video(name, tuple(frames), tuple(masks))
