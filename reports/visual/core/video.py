"""Read and write videos: GIFs and folders of frames with Pillow, video files with PyAV (extra ``video``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from common.environment import missing_package
from common.errors import UserError
from common.files import atomic_file
from data.store.decode import require_pixels
from reports.visual.core.images import files_of
from reports.visual.core.style import save_gif

#: Frames per second of a folder of frames.
FOLDER_FPS = 10.0
INSTEAD = "give a video file, an animated GIF or a folder of frames"


@dataclass(frozen=True)
class Frames:
    """The frames of a video.

    Attributes:
        read: yields the frames, uint8 ``[H, W, 3]``, anew at every call.
        count: None where counting would mean reading all.
        is_video: a video file, whose pictures become a video file, too.
    """

    read: Callable[[], Iterator[np.ndarray]]
    count: int | None
    fps: float
    is_video: bool = False


def open_frames(path: Path) -> Frames:
    """Open a video file, an animated GIF (or WebP, PNG) or a folder of frames, sorted by name.

    Raises:
        UserError: it is missing, damaged or no video, or PyAV is not installed.
    """
    if path.is_dir():
        files = files_of([str(path)])
        return Frames(lambda: (require_pixels(file) for file in files), len(files), FOLDER_FPS)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; {INSTEAD}")
    try:
        with Image.open(path) as image:
            count, fps = getattr(image, "n_frames", 1), 1000 / max(20, image.info.get("duration", 100))
    except (OSError, SyntaxError, ValueError):
        with _opened_video(path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 25)
            return Frames(partial(_video_frames, path), stream.frames or None, rate, is_video=True)
    if count == 1:
        raise UserError(f"{path}: a single image; give it as --images, or a video")
    return Frames(partial(_animation_frames, path), count, fps)


def _animation_frames(path: Path) -> Iterator[np.ndarray]:
    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                yield np.asarray(frame.convert("RGB"))
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an animation ({error}); copy it again") from error


@contextmanager
def _opened_video(path: Path) -> Iterator[Any]:
    av = _import_av(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: holds no video; {INSTEAD}")
            yield container
    except av.FFmpegError as error:
        raise UserError(f"{path}: cannot be read as a video ({error.strerror}); {INSTEAD}") from error


def _video_frames(path: Path) -> Iterator[np.ndarray]:
    with _opened_video(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _import_av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise missing_package(f"{path} (no animated GIF or folder of frames)", error, "video") from error
    return av


@contextmanager
def video_writer(path: Path, fps: float, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that adds a frame (uint8 ``[*size, 3]``, sides even) to an .mp4 or .gif file, which replaces ``path`` when
    the block ends without an error."""
    if path.suffix == ".gif":
        frames: list[np.ndarray] = []
        yield frames.append
        save_gif(frames, path, 1 / fps)
        return
    av = _import_av(path)
    with atomic_file(path) as file, av.open(file.name, "w", format="mp4") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"

        def write(frame: np.ndarray) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield write
        container.mux(stream.encode())
