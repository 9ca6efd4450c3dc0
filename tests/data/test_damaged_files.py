"""Damaged images, masks, lists, annotations and batches: whatever bytes a file holds, what comes out is a whole image or one
sentence that names the file, soon."""

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import UserError
from data.datasets import open_dataset
from data.sets.cifar10 import CIFAR10
from data.sets.core.lists import read_names
from data.sets.demo import Demo
from data.sets.voc2012 import VOC2012
from data.store.decode import MAX_PIXELS, DamagedImage, WrongData, decode_image, read_annotation
from data.store.masks import decode_mask, read_ids
from tests import small_images

quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def encoded(format: str, mode: str = "RGB", **options) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).convert(mode)
    return small_images.encoded(image, format, **options)


FORMATS = {
    "png": encoded("PNG"),
    "palette.png": encoded("PNG", "P"),
    "jpg": encoded("JPEG"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "gif": encoded("GIF", "P"),
    "bmp": encoded("BMP"),
    "tif": encoded("TIFF", compression="tiff_lzw"),
    "webp": encoded("WEBP"),
    "ppm": encoded("PPM"),
    "ico": encoded("ICO", "RGBA"),
}


@st.composite
def damaged(draw, originals: dict[str, bytes]) -> bytes:
    """One of the originals with bytes changed, removed, inserted, or cut off."""
    content = bytearray(originals[draw(st.sampled_from(sorted(originals)))])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "set", "cut", "insert", "remove", "zero"])):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "set" if content:
                content[place : place + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)]))
            case "cut":
                del content[place:]
            case "insert":
                content[place:place] = draw(st.binary(max_size=40))
            case "remove":
                del content[place : place + draw(st.integers(1, 40))]
            case "zero":
                content[place : place + 30] = bytes(len(content[place : place + 30]))
    return bytes(content)


@quick
@given(damaged(FORMATS) | st.binary(max_size=200))
def test_any_bytes_are_an_image_or_a_reason(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = decode_image(path, 8)
        except DamagedImage as reason:
            assert str(reason) and "\n" not in str(reason)
        else:
            assert found.pixels.dtype == np.uint8 and found.pixels.shape[2] == 3
            assert found.original_size[0] * found.original_size[1] <= MAX_PIXELS


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    """A whole image, and a terabyte after it that takes no room."""
    path.write_bytes(FORMATS["jpg"])
    os.truncate(path, 2**40)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (pipe, "no regular file"),
        (Path.mkdir, "no regular file"),
        (Path.touch, "empty file"),
        (endless, "taken for no image"),
    ],
)
def test_what_is_no_file_of_an_image_is_not_waited_for(make, reason, tmp_path):
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(DamagedImage, match=reason):
        decode_image(path, 8)
    with pytest.raises(WrongData, match=rf"x\.jpg: the mask cannot be read: .*{reason}"):
        read_ids(path)
    with pytest.raises(WrongData, match=r"x\.jpg: not XML"):
        read_annotation(path, ("cat",))
    if make is not Path.touch:
        with pytest.raises(UserError, match=r"x\.jpg: "):
            read_names(path)


@pytest.mark.parametrize("of_any_size", [True, False])
@quick
@given(damaged({name: FORMATS[name] for name in ("palette.png", "gif", "png")}))
def test_any_bytes_are_a_mask_or_a_sentence(tmp_path, of_any_size, content):
    path = tmp_path / "m.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mask = read_ids(path) if of_any_size else decode_mask(path, 21, (24, 20))
        except WrongData as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert mask.dtype == np.uint8
            assert of_any_size or (mask.shape == (24, 20) and set(np.unique(mask)) <= {*range(21), 255})


def png_that_claims(width: int, height: int, grey: bool = False) -> bytes:
    """A PNG of a few bytes whose header claims a size, over a stream of zeros that packs well."""
    return small_images.png(width, height, 8, 0 if grey else 2, bytes(10**6))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png_that_claims(60_000, 60_000), "bomb"),
        (png_that_claims(12_000, 12_000, grey=True), "bomb"),
        (png_that_claims(2**31 - 1, 2**31 - 1), "bomb|broken|cannot identify"),
        (png_that_claims(2, 44_000_000), "nothing to see"),
        (png_that_claims(30_000, 20), "nothing to see"),
        (png_that_claims(9000, 9000), "truncated|not enough image data|unexpected end|broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n(x) (w) file\n%%EOF\n", "EPS"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "cannot identify"),
        (b"#!/bin/sh\ntouch /tmp/x\n", "cannot identify"),
    ],
)
def test_bombs_absurd_sizes_and_programs_are_refused(tmp_path, content, reason):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DamagedImage, match=reason):
            decode_image(path, 32)
        with pytest.raises(WrongData, match=r"x\.png: "):
            decode_mask(path, 21, (30, 30))
        with pytest.raises(WrongData, match=r"x\.png: "):
            read_ids(path)


@quick
@given(st.binary(max_size=120) | st.text(max_size=60).map(str.encode))
def test_any_list_gives_names_of_files_of_that_folder_or_a_sentence(tmp_path, content):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    try:
        names = read_names(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert len(set(names)) == len(names)
        for name in names:
            assert (tmp_path / f"{name}.jpg").parent == tmp_path and name not in ("", ".", "..")
            (tmp_path / f"{name}.jpg").exists()  # no name that the system refuses


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd", "a/b", "a\0b", "..", ".", "x" * 300, "é" * 150])
def test_names_that_are_none(tmp_path, line):
    path = tmp_path / "train.txt"
    path.write_text(f"fine\n{line}\n")
    with pytest.raises(UserError, match=r"train\.txt, line 2: .* is no name of an image"):
        read_names(path)


ANNOTATION = b"<annotation><object><name>cat</name><difficult>0</difficult></object></annotation>"


@quick
@given(damaged({"a": ANNOTATION}) | st.binary(max_size=80))
def test_any_annotation_gives_labels_or_a_sentence(tmp_path, content):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    try:
        labels = read_annotation(path, ("cat", "dog"))
    except WrongData as error:
        assert str(error).startswith(str(path))
    else:
        assert labels.shape == (2,) and not labels[1]


@pytest.mark.parametrize(
    "content",
    [
        b'<?xml version="1.0" encoding="x-unknown"?><annotation/>',
        b'<?xml version="1.0" encoding="utf-7"?><annotation/>',
        b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
        + b"".join(b'<!ENTITY %c "%b">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(12))
        + b"]><annotation>&m;</annotation>",
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>',
        b"<a>" * 300,
    ],
)
def test_hostile_annotations_are_refused(tmp_path, content):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(WrongData, match=r"a\.xml: "):
        read_annotation(path, ("cat",))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.csv", b"name,label\na\n", r"labels\.csv: not a table of names and labels"),
        ("labels.csv", b"title\na\n", r"labels\.csv: not a table"),
        ("labels.csv", b"", r"labels\.csv has no label for a"),
        ("labels.csv", "name,label".encode("utf-16"), r"labels\.csv: no UTF-8 text"),
        ("labels.csv", b'name,label\n"a,0\n', r"labels\.csv: not a table"),
        ("labels.csv", b"name,label\na,0\na,1\n", r"labels\.csv: not a table .*twice"),
        ("labels.csv", b"name,label\na,7\n", "the label '7', which is not in classes.txt"),
        ("labels.csv", b"name,label\na,nan\n", "the label 'nan'"),
        ("classes.txt", b"", r"classes\.txt: 0 classes"),
        ("classes.txt", b"cat\ncat\n", r"classes\.txt: 1 of its names stand there twice"),
        ("classes.txt", bytes(range(256)), r"classes\.txt: no UTF-8 text"),
        ("classes.txt", "\n".join(f"c{i}" for i in range(255)).encode(), "255 classes"),
        ("ImageSets/Segmentation/train.txt", b"", "no images for the train split"),
        ("ImageSets/Segmentation/train.txt", b"../a\n", "line 1: '../a' is no name"),
        ("ImageSets/Segmentation/train.txt", b"a\nb\n", "2 of the files that train.txt lists are missing"),
        (
            "ImageSets/Segmentation/train.txt",
            "ﬁ\ud7ff".encode() + b"\xed\xa0\x80",
            "of the files that train.txt lists are missing",
        ),
        ("ImageSets/Segmentation/train.txt", "a\n".encode("utf-16"), "no UTF-8 text, but UTF-16"),
    ],
)
def test_wrong_side_files_are_named(tmp_path, photo, file, content, message):
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (tmp_path / "labels.csv").write_text("name,label\na,0\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    photo(30, 30, 0).save(tmp_path / "JPEGImages/a.jpg")
    Image.new("L", (30, 30)).save(tmp_path / "SegmentationClass/a.png")
    assert Demo("demo", tmp_path).listing("train").names == ["JPEGImages/a.jpg"]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Demo("demo", tmp_path).listing("train")
    if file.startswith("ImageSets"):
        with pytest.raises(UserError, match=message):
            VOC2012("voc2012", tmp_path).listing("train")


BATCH = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}, protocol=2)


@quick
@given(damaged({"a": BATCH}) | st.binary(max_size=100))
def test_any_batch_of_cifar_is_read_or_refused_and_never_run(tmp_path, content):
    (tmp_path / "test_batch").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            listing = CIFAR10("cifar10", tmp_path).listing("test")
        except UserError as error:
            assert str(tmp_path) in str(error)
        else:
            assert listing.arrays.shape[1:] == (32, 32, 3)


def test_a_file_that_vanishes_while_it_is_decoded(tmp_path, photo, monkeypatch, capsys):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        for number in range(3):
            photo(30, 30, number).save(tmp_path / split / "cat" / f"{number}.png")
    from data.store.listing import Listing

    read = Listing.read

    def vanishing(self, index, short_side):
        (Path(self.root) / self.names[1]).unlink(missing_ok=True)
        return read(self, index, short_side)

    monkeypatch.setattr(Listing, "read", vanishing)
    store = open_dataset("imagefolder", "train", tmp_path, 16, tmp_path / "cache", progress=False)
    assert [Path(name).name for name in store.names] == ["0.png", "2.png"]
    assert "1 more skipped: train/cat/1.png (no such file)" in capsys.readouterr().err
