"""Videos in and out. Animated GIFs and folders of frames need nothing but Pillow; video files need PyAV, the extra ``video``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from common.errors import UserError
from common.files import atomic_file
from reports.visual.core.images import files_of, read_image
from reports.visual.core.style import save_gif

#: Frames a second of a folder of frames.
FOLDER_FPS = 10.0
INSTEAD = "give a video file, an animated GIF or a folder of frames"


class Frames:
    """The frames of a video, read anew by each ``read``.

    Attributes:
        path: of the file or folder.
        count: number of frames; None where only reading them all would tell.
        fps: frames a second.
        is_video: True for a video file, whose pictures are written as a video file too.
    """

    path: Path
    count: int | None
    fps: float
    is_video: bool = False

    def read(self) -> Iterator[np.ndarray]:
        """uint8 ``[H, W, 3]`` each."""
        raise NotImplementedError


class FolderFrames(Frames):
    def __init__(self, path: Path):
        self.path = path
        self._files = files_of([str(path)])
        self.count, self.fps = len(self._files), FOLDER_FPS

    def read(self) -> Iterator[np.ndarray]:
        return (read_image(file).pixels for file in self._files)


class AnimatedFrames(Frames):
    def __init__(self, path: Path):
        self.path = path
        with Image.open(path) as image:
            self.count = image.n_frames
            self.fps = 1000 / max(20, image.info.get("duration", 100))

    def read(self) -> Iterator[np.ndarray]:
        try:
            with Image.open(self.path) as image:
                for frame in ImageSequence.Iterator(image):
                    yield np.asarray(frame.convert("RGB"))
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            raise UserError(f"{self.path}: cannot be read as an animation ({error}); copy it again") from error


class VideoFrames(Frames):
    is_video = True

    def __init__(self, path: Path):
        self.path = path
        self._av = _import_av(path)
        with self._opened() as container:
            stream = container.streams.video[0]
            self.count = stream.frames or None
            self.fps = float(stream.average_rate or 25)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with self._av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise UserError(f"{self.path}: holds no video; {INSTEAD}")
                yield container
        except self._av.FFmpegError as error:
            raise UserError(f"{self.path}: cannot be read as a video ({error.strerror}); {INSTEAD}") from error

    def read(self) -> Iterator[np.ndarray]:
        with self._opened() as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")


def _import_av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError(
            f'{path}: video files need PyAV, the extra "video" (pip install av); or give an animated GIF or a folder of frames'
        ) from error
    return av


def open_frames(path: Path) -> Frames:
    """A video file, an animated GIF (or WebP, PNG) or a folder of frames, in the order of their names.

    Raises:
        UserError: it does not exist, is damaged or no video, or needs a package that is not installed.
    """
    if path.is_dir():
        return FolderFrames(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; {INSTEAD}")
    try:
        with Image.open(path) as image:
            animated = getattr(image, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError):
        return VideoFrames(path)
    if not animated:
        raise UserError(f"{path}: a single image; give it as --images, or a video")
    return AnimatedFrames(path)


@contextmanager
def video_writer(path: Path, fps: float, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds a frame (uint8 ``[*size, 3]``, sides even) to ``path``, an .mp4 or .gif file that takes its place when
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
