"""Small data sets to test with."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """What Pillow writes of an image into a file of a format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file, which may be one that Pillow does not write: its header's claims, then ``chunks``, then ``rows``, whatever they
    hold (each a byte for the filter, then its pixels)."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


@pytest.fixture
def photo() -> Callable[..., Image.Image]:
    """``photo(height, width, seed)``: a smooth random RGB image."""

    def make(height: int, width: int, seed: int) -> Image.Image:
        rough = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
        return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def image_folder(tmp_path: Path, photo) -> Path:
    """12 train and 4 val PNG images of two classes, of different sizes."""
    root = tmp_path / "folder"
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("bee", "ant")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                seed = 100 * label + i + (50 if split == "val" else 0)
                photo(40 + 3 * i, 70 - 4 * i, seed).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def voc_folder(tmp_path: Path, photo) -> Path:
    """Three train and one val image in VOC's layout, masks of a cat (8) and a dog (12) with void; the folder with VOCdevkit."""
    root = tmp_path / "voc"
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    contents = {"a": [8], "b": [8, 12], "c": [], "d": [12]}
    for seed, (name, values) in enumerate(contents.items()):
        photo(60, 80 + seed, seed).save(base / "JPEGImages" / f"{name}.jpg")
        mask = np.zeros((60, 80 + seed), np.uint8)
        for place, value in enumerate(values):
            mask[10:20, 10 + 30 * place : 25 + 30 * place] = value
        mask[30:33] = 255
        image = Image.fromarray(mask).convert("P")
        image.putdata(mask.ravel().tolist())
        image.save(base / "SegmentationClass" / f"{name}.png")
    (base / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\nc\n")
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("d\n")
    return root
