"""Photos as devices, programs and broken copies leave them. What is seen: height, width, mean red and blue, and the note."""

import os
import re

import numpy as np
from PIL import Image

from data.store.decode import decode_image
from tests import small_images

#: Blue grows to the right, red downwards: 8 rows of 16 pixels.
PIXELS = np.zeros((8, 16, 3), np.uint8)
PIXELS[..., 0], PIXELS[..., 2] = 30 * np.arange(8)[:, None], 16 * np.arange(16)
PLAIN = (8, 16, 105, 120)
GREY = (8, 16, 45, 45)


def look(path):
    image = decode_image(path, upright=True)
    red, _, blue = image.pixels.reshape(-1, 3).mean(0).round().astype(int).tolist()
    return (*image.original_size, red, blue, image.note.partition(",")[0])


def content(kind, mode="RGB", image=None, **options):
    image = Image.fromarray(PIXELS) if image is None else image
    return small_images.encoded(image.convert(mode), kind, **options)


def written(what, name="photo.jpg"):
    def make(folder):
        (folder / name).write_bytes(what() if callable(what) else what)
        return folder / name

    return make


def png(bits, colour, rows, width, *chunks):
    """A PNG of rows of bytes, so with any depth of bits."""
    return small_images.png(width, len(rows), bits, colour, b"".join(b"\0" + row for row in rows), *chunks)


def alpha(value):
    image = Image.fromarray(PIXELS).convert("RGBA")
    image.putalpha(value)
    return image


def damaged_jpeg(change):
    return lambda: change(content("JPEG", quality=95))


def pipe(folder):
    os.mkfifo(folder / "pipe.jpg")
    return folder / "pipe.jpg"


def folder_of_that_name(folder):
    (folder / "photo.jpg").mkdir()
    return folder / "photo.jpg"


def frames(kind):
    second = Image.fromarray(255 - PIXELS)
    return lambda: content(kind, save_all=True, append_images=[second])


def zeros(length):
    return lambda jpeg: jpeg[:-length] + bytes(length)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda: content("PNG", exif=exif)


ENTRIES = {
    "on its side by EXIF": (written(turned(6)), (16, 8, 105, 120, "")),
    "upside down by EXIF": (written(turned(3)), (*PLAIN, "")),
    "an orientation that is none": (written(turned(9)), (*PLAIN, "")),
    "motion photo: an MP4 behind the JPEG": (
        written(
            lambda: (
                content("JPEG", image=Image.new("RGB", (16, 8), (45, 45, 45)))
                + b"\0\0\0\x18ftypmp42\xff\xda\xff\xd9" * 9
            )
        ),
        (*GREY, ""),
    ),
    "text behind the JPEG": (
        written(lambda: content("JPEG", image=Image.new("RGB", (16, 8), (45, 45, 45))) + b"\r\n<!-- sent by mail -->"),
        (*GREY, ""),
    ),
    "PPM of 16 bits": (written(b"P6 16 8 65535\n" + bytes(16 * 8 * 6)), re.compile("more than 8 bits a channel")),
    "PNG": (written(lambda: content("PNG")), (*PLAIN, "")),
    "BMP": (written(lambda: content("BMP")), (*PLAIN, "")),
    "PPM": (written(lambda: content("PPM")), (*PLAIN, "")),
    "TIFF, LZW": (written(lambda: content("TIFF", compression="tiff_lzw")), (*PLAIN, "")),
    "WebP without loss": (written(lambda: content("WEBP", lossless=True)), (*PLAIN, "")),
    "AVIF whose first brand is HEIF's": (
        written(
            lambda: (avif := content("AVIF", image=Image.new("RGB", (16, 8), (45, 45, 45))))[:8] + b"mif1" + avif[12:]
        ),
        (*GREY, ""),
    ),
    "TGA": (written(lambda: content("TGA"), "photo.tga"), (*PLAIN, "")),
    "capital suffix": (written(lambda: content("PNG"), "PHOTO.PNG"), (*PLAIN, "")),
    "no suffix": (written(lambda: content("PNG"), "photo"), (*PLAIN, "")),
    "text's suffix": (written(lambda: content("PNG"), "photo.txt"), (*PLAIN, "")),
    "opaque alpha": (written(lambda: content("PNG", "RGBA", alpha(255))), (*PLAIN, "opaque alpha channel dropped")),
    "grey": (written(lambda: content("PNG", "L", Image.new("L", (16, 8), 45))), (*GREY, "greyscale")),
    "grey of 4 bits": (written(png(4, 0, [b"\x33" * 8] * 8, 16)), (8, 16, 51, 51, "greyscale")),
    "black and white": (written(png(1, 0, [b"\xf0\xf0"] * 8, 16)), (8, 16, 128, 128, "black and white")),
    "palette": (
        written(png(8, 3, [bytes(16)] * 8, 16, (b"PLTE", bytes([10, 20, 30])))),
        (8, 16, 10, 30, "palette"),
    ),
    "transparent": (written(lambda: content("PNG", "RGBA", alpha(99))), re.compile("transparent pixels; flatten it")),
    "transparent colour": (
        written(png(8, 2, [bytes(48)] * 8, 16, (b"tRNS", bytes(6)))),
        re.compile("transparent pixels; flatten it"),
    ),
    "16 bits": (written(png(16, 0, [bytes(32)] * 8, 16)), re.compile("more than 8 bits a channel; convert it")),
    "16 bits, RGB": (written(png(16, 2, [bytes(96)] * 8, 16)), re.compile("more than 8 bits a channel")),
    "float": (written(lambda: content("TIFF", "F", Image.new("F", (16, 8)))), re.compile("floating-point pixels")),
    "CMYK": (written(lambda: content("JPEG", "CMYK")), re.compile("CMYK colours")),
    "animation": (written(frames("GIF")), re.compile("2 frames; give one image a file")),
    "pages": (written(frames("TIFF")), re.compile("2 frames")),
    "APNG": (written(frames("PNG")), re.compile("2 frames")),
    "EPS": (
        written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n%%EOF\n"),
        re.compile("EPS|cannot"),
    ),
    "SVG": (written(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), re.compile("cannot identify")),
    "HEIC": (written(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), re.compile("HEIC, which Pillow does not read")),
    "HEIF": (written(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"), re.compile("HEIC, which Pillow does not read")),
    "web page": (written(b"<!doctype html><title>404</title>"), re.compile("cannot identify")),
    "Git LFS pointer": (
        written(b"version https://git-lfs.github.com/spec/v1\nsize 9\n"),
        re.compile("cannot identify"),
    ),
    "empty": (written(b""), re.compile("empty file")),
    "zeros": (written(bytes(5000)), re.compile("cannot identify")),
    "JPEG cut short": (
        written(damaged_jpeg(lambda jpeg: jpeg[: len(jpeg) - 60])),
        re.compile("(?i)truncated|inside the image"),
    ),
    "JPEG with zeros at its end": (
        written(damaged_jpeg(zeros(80))),
        re.compile("(?i)inside the image|cannot load|broken|truncated"),
    ),
    "JPEG's header alone": (written(damaged_jpeg(lambda jpeg: jpeg[:200])), re.compile(".")),
    "PNG cut short": (
        written(lambda: content("PNG")[:-40]),
        re.compile("truncated|broken|not enough|unexpected end|cut"),
    ),
    "missing": (lambda folder: folder / "nothing.jpg", re.compile("no such file")),
    "broken link": (lambda folder: (folder / "l.jpg").symlink_to("x") or folder / "l.jpg", re.compile("no such file")),
    "pipe": (pipe, re.compile("no regular file")),
    "folder": (folder_of_that_name, re.compile("no regular file")),
    "side of one pixel": (
        written(lambda: content("PNG", image=Image.new("RGB", (50, 1)))),
        re.compile("nothing to see"),
    ),
    "strip": (written(lambda: content("PNG", image=Image.new("RGB", (900, 3)))), re.compile("nothing to see")),
    "bomb": (
        written(png(8, 2, [b""] * 9_000, 10_000)),
        re.compile("9000×10000 pixels.*taken for a decompression bomb"),
    ),
}
