"""Masks as programs write them, 4 × 4 pixels with the ids 0, 1, 2 and 255 or as told. What is seen: the ids that are there."""

import os
import re
import struct

import numpy as np
from PIL import Image

from common.images import voc_palette
from data.store.masks import decode_mask
from tests.corpus.photos import png, written
from tests.small_images import encoded

IDS = np.array([[0, 1, 2, 255]] * 4, np.uint8)
NO_IDS = r"the mask is a .*, not one of ids; give palette or grey PNG files whose values are the ids"


def look(path):
    return sorted(set(decode_mask(path, 21, (4, 4)).ravel().tolist()))


def mask(values=IDS, mode="L", kind="PNG", palette=None, dtype=np.uint8, **options):
    def make():
        image = Image.fromarray(np.asarray(values, dtype))
        if palette is not None:
            image = image.convert("P")
            image.putpalette(palette)
            image.putdata(np.asarray(values).ravel().tolist())
        elif image.mode != mode:
            image = image.convert(mode)
        return encoded(image, kind, **options)

    return written(make, "mask.png")


def voc(*order):
    """VOC's colours of these ids, from index 0 on."""
    return voc_palette()[list(order)].ravel().tolist()


def colours(ids):
    return lambda: encoded(Image.fromarray(voc_palette()[ids]), "PNG")


def merged(opacity):
    image = Image.merge("LA", (Image.fromarray(IDS), Image.fromarray(np.full((4, 4), opacity, np.uint8))))
    return lambda: encoded(image, "PNG")


def pages(kind):
    return lambda: encoded(Image.fromarray(IDS), kind, save_all=True, append_images=[Image.fromarray(IDS.T.copy())])


def pipe(folder):
    os.mkfifo(folder / "mask.png")
    return folder / "mask.png"


ALL = [0, 1, 2, 255]
ROW = bytes([0, 1, 2, 255])
ENTRIES = {
    "VOC's palette": (mask(palette=voc(*range(256))), ALL),
    "grey palette": (mask(palette=[v for v in range(256) for _ in range(3)]), ALL),
    "colours of one's own": (mask(IDS % 4, palette=[7, 7, 7, 200, 9, 9, 9, 200, 9, 9, 9, 200]), [0, 1, 2, 3]),
    "palette shorter than the ids": (written(png(8, 3, [ROW] * 4, 4, (b"PLTE", bytes(voc(0, 1, 2))))), ALL),
    "all black palette": (mask(palette=[0] * 768), ALL),
    "palette of 2 bits": (written(png(2, 3, [b"\x18"] * 4, 4, (b"PLTE", bytes(voc(0, 1, 2))))), [0, 1, 2]),
    "palette, first transparent": (
        written(png(8, 3, [bytes([0, 1, 2, 2])] * 4, 4, (b"PLTE", bytes(voc(0, 1, 2))), (b"tRNS", b"\0"))),
        [0, 1, 2],
    ),
    "grey": (mask(), ALL),
    "grey of 1 bit": (written(png(1, 0, [b"\x50"] * 4, 4)), [0, 1]),
    "grey of 2 bits": (written(png(2, 0, [b"\x1b"] * 4, 4)), [0, 1, 2, 3]),
    "grey of 4 bits": (written(png(4, 0, [b"\x01\x2f"] * 4, 4)), [0, 1, 2, 15]),
    "grey of 16 bits": (written(png(16, 0, [struct.pack(">4H", *ROW)] * 4, 4)), ALL),
    "16 bits above 255": (
        written(png(16, 0, [struct.pack(">4H", 0, 1, 2, 65535)] * 4, 4)),
        re.compile("ids from 0 to 65535"),
    ),
    "TIFF": (mask(kind="TIFF"), ALL),
    "TIFF of 16 bits": (mask(kind="TIFF", mode="I;16", dtype=np.uint16), ALL),
    "TIFF of 32 bits": (mask(kind="TIFF", mode="I", dtype=np.int32), ALL),
    "TIFF, negative": (
        mask(IDS - np.int32(1), kind="TIFF", mode="I", dtype=np.int32),
        re.compile("ids from -1 to 254"),
    ),
    "TIFF of fractions": (mask(kind="TIFF", mode="F", dtype=np.float32), re.compile("the mask is a F image")),
    "TIFF with a palette": (mask(palette=voc(*range(256)), kind="TIFF"), ALL),
    "BMP": (mask(kind="BMP"), ALL),
    "GIF": (mask(palette=voc(*range(256)), kind="GIF", optimize=False), ALL),
    "grey, renumbered by GIF": (
        mask(kind="GIF"),
        re.compile("gives 3 the grey value 255, so its indices were renumbered"),
    ),
    "grey, renumbered": (
        mask(IDS % 2, palette=[0, 0, 0, 8, 8, 8]),
        re.compile("gives 1 the grey value 8, so its indices were renumbered"),
    ),
    "black and white palette": (mask(IDS % 2, palette=[0, 0, 0, 255, 255, 255]), [0, 1]),
    "grey ramp": (mask(IDS % 4, palette=[0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255]), [0, 1, 2, 3]),
    "PGM": (mask(kind="PPM"), ALL),
    "PGM, plain": (written(b"P2 4 4 255 " + b"0 1 2 255 " * 4), ALL),
    "PGM, stretched": (
        written(b"P5 4 4 20\n" + bytes([0, 1, 2, 20] * 4)),
        re.compile("PGM image of another range than 0 to 255"),
    ),
    "PBM, black is 1": (written(b"P1 4 4 " + b"0 1 0 1 " * 4), re.compile("a grey image of inverted values")),
    "grey, opaque": (written(merged(255)), ALL),
    "grey, transparent": (written(merged(9)), re.compile("the mask has transparent pixels, whose ids are not clear")),
    "RGB in VOC's colours": (written(colours(IDS)), re.compile(NO_IDS)),
    "RGB, all grey": (mask(mode="RGB"), re.compile(NO_IDS)),
    "RGBA": (mask(mode="RGBA"), re.compile(NO_IDS)),
    "RGB of 16 bits": (written(png(16, 2, [bytes(24)] * 4, 4)), re.compile(NO_IDS)),
    "CMYK": (mask(mode="CMYK", kind="TIFF"), re.compile(NO_IDS)),
    "JPEG": (mask(kind="JPEG"), re.compile("a JPEG image, whose compression changes values")),
    "WebP": (mask(kind="WEBP"), re.compile(NO_IDS)),
    "animation": (written(pages("PNG")), re.compile("an image of 2 frames")),
    "pages": (written(pages("TIFF")), re.compile("an image of 2 frames")),
    "renumbered: 1 in the cat's colour": (
        mask(IDS % 2, palette=voc(0, 8)),
        re.compile("gives 1 the colour of 8 in VOC's"),
    ),
    "renumbered: void is 2": (mask(IDS % 3, palette=voc(0, 1, 255)), re.compile("gives 2 the colour of 255 in VOC's")),
    "renumbered: the background is 1": (mask(IDS % 2, palette=voc(15, 0)), re.compile("gives 0 the colour of 15")),
    "renumbered, but not where it is used": (mask(IDS % 2, palette=voc(0, 1, 8)), [0, 1]),
    "another class": (mask([[21, 0, 0, 0]] * 4), re.compile(r"class ids 21; known are 0 to 20 and 255")),
    "another size": (mask(IDS[:3]), re.compile("the mask is 3×4 pixels and its image 4×4")),
    "turned": (mask(np.zeros((2, 8))), re.compile("the mask is 2×8 pixels and its image 4×4")),
    "empty": (written(b""), re.compile("cannot be read: empty file")),
    "text": (written(b"0 1 2"), re.compile("cannot be read: cannot identify")),
    "cut short": (
        lambda folder: written(mask()(folder).read_bytes()[:45])(folder),
        re.compile("the mask cannot be read"),
    ),
    "missing": (lambda folder: folder / "mask.png", re.compile("the mask is missing")),
    "pipe": (pipe, re.compile("the mask cannot be read: no regular file")),
}
