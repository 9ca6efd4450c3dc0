"""Read and write videos: GIFs and folders of frames with Pillow, video files with PyAV (extra ``video``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from common.environment import missing_package
from common.errors import UserError, why
from common.files import atomic_file
from data.store.turns import PILLOW_TURNS, turn_of, turned
from reports.visual.core.files import files_of, picture_pixels
from reports.visual.core.style import save_gif

#: Frames per second of a folder of frames.
FOLDER_FPS = 10.0
#: Pillow's formats with frames that follow each other; in others (MPO, PSD, ICO) they are views, layers or sizes.
ANIMATIONS = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")
INSTEAD = "give a video file, an animated GIF or a folder of frames"


@dataclass(frozen=True)
class Frames:
    """The frames of a video.

    Attributes:
        read: yields the frames, uint8 ``[H, W, 3]``, anew at every call.
        count: None where counting would mean reading all.
        names: of the frames' files; empty where they have none.
        is_video: a video file, whose pictures become a video file, too.
    """

    read: Callable[[], Iterator[np.ndarray]]
    count: int | None
    fps: float
    is_video: bool = False
    names: Sequence[str] = ()


def open_frames(path: Path) -> Frames:
    """Open a video file, an animated GIF (or WebP, PNG) or a folder of frames, in the order of their names, 2 before 10.

    Raises:
        UserError: it is missing, damaged or no video, or PyAV is not installed.
    """
    if path.is_dir():
        files = files_of([str(path)])
        return Frames(
            lambda: (picture_pixels(file) for file in files),
            len(files),
            FOLDER_FPS,
            names=[str(file) for file in files],
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; {INSTEAD}")
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1) if image.format in ANIMATIONS else 1
            count -= "default_image" in image.info  # what programs show that play no APNG
    except (OSError, SyntaxError, ValueError):
        with _opened_video(path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 25)
            return Frames(partial(_video_frames, path), stream.frames or None, rate, is_video=True)
    if count == 1:
        raise UserError(f"{path}: a single image; give it as --images, or a video")
    # A frame's duration is known only once it has been read.
    durations = [duration for _, duration in _animation_frames(path)]
    fps = 1000 * len(durations) / sum(max(20, duration) for duration in durations)
    return Frames(lambda: (frame for frame, _ in _animation_frames(path)), count, fps)


def _animation_frames(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    """Yield an animation's frames as viewers show them, upright and on white where they are transparent, and their milliseconds."""
    try:
        with Image.open(path) as image:
            turn = 1 if image.format == PILLOW_TURNS else turn_of(image)
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                if number == 0 and "default_image" in image.info:
                    continue
                if frame.mode not in ("RGB", "RGBA", "P", "PA", "L", "LA", "1"):
                    raise UserError(
                        f"{path}: frame {number + 1} has pixels of Pillow's mode {frame.mode}; convert it to RGB"
                    )
                layered = frame.convert("RGBA")
                page = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
                yield np.asarray(turned(page.convert("RGB"), turn)), float(frame.info.get("duration") or 100)
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
        raise UserError(f"{path}: cannot be read as a video ({why(error)}); {INSTEAD}") from error


def _video_frames(path: Path) -> Iterator[np.ndarray]:
    with _opened_video(path) as container:
        for frame in container.decode(video=0):
            yield _as_shown(
                frame.to_ndarray(format="rgb24"), frame.rotation, container.streams.video[0].sample_aspect_ratio
            )


def _as_shown(pixels: np.ndarray, rotation: int, aspect: Fraction | None) -> np.ndarray:
    """Turn a frame as players do (phones write ``rotation``, counterclockwise degrees), and make its pixels square."""
    if aspect and aspect != 1:
        height, width = pixels.shape[:2]
        pixels = np.asarray(
            Image.fromarray(pixels).resize((max(1, round(width * aspect)), height), Image.Resampling.BICUBIC)
        )
    return np.ascontiguousarray(np.rot90(pixels, rotation // 90 % 4))


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
