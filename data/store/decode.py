"""Single images and annotations are decoded and checked. An image file whose meaning in RGB is ambiguous is refused;
exact conversions are noted."""

import io
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageFile

from common.errors import UserError, unreadable
from data.store.depth import has_more_than_8_bits
from data.store.jpeg import is_whole
from data.store.turns import PILLOW_TURNS, turn_of, turned

#: Most pixels of an image; a file that claims more is taken for a decompression bomb. Pillow's own default.
MAX_PIXELS = 89_478_485
#: Most bytes of a file; ``MAX_PIXELS`` take less unpacked.
MAX_BYTES = 2**30
#: Largest ratio of sides. Crops of longer images show nothing, and padding a batch to one fills the memory.
MAX_ASPECT = 100

#: How images of Pillow's modes are converted.
_EXACT = {
    "RGB": "",
    "L": "greyscale, repeated over three channels",
    "1": "black and white, repeated over three channels",
    "P": "palette, looked up",
    "RGBA": "opaque alpha channel dropped",
    "LA": "greyscale, repeated over three channels; opaque alpha channel dropped",
    "PA": "palette, looked up; opaque alpha channel dropped",
}
#: Pillow's formats whose files hold segments (``data.store.jpeg``).
_JPEG = ("JPEG", "MPO")
#: TIFF's tag NewSubfileType: bit 0 marks a reduced version of another image in the file.
_SUBFILE = 0x00FE
_REFUSED = {
    "CMYK": "CMYK colours, which are no definite RGB without their profile; convert it to RGB",
    "F": "floating-point pixels; convert it to 8 bits",
}


class DamagedImage(Exception):
    """An image cannot be used; the message is the reason, without the name."""


class WrongData(UserError):
    """A mask or an annotation makes the whole data set wrong."""


@dataclass(frozen=True)
class Decoded:
    """An RGB image.

    Attributes:
        original_size: (height, width) before any resizing.
        note: how it was converted to RGB; "" if it was RGB.
        turn: the EXIF orientation that its file carries, 1 to 8 (``data.store.turns``), whether applied or not.
        source: 16 bytes, a hash of the file's content and of how it was turned.
    """

    image: Image.Image
    original_size: tuple[int, int]
    note: str
    turn: int
    source: bytes

    @property
    def pixels(self) -> np.ndarray:
        """uint8 ``[H, W, 3]``."""
        return np.asarray(self.image)

    @property
    def planes(self) -> list[np.ndarray]:
        """Three arrays ``[H, W]``, in less than half the time of transposing ``pixels``."""
        shape = self.image.height, self.image.width
        return [np.frombuffer(self.image.tobytes("raw", band), np.uint8).reshape(shape) for band in "RGB"]


def decode_image(
    path: Path | bytes, short_side: int | None = None, upright: bool = False, as_seen: bool = False
) -> Decoded:
    """Read an image file, or its content, as RGB, whatever its suffix.

    Args:
        short_side: an image with a longer shorter side (pixels) is resized to it, as torchvision's
            ``Resize(short_side, BICUBIC, antialias=True)`` does with PIL images.
        upright: turned by its EXIF orientation, as every viewer shows it; else that is ignored, as torchvision's data sets do.
        as_seen: upright, and on white where it is transparent.

    Raises:
        DamagedImage: missing, undecodable or too large; a side of one pixel, or more than ``MAX_ASPECT`` times the other;
            CMYK, more than 8 bits a channel, transparency, several frames; EPS.
        UserError: the system does not let the file be read.
    """
    with opened(path) as (file, image):
        _check(image, file)
        note = _EXACT[image.mode]
        is_jpeg = image.format in _JPEG
        upright = upright or as_seen
        image, turn = loaded(image, upright)
        image = _to_rgb(image, as_seen)
        source = _source(file, turn if upright else 1, is_jpeg)
    return _decoded(image, short_side, note, turn, source)


def look_at(path: Path | bytes, upright: bool) -> tuple[bytes, int]:
    """``Decoded.source`` and ``turn`` of an image that was decoded before. Errors are those of ``decode_image``, but for what only
    its pixels show."""
    with opened(path) as (file, image):
        _check(image, file)
        if image.format == "PNG":
            image.load()  # as ``turn_of`` would, one thread at a time: it may be behind the pixels
        turn = turn_of(image) if upright or image.format != PILLOW_TURNS else 1
        return _source(file, turn if upright else 1, image.format in _JPEG), turn


def loaded(image: Image.Image, upright: bool) -> tuple[Image.Image, int]:
    """Decode the pixels, turn them if they are to be ``upright``, and return the EXIF orientation that the file carries."""
    if image.format == PILLOW_TURNS:  # and forgets the orientation
        turn = turn_of(image) if upright else 1
        image.load()
        return image, turn
    image.load()
    turn = turn_of(image)  # now, since a PNG file may carry it behind its pixels
    return turned(image, turn) if upright else image, turn


def _hasher() -> Any:
    """A hash of 16 bytes, fast enough to take no time beside decoding."""
    import xxhash  # reports do without it

    return xxhash.xxh3_128()


def _source(file: BinaryIO, applied: int, is_jpeg: bool) -> bytes:
    """Hash a file, and the turn that is applied to its pixels. Raises DamagedImage for a JPEG file that stops inside the image."""
    file.seek(0)
    digest = _hasher()
    while part := file.read(-1 if is_jpeg else 2**20):
        if is_jpeg and not is_whole(part):
            raise DamagedImage("the file stops inside the image")
        digest.update(part)
    if applied != 1:
        digest.update(f"turned {applied}".encode())
    return digest.digest()


@contextmanager
def opened(path: Path | bytes) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """Open an image file, or its content. In the block, errors of damaged bytes become DamagedImage, the system's UserError."""
    # Other libraries switch this on for the whole process, which pads truncated files with grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        if isinstance(path, bytes):
            if not path:
                raise DamagedImage("empty file")
        else:
            check_file(path)
        with io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb") as file:
            if is_heic(file.read(BRANDS_END)) and "HEIF" not in Image.MIME:
                raise DamagedImage("HEIC, which Pillow does not read; convert it to JPEG")
            file.seek(0)
            with Image.open(file) as image:
                yield file, image
    except (DamagedImage, UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise DamagedImage("no such file") from None
    # Pillow's decoders raise many kinds of exceptions for damaged bytes (OSError, SyntaxError, ValueError, struct.error, …).
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # Pillow's own have no number
            raise UserError(f"{path}: {unreadable(error)}; this says nothing about the image, so try again") from error
        # The names of file objects change from run to run.
        text = " ".join(re.sub(r" <[^>]*>| '[^']*/[^']*'", "", str(error)).split())
        raise DamagedImage(text.rstrip(".") or type(error).__name__) from error


def require_pixels(path: Path) -> np.ndarray:
    """``decode_image`` to uint8 ``[H, W, 3]``, for a file that cannot be left out. Raises UserError if it is damaged."""
    try:
        return decode_image(path).pixels
    except DamagedImage as error:
        raise UserError(f"{path}: no usable image: {error}") from error


def kept_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height in pixels after ``decode_image``, rounded down as in torchvision's ``_compute_resized_output_size``."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def from_array(pixels: np.ndarray, short_side: int | None = None) -> Decoded:
    """``decode_image`` for an image in memory: uint8 ``[H, W, 3]``."""
    digest = _hasher()
    digest.update(repr(pixels.shape).encode() + pixels.tobytes())
    return _decoded(Image.fromarray(pixels), short_side, "", 1, digest.digest())


def read_annotation(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    """Read the classes in a VOC annotation, bool ``[classes]``, without objects marked difficult, as in VOC's classification
    task. Raises WrongData if it is missing, no XML, or holds an unknown class."""
    try:
        check_file(path)
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError:
        raise WrongData(f"{path}: the annotation is missing") from None
    except OSError as error:
        raise UserError(f"{path}: {unreadable(error)}") from error
    except (DamagedImage, ElementTree.ParseError, ValueError, LookupError) as error:
        raise WrongData(f"{path}: not XML ({error})") from error
    label_set = np.zeros(len(classes), bool)
    for item in objects:
        name = item.findtext("name", "").strip()
        if name not in classes:
            raise WrongData(f"{path}: unknown class {name!r} (known: {', '.join(classes)})")
        if item.findtext("difficult", "0").strip() != "1":
            label_set[classes.index(name)] = True
    return label_set


def check_file(path: Path) -> None:
    """Raise DamagedImage for a path that cannot be an image, such as a pipe, which would block. Raises OSError, too."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedImage("no regular file")
    if status.st_size == 0:
        raise DamagedImage("empty file")
    if status.st_size > MAX_BYTES:
        raise DamagedImage(f"{status.st_size:,} bytes, more than {MAX_BYTES:,}: taken for no image")


def _check(image: Image.Image, file: BinaryIO) -> None:
    """Check the header before any pixel is decoded. Raises DamagedImage."""
    if image.width * image.height > MAX_PIXELS:
        raise DamagedImage(
            f"{image.height}×{image.width} pixels, more than {MAX_PIXELS:,}: taken for a decompression bomb"
        )
    if min(image.size) < 2 or max(image.size) > MAX_ASPECT * min(image.size):
        raise DamagedImage(f"{image.height}×{image.width} pixels: nothing to see")
    if image.format == "TIFF" and int(image.tag_v2.get(_SUBFILE, 0)) & 1:
        raise DamagedImage("the preview of a raw photo; convert that to JPEG")
    if image.format == "EPS":
        raise DamagedImage("EPS, a program that draws; convert it to an image")
    # A multi-picture JPEG (MPO) is a photo with a preview or a second eye; its first frame is the photo.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise DamagedImage(f"{image.n_frames} frames; give one image a file")
    if image.mode != "F" and has_more_than_8_bits(image, file):
        raise DamagedImage("more than 8 bits a channel; convert it to 8 bits")
    if image.mode not in _EXACT:
        raise DamagedImage(_REFUSED.get(image.mode, f"pixels of Pillow's mode {image.mode}; convert it to RGB"))


def _to_rgb(image: Image.Image, on_white: bool) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        if layered.getchannel("A").getextrema()[0] < 255:
            if not on_white:
                raise DamagedImage("transparent pixels; flatten it onto a background")
            image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy one that is RGB already


#: Bytes of a file that ``is_heic`` looks at: all brands of the files that cameras and encoders write.
BRANDS_END = 64


def is_heic(head: bytes) -> bool:
    """Whether a file begins (``BRANDS_END`` bytes) as HEIC or HEIF, in which phones keep photos. AVIF, which Pillow reads, may have
    HEIF's general brand first, and its own among those that follow (ISO/IEC 14496-12, section 4.3)."""
    if head[4:8] != b"ftyp":
        return False
    end = min(len(head), int.from_bytes(head[:4], "big"))
    first, *compatible = (head[place : place + 4] for place in (8, *range(16, end, 4)))
    if first in (b"mif1", b"msf1"):
        return not {b"avif", b"avis"} & set(compatible)
    return first in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")


def _decoded(image: Image.Image, short_side: int | None, note: str, turn: int, source: bytes) -> Decoded:
    width, height = image.size
    size = kept_size(width, height, short_side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return Decoded(image, (height, width), note, turn, source)
