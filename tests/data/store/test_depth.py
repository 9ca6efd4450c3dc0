"""Image files of more than 8 bits a channel are refused in each format that Pillow reads, and others are not."""

import struct

import numpy as np
import pytest
from PIL import Image

from data.store.decode import DamagedImage, decode_image
from data.store.depth import _avif, _icon
from tests.small_images import encoded

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
DEEP = PHOTO.astype(np.uint16) * 257


def sgi(planes: np.ndarray) -> bytes:
    """Uncompressed, with the rows from the bottom."""
    header = struct.pack(">hBBHHHH", 474, 0, planes.itemsize, 3, 50, 40, 3)
    return (
        header.ljust(512, b"\0") + planes.transpose(2, 0, 1)[:, ::-1].astype(planes.dtype.newbyteorder(">")).tobytes()
    )


def sgi_runs() -> bytes:
    """With run lengths: each row one run of literal levels, then the end."""
    header = struct.pack(">hBBHHHH", 474, 1, 2, 3, 50, 40, 3).ljust(512, b"\0")
    row = struct.pack(">51H", 128 + 50, *range(50)) + bytes(2)
    first = 512 + 2 * 4 * 120
    starts = struct.pack(">120I", *(first + len(row) * i for i in range(120)))
    return header + starts + struct.pack(">120I", *[len(row)] * 120) + row * 120


def tiff(planar: bool) -> bytes:
    """Three channels of 16 bits, in one plane or three."""
    levels = (DEEP.transpose(2, 0, 1) if planar else DEEP).astype("<u2").tobytes()
    third, count, more = len(levels) // 3, 3 if planar else 1, 8 + len(levels) + 2 + 12 * 10 + 4
    starts = (more + 6, more + 18) if planar else (8, len(levels))
    numbers = [(256, 1, 50), (257, 1, 40), (258, 3, more), (259, 1, 1), (262, 1, 2), (273, count, starts[0])]
    numbers += [(277, 1, 3), (278, 1, 40), (279, count, starts[1]), (284, 1, 1 + planar)]
    tags = b"".join(struct.pack("<HHII", tag, 3 if tag == 258 else 4, n, value) for tag, n, value in numbers)
    rest = struct.pack("<3H6I", 16, 16, 16, 8, 8 + third, 8 + 2 * third, third, third, third)
    return b"II*\0" + struct.pack("<I", 8 + len(levels)) + levels + struct.pack("<H", 10) + tags + bytes(4) + rest


def jpeg2000(no_jp2: bool) -> bytes:
    """Whose header says 16 bits for the blue channel alone."""
    content = bytearray(encoded(Image.fromarray(PHOTO), "JPEG2000", no_jp2=no_jp2))
    content[content.find(b"\xff\x4f\xff\x51") + 42 + 6] = 15
    return bytes(content)


def plain_ppm(levels: np.ndarray, most: int) -> bytes:
    return b"P3 50 40 %d\n" % most + " ".join(map(str, levels.ravel())).encode()


def ppm(kind: bytes, levels: np.ndarray, most: int) -> bytes:
    return kind + b" 50 40 %d\n" % most + levels.astype(">u2" if most > 255 else np.uint8).tobytes()


DEEPER = {
    "PPM of 16 bits": ppm(b"P6", DEEP, 65535),
    "PPM of 10 bits": ppm(b"P6", DEEP // 64, 1023),
    "PPM of 9 bits, in words": plain_ppm(DEEP // 128, 511),
    "PGM of 16 bits": ppm(b"P5", DEEP[:, :, 0], 65535),
    "PGM of 12 bits": ppm(b"P5", DEEP[:, :, 0] // 16, 4095),
    "SGI": sgi(DEEP),
    "SGI with run lengths": sgi_runs(),
    "TIFF": tiff(planar=False),
    "TIFF in planes": tiff(planar=True),
    "grey TIFF": encoded(Image.fromarray(DEEP[:, :, 0]), "TIFF"),
    "grey PNG": encoded(Image.fromarray(DEEP[:, :, 0]), "PNG"),
    "grey IM": encoded(Image.fromarray(DEEP[:, :, 0]), "IM"),
    "JPEG 2000": jpeg2000(no_jp2=False),
    "JPEG 2000 without boxes": jpeg2000(no_jp2=True),
    "grey JPEG 2000": encoded(Image.fromarray(DEEP[:, :, 0]), "JPEG2000"),
}


@pytest.mark.parametrize("kind", DEEPER)
def test_more_than_8_bits_are_refused_by_every_format(kind):
    with pytest.raises(DamagedImage, match="more than 8 bits a channel; convert it to 8 bits"):
        decode_image(DEEPER[kind])


def bitmap_565() -> bytes:
    head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 66) + struct.pack("<IiiHHIIiiII", 40, 50, 40, 1, 16, 3, 0, 0, 0, 0, 0)
    return head + struct.pack("<III", 0xF800, 0x7E0, 0x1F) + DEEP[:, :, 0].tobytes()


SHALLOW = {
    "bitmap of 16 bits a pixel": bitmap_565(),
    "Targa of 16 bits a pixel": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 50, 40, 16, 0) + bytes(4000),
    "SGI": sgi(PHOTO),
    "PPM": ppm(b"P6", PHOTO, 255),
    "PPM of fewer levels": ppm(b"P6", PHOTO % 101, 100),
    "PGM": ppm(b"P5", PHOTO[:, :, 0], 255),
    "black and white": encoded(Image.fromarray(PHOTO).convert("1"), "PPM"),
    **{
        format: encoded(Image.fromarray(PHOTO), format)
        for format in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PCX", "IM", "DDS", "JPEG2000", "ICO")
    },
}


@pytest.mark.parametrize("kind", SHALLOW)
def test_8_bits_and_fewer_are_read(kind):
    assert decode_image(SHALLOW[kind]).pixels.dtype == np.uint8


def test_headers_that_pillow_writes_for_no_deep_image():
    """It writes AVIF and icons of 8 bits only."""
    assert not _avif(b"\0\0\0\x0cav1C\x81\x00\x0c\x00") and _avif(b"\0\0\0\x0cav1C\x81\x00\x4c\x00")
    icon = encoded(Image.fromarray(PHOTO[:32, :32]), "ICO", sizes=[(32, 32)])
    assert not _icon(icon)
    deep = bytearray(icon)
    deep[icon.find(b"IHDR") + 12] = 16
    assert _icon(bytes(deep))
