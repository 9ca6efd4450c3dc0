import os

import numpy as np
import pytest
from PIL import Image, ImageFile
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from common.errors import UserError
from data.store.decode import DamagedImage, WrongData, decode_image
from data.store.masks import decode_mask
from tests.small_images import encoded, png


@pytest.fixture
def decode(tmp_path):
    """``decode(bytes, suffix)``."""

    def run(content: bytes, suffix: str = ".png"):
        path = tmp_path / f"image{suffix}"
        path.write_bytes(content)
        return decode_image(path)

    return run


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA"])
def test_exact_conversions_are_made_and_told(decode, photo, mode):
    image = photo(20, 30, 0).convert(mode)
    decoded = decode(encoded(image, "PNG"))
    assert (decoded.pixels == np.asarray(image.convert("RGB"))).all()
    assert decoded.note


def test_rgb_is_taken_as_it_is_whatever_the_suffix(decode, photo):
    image = photo(20, 30, 0)
    decoded = decode(encoded(image, "PNG"), ".jpg")
    assert (decoded.pixels == np.asarray(image)).all() and decoded.note == "" and decoded.original_size == (20, 30)
    assert (decode(encoded(image, "GIF"), ".png").pixels.shape) == (20, 30, 3)


@pytest.mark.parametrize("size", [(50, 81), (81, 50), (33, 33), (32, 90), (20, 30)])
def test_resizing_equals_torchvision_and_never_enlarges(tmp_path, photo, size):
    image = photo(*size, 1)
    image.save(tmp_path / "a.png")
    expected = image
    if min(size) > 32:
        expected = reference.resize(image, 32, InterpolationMode.BICUBIC, antialias=True)
    decoded = decode_image(tmp_path / "a.png", 32)
    assert (decoded.pixels == np.asarray(expected)).all() and decoded.original_size == size


def refused(photo) -> dict[str, tuple[bytes, str]]:
    """Contents that are no image to use, and a part of the reason."""
    image = photo(40, 50, 0)
    grey = np.asarray(image)[:, :, 0]
    jpeg = encoded(photo(200, 200, 3), "JPEG", quality=95)
    half = len(jpeg) // 2
    alpha = image.convert("RGBA")
    alpha.putpixel((3, 3), (0, 0, 0, 100))
    return {
        "empty": (b"", "empty file"),
        "text": (b"not an image", "cannot identify"),
        "cut JPEG": (jpeg[:half], "truncated"),
        "JPEG without its last bytes": (jpeg[:-20], "truncated"),
        "JPEG with zeros for its second half": (jpeg[:half] + bytes(20_000), "stops inside"),
        "cut PNG": (encoded(image, "PNG")[:-800], "truncated"),
        "PNG with too few rows": (png(40, 40, 8, 2, bytes(500)), "truncated"),
        "PNG with a flipped byte": (flipped(encoded(image, "PNG")), ""),
        "CMYK": (encoded(image.convert("CMYK"), "JPEG"), "CMYK"),
        "LAB": (encoded(image.convert("LAB"), "TIFF"), "LAB"),
        "16-bit grey": (encoded(Image.fromarray(grey.astype(np.uint16) * 200), "PNG"), "more than 8 bits"),
        "16-bit RGB": (png(4, 4, 16, 2, (b"\0" + bytes(24)) * 4), "more than 8 bits"),
        "32-bit": (encoded(Image.fromarray(grey.astype(np.int32)), "TIFF"), "more than 8 bits"),
        "float": (encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"), "floating-point"),
        "transparent": (encoded(alpha, "PNG"), "transparent"),
        "transparent palette": (
            encoded(image.convert("P"), "GIF", transparency=image.convert("P").getpixel((0, 0))),
            "transp",
        ),
        "one pixel": (encoded(image.resize((1, 1)), "PNG"), "1×1 pixels"),
        "one row": (encoded(image.resize((9, 1)), "PNG"), "1×9 pixels"),
        "animation": (encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]), "2 frames"),
        "bomb": (png(60_000, 60_000, 8, 2, b""), "bomb"),
        "small bomb": (png(10_000, 9_000, 8, 2, b""), "bomb"),
    }


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", list(refused(lambda height, width, seed: Image.new("RGB", (width, height)))))
def test_what_is_no_definite_rgb_image_is_refused_with_its_reason(decode, photo, kind):
    content, reason = refused(photo)[kind]
    with pytest.raises(DamagedImage) as error:
        decode(content)
    message = str(error.value)
    assert reason in message and "\n" not in message and "0x" not in message and "/" not in message


def test_truncated_files_are_refused_even_where_another_library_allows_them(decode, photo, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DamagedImage, match="truncated"):
        decode(encoded(photo(200, 200, 3), "JPEG")[:-300])


def test_a_file_the_system_withholds_is_not_called_damaged(tmp_path, photo, monkeypatch):
    photo(20, 20, 0).save(tmp_path / "a.png")

    def fail(file):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        decode_image(tmp_path / "a.png")
    with pytest.raises(DamagedImage, match="no such file"):
        decode_image(tmp_path / "b.png")


@pytest.fixture
def mask_file(tmp_path):
    def write(image: Image.Image):
        image.save(tmp_path / "mask.png")
        return tmp_path / "mask.png"

    return write


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_hold_class_ids(mask_file, mode):
    values = np.array([[0, 1, 20], [255, 5, 0]], np.uint8)
    image = Image.new(mode, (3, 2))
    image.putdata(values.ravel().tolist())
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    assert (decode_mask(mask_file(image), 21, (2, 3)) == values).all()


def test_wrong_masks_name_the_file(mask_file, tmp_path):
    grey = Image.new("L", (3, 2), 21)
    cases = [
        (grey, 21, (2, 3), "class ids 21; known are 0 to 20 and 255"),
        (grey, 22, (3, 2), "2×3 pixels and its image 3×2"),
        (Image.new("RGB", (3, 2)), 21, (2, 3), "RGB image"),
        (Image.new("RGBA", (3, 2)), 21, (2, 3), "RGBA image"),
    ]
    for image, classes, size, message in cases:
        with pytest.raises(WrongData, match=r"mask\.png: the mask .*" + message):
            decode_mask(mask_file(image), classes, size)
    (tmp_path / "mask.png").write_bytes(b"no mask")
    with pytest.raises(WrongData, match=r"mask\.png: the mask cannot be read: cannot identify"):
        decode_mask(tmp_path / "mask.png", 21, (2, 3))
    with pytest.raises(WrongData, match=r"none\.png: the mask is missing"):
        decode_mask(tmp_path / "none.png", 21, (2, 3))
