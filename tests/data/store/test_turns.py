"""Photos whose EXIF orientation says how to hold them."""

import struct
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, features

from common.errors import UserError
from data.datasets import open_dataset
from data.store.decode import WrongData, decode_image
from data.store.masks import decode_mask
from data.store.turns import turn_of
from tests.small_images import encoded, png_chunk

#: From pixels as stored to upright ones (EXIF 2.32, 4.6.4: where row 0 and column 0 of what is stored are seen).
SEEN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


def with_turn(image: Image.Image, turn: int, format: str = "PNG") -> bytes:
    """A file whose header carries an orientation."""
    exif = Image.Exif()
    exif[0x0112] = turn
    lossy = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"quality": 95}
    return encoded(image, format, exif=exif, **({"lossless": True} if format == "WEBP" else lossy))


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for what a lossy format loses."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 4


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("turn", SEEN)
def test_each_orientation_of_each_format_is_turned_upright(photo, format, turn):
    image = photo(20, 30, 0)
    content, stored = with_turn(image, turn, format), np.asarray(image)
    decoded = decode_image(content, upright=True)
    assert close(decoded.pixels, SEEN[turn](stored)) and decoded.turn == turn
    assert decoded.original_size == decoded.pixels.shape[:2]
    if format != "TIFF":  # which Pillow turns for everyone
        raw = decode_image(content)
        assert close(raw.pixels, stored) and raw.turn == turn
        assert (raw.source == decoded.source) == (turn == 1)
    small = decode_image(content, 10, upright=True)
    assert small.image.size == ((15, 10) if turn < 5 else (10, 15))


def test_an_orientation_behind_the_pixels_of_a_png_is_read(photo):
    content = with_turn(photo(20, 30, 0), 1)
    end = png_chunk(b"IEND", b"")
    exif = Image.Exif()
    exif[0x0112] = 6
    start = content.index(b"eXIf") - 4
    length = struct.unpack(">I", content[start : start + 4])[0]
    bare = content[:start] + content[start + 12 + length : -len(end)]
    late = bare + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end
    assert decode_image(late, upright=True).image.size == (20, 30)


@pytest.mark.parametrize("turn", [0, 9, 255])
def test_an_orientation_that_is_none_turns_nothing(photo, turn):
    decoded = decode_image(with_turn(photo(20, 30, 0), turn), upright=True)
    assert decoded.turn == 1 and (decoded.pixels == np.asarray(photo(20, 30, 0))).all()


def test_threads_that_read_turns_leave_the_filters_of_warnings_as_they_are():
    class Held:
        """A photo whose header is read until another's is begun, or half a second."""

        def __init__(self, begun, until):
            self.begun, self.until = begun, until

        def getexif(self):
            self.begun.set()
            self.until.wait(0.5)
            return {}

    first, second, ended = threading.Event(), threading.Event(), threading.Event()
    before = list(warnings.filters)

    def read_first():
        turn_of(Held(first, second))
        ended.set()

    thread = threading.Thread(target=read_first)
    thread.start()
    assert first.wait(10)
    turn_of(Held(second, ended))
    thread.join()
    assert warnings.filters == before


@pytest.fixture
def folder_of(tmp_path, photo):
    """``folder_of(name, turn)``: two classes of photos; one of them is held by ``turn``."""

    def make(name: str, turn: int, classes: tuple[str, str] = ("a", "b")):
        for split in ("train", "val"):
            for number, label in enumerate(classes):
                (tmp_path / name / split / label).mkdir(parents=True)
                for i in range(3):
                    held = turn if (number, i) == (0, 1) else 1
                    content = with_turn(photo(30, 40, 10 * number + i), held)
                    (tmp_path / name / split / label / f"{i}.png").write_bytes(content)
        return tmp_path / name

    return make


@pytest.mark.parametrize("stream", [False, True])
def test_stores_and_streams_hold_photos_upright(folder_of, photo, tmp_path, stream):
    store = open_dataset("imagefolder", "train", folder_of("x", 6), None, tmp_path / "cache", False, stream)
    upright = SEEN[6](np.asarray(photo(30, 40, 1)))
    assert (store.image(1) == upright).all() and (store.original_image(1) == upright).all()
    assert store.original_sizes.tolist() == [[30, 40], [40, 30], *[[30, 40]] * 4] and store.turns[1] == 6
    assert (store.batch([1]).pixels[0].permute(1, 2, 0).numpy() == upright).all()
    assert store.upright and store.source != "" and len(store) == 6


def test_fingerprints_tell_turned_photos_from_others(folder_of, tmp_path):
    def opened(name, turn, classes=("a", "b")):
        return open_dataset("imagefolder", "train", folder_of(name, turn, classes), 24, tmp_path / "cache", False)

    held, plain = opened("x", 6), opened("y", 1)
    assert held.fingerprint != plain.fingerprint and held.source != plain.source
    synsets = ("n01440764", "n02102040")  # a part of ImageNet: published numbers come from the pixels as stored
    stored, other = opened("z", 6, synsets), opened("w", 1, synsets)
    assert not stored.upright and stored.turns[1] == 6
    assert stored.fingerprint == other.fingerprint and (stored.image(1) == plain.image(1)).all()


@pytest.mark.parametrize("data", ["voc2012", "voc2007"])
def test_voc_keeps_the_pixels_that_its_masks_and_boxes_belong_to_and_says_it(voc_folder, photo, capsys, data):
    base = voc_folder / "VOCdevkit" / "VOC2012"
    if data == "voc2007":
        for name in "abcd":
            (base / "Annotations").mkdir(exist_ok=True)
            (base / "Annotations" / f"{name}.xml").write_text(
                "<annotation><object><name>cat</name></object></annotation>"
            )
        (base / "ImageSets" / "Main").mkdir()
        for list_, names in (("trainval", "a\nb\nc\n"), ("test", "d\n")):
            (base / "ImageSets" / "Main" / f"{list_}.txt").write_text(names)
        base = base.rename(base.parent / "VOC2007")
    (base / "JPEGImages" / "a.jpg").write_bytes(with_turn(photo(60, 80, 0), 6, "JPEG"))
    stored = np.asarray(Image.open(base / "JPEGImages" / "a.jpg"))
    store = open_dataset(data, "train", voc_folder, None, progress=False)
    assert (store.image(0) == stored).all() and store.turns.tolist() == [6, 1, 1]
    assert store.mask(0) is None or store.mask(0).shape == (60, 80)
    assert (
        f"{data} train: 1 photos carry an EXIF orientation; their pixels are taken as stored" in capsys.readouterr().err
    )


def mask_of(tmp_path, height: int, width: int, turn: int = 1):
    """A mask whose corner is of class 1."""
    values = np.zeros((height, width), np.uint8)
    values[0, 0] = 1
    (tmp_path / "mask.png").write_bytes(with_turn(Image.fromarray(values), turn))
    return tmp_path / "mask.png"


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_a_mask_of_the_unturned_pixels_is_refused(tmp_path, turn):
    upright = 40, 30
    assert decode_mask(mask_of(tmp_path, 40, 30), 21, upright, turn, upright=True).shape == upright
    reason = (
        rf"mask\.png: .*EXIF orientation {turn}; photos are read upright, and the mask fits only the unturned pixels"
    )
    with pytest.raises(WrongData, match=reason):
        decode_mask(mask_of(tmp_path, 30, 40), 21, upright, turn, upright=True)
    with pytest.raises(WrongData, match="41×30 pixels and its image 40×30"):
        decode_mask(mask_of(tmp_path, 41, 30), 21, upright, turn, upright=True)
    # Where photos are read as stored, it is the other way round.
    assert decode_mask(mask_of(tmp_path, 30, 40), 21, (30, 40), turn).shape == (30, 40)
    with pytest.raises(WrongData, match="read unturned, as published, and the mask fits only the upright photo"):
        decode_mask(mask_of(tmp_path, 40, 30), 21, (30, 40), turn)


@pytest.mark.parametrize(
    ("turn", "size"), [*((turn, (30, 30)) for turn in range(2, 9)), (2, (30, 40)), (3, (30, 40)), (4, (30, 40))]
)
def test_a_mask_that_fits_both_ways_is_refused_unless_it_says_itself_how_it_is_held(tmp_path, turn, size):
    if turn > 4 and size == (30, 40):
        return  # its sides tell
    with pytest.raises(
        WrongData, match=rf"EXIF orientation {turn}, and the mask none: .* nothing shows to which it belongs"
    ):
        decode_mask(mask_of(tmp_path, *size), 21, size, turn, upright=True)
    held = decode_mask(mask_of(tmp_path, *size, turn), 21, size, turn, upright=True)
    corner = np.zeros(size, np.uint8)
    corner[0, 0] = 1
    assert (held == SEEN[turn](corner)).all()
    assert (decode_mask(mask_of(tmp_path, *size, turn), 21, size, turn) == corner).all()


def test_a_square_photo_with_a_turn_and_a_mask_ends_the_build(tmp_path, photo):
    from data.sets.core.voc import list_segmentation
    from data.store.open import open_store

    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(with_turn(photo(40, 40, 0), 6, "JPEG"))
    mask_of(tmp_path, 40, 40).rename(tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    listing = list_segmentation("demo", "train", tmp_path, ("x",), {"a": "x"}, upright=True)
    with pytest.raises(UserError, match=r"a\.png: the photo of this mask carries the EXIF orientation 6"):
        open_store(listing, None, tmp_path / "cache", False)
