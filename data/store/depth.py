"""How many bits a channel has in an image file. Pillow reads most files of more than 8 without a word, as the upper 8."""

import re
from typing import BinaryIO

from PIL import Image

#: TIFF's tag BitsPerSample.
_BITS = 0x0102
#: Pillow's raw modes of more than 8 bits, such as ``RGB;16B`` or ``I;12``. ``BGR;16`` has 16 bits a pixel, 5 or 6 a channel.
_DEEP = re.compile(r"(?<!BGR);(1[0246]|24|32|64)|BC6H")
#: Bytes of a file in which AVIF has its properties, and JPEG 2000 its main header.
_HEAD = 2**16


def has_more_than_8_bits(image: Image.Image, file: BinaryIO) -> bool:
    """Whether a channel of an opened image has more than 8 bits in its file, which Pillow may not tell by the mode.

    Args:
        image: whose header has been read.
        file: the same, open; its position changes and is put back.
    """
    if image.mode.startswith("I"):
        return True
    if image.format in _BY_HEAD:
        place = file.tell()
        file.seek(0)
        head = file.read(_HEAD)
        file.seek(place)
        if _BY_HEAD[image.format](head):
            return True
    if image.format == "PPM":  # (raw mode, largest level)
        return any(isinstance(tile.args, tuple) and int(tile.args[-1]) > 255 for tile in image.tile)
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS, 1)
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8
    if int(image.info.get("bit_depth") or 8) > 8:  # plug-ins that read HEIC
        return True
    return any(_DEEP.search(str(tile.args)) for tile in image.tile)


def _jpeg2000(head: bytes) -> bool:
    """The marker SIZ begins the codestream, and ends in three bytes a component: its bits less 1, then its sampling."""
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return False
    components = int.from_bytes(head[start + 40 : start + 42])
    return any((bits & 0x7F) + 1 > 8 for bits in head[start + 42 : start + 42 + 3 * components : 3])


def _avif(head: bytes) -> bool:
    """The property av1C: the second bit of its third byte marks 10 or 12 bits (AV1 in ISOBMFF, 2.3.3)."""
    return any(len(head) > at and head[at] & 0x40 for at in (match.end() + 2 for match in re.finditer(b"av1C", head)))


def _icon(head: bytes) -> bool:
    """Icons hold PNG files, whose bits follow their size, or JPEG 2000."""
    pngs = (match.end() for match in re.finditer(b"\x89PNG\r\n\x1a\n....IHDR", head, re.DOTALL))
    return any(len(head) > at + 8 and head[at + 8] > 8 for at in pngs) or _jpeg2000(head)


#: What Pillow does not keep of a header, by its name of the format.
_BY_HEAD = {
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "ICO": _icon,
    "ICNS": _icon,
    # The fourth byte is the number of bytes a channel.
    "SGI": lambda head: head[3:4] > b"\x01",
}
