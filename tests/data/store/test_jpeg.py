"""JPEG files with data behind their end are whole, and those that stop before it are not."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.store.decode import DamagedImage, decode_image
from data.store.jpeg import is_whole
from tests.small_images import encoded


def jpeg(photo, **options) -> bytes:
    return encoded(photo(120, 160, 3), "JPEG", quality=92, **options)


def archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr("a.jpg", content)
    return file.getvalue()


def behind(photo) -> dict[str, bytes]:
    """What devices and programs append."""
    noise = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()
    small = encoded(photo(20, 30, 1), "JPEG")
    return {
        "a motion photo's video": b"\0\0\0\x18ftypmp42" + noise + b"\xff\xda" + noise,
        "the start of a scan": b"\xff\xda",
        "another JPEG": small,
        "half of another JPEG": small[:-200],
        "a ZIP file": archive(small),
        "zeros": bytes(5_000),
        "bytes FF": b"\xff" * 300,
        "a line": b"\r\n",
    }


KINDS = list(behind(lambda *size: Image.new("RGB", size[1::-1])))
WAYS = [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"exif": b"Exif\0\0" + b"\xff\xd9\xff\xda" * 20}]


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_data_behind_the_end_count_nowhere(photo, kind, options):
    content = jpeg(photo, **options)
    with_more = content + behind(photo)[kind]
    assert (decode_image(with_more).pixels == decode_image(content).pixels).all()


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("kind", ["nothing", *KINDS])
def test_files_that_stop_are_found_whatever_follows(photo, kind, options):
    content = jpeg(photo, **options)
    more = b"" if kind == "nothing" else behind(photo)[kind]
    begin = content.rindex(b"\xff\xda") + 40  # in the last scan
    for end in np.linspace(begin, len(content) - 2, 25).astype(int):
        cut = content[:end].rstrip(b"\xff") + more
        assert not is_whole(cut)
        with pytest.raises(DamagedImage):
            decode_image(cut)


def test_a_file_of_several_photos_is_as_whole_as_its_first(photo):
    content = encoded(photo(120, 160, 3), "MPO", save_all=True, append_images=[photo(60, 80, 4)])
    pixels = decode_image(content).pixels
    assert pixels.shape == (120, 160, 3)
    second = content.index(b"\xff\xd8", content.index(b"\xff\xd9"))
    assert (decode_image(content[: second + 400]).pixels == pixels).all()
    with pytest.raises(DamagedImage):
        decode_image(content[: second - 400] + content[second:])
