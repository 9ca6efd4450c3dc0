"""Stores of the format before, which hold no hashes of files and no turns."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from common.download import cache_root
from common.errors import UserError
from common.images import voc_palette
from data.datasets import list_images, open_dataset
from data.store import older as older_module
from data.store.index import INDEX, key_of, pixel_file, read_index
from data.store.listing import Listing
from data.store.older import OLDER, OLDER_RECORD
from tests.small_images import encoded


def opened(root, stream=False, data="imagefolder"):
    return open_dataset(data, "train", root, 24, progress=False, stream=stream)


def made_older(root, stream=False, skipped=(), data="imagefolder"):
    """Write a store's index, and name its pixels, as the version before did."""
    listing = list_images(data, "train", root, progress=False)
    (folder,) = (file.parent for file in cache_root().rglob(INDEX))
    index = read_index(folder, key_of(listing, 24), listing, 24)
    records = np.zeros(len(index.records), OLDER_RECORD)
    for name in OLDER_RECORD.names:
        records[name] = index.records[name]
    kept = ~np.isin(records["row"], [row for row, _ in skipped])
    key = key_of(listing, 24, OLDER)
    about = {name: value for name, value in index.about.items() if name != "pixels"}
    about |= {"key": key, "skipped": [*about["skipped"], *skipped]}
    pixels = (folder / index.about["pixels"]).rename(pixel_file(folder, key))
    replace(index, about=about, records=records[kept]).write(folder)
    return pixels


@pytest.mark.parametrize("stream", [False, True])
def test_their_pixels_go_on_with_hashes_made_by_one_pass(image_folder, monkeypatch, stream):
    store = opened(image_folder, stream)
    pixels = made_older(image_folder, stream)
    inode = pixels.stat().st_ino
    monkeypatch.setattr(Listing, "read", lambda *_: pytest.fail("decoded again"))
    again = opened(image_folder, stream)
    assert type(again) is type(store) and again.fingerprint == store.fingerprint and again.source == store.source
    assert (again.turns == 1).all() and (again.batch([3, 4]).pixels == store.batch([3, 4]).pixels).all()
    assert pixels.stat().st_ino == inode
    monkeypatch.setattr(older_module, "_completed", lambda *_: pytest.fail("hashed again"))
    assert opened(image_folder, stream).source == store.source


def test_one_without_the_turns_of_its_photos_is_built_anew(image_folder, photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(40, 70, 0).save(image_folder / "train/bee/0.png", exif=exif)
    opened(image_folder)
    pixels = made_older(image_folder)
    store = opened(image_folder)
    assert store.original_sizes[6].tolist() == [70, 40] and store.turns[6] == 6 and not pixels.exists()


def test_one_that_skipped_what_is_read_now_is_built_anew(image_folder):
    opened(image_folder, stream=True)
    made_older(image_folder, stream=True, skipped=[(3, "the file stops inside the image")])
    store = opened(image_folder, stream=True)
    assert len(store) == 12 and store.damaged == []


def unnoticed(file, content):
    """Write a file whose size and time are always the same, so that no listing tells what it holds."""
    file.write_bytes(content.ljust(10_000, b"\0"))
    os.utime(file, ns=(0, 0))


@pytest.mark.parametrize("refused", ["more than 8 bits", "broken data stream"])
def test_one_that_holds_what_is_refused_now_is_built_anew(image_folder, photo, refused):
    file = image_folder / "train/ant/3.png"
    jpeg = encoded(photo(60, 40, 0), "JPEG")
    deep = b"P6 40 30 65535\n" + bytes(7200)
    unnoticed(file, jpeg)
    opened(image_folder)
    pixels = made_older(image_folder)
    unnoticed(file, deep if refused == "more than 8 bits" else jpeg[:-200] + jpeg)
    ((name, reason),) = opened(image_folder).damaged
    assert name == "train/ant/3.png" and refused in reason and not pixels.exists()


def test_one_with_masks_is_built_anew_since_masks_have_further_rules(voc_folder):
    file = voc_folder / "VOCdevkit/VOC2012/SegmentationClass/a.png"
    mask = Image.fromarray(np.full((60, 80), 1, np.uint8)).convert("P")
    for renumbered in (False, True):
        mask.putpalette(voc_palette()[[0, 8 if renumbered else 1]].ravel().tolist())
        mask.putdata([1] * mask.width * mask.height)
        unnoticed(file, encoded(mask, "PNG"))
        if renumbered:
            with pytest.raises(UserError, match="gives 1 the colour of 8 in VOC's palette"):
                opened(voc_folder, data="voc2012")
        else:
            opened(voc_folder, data="voc2012")
            made_older(voc_folder, data="voc2012")


def test_one_with_a_damaged_image_still_skips_it(image_folder, monkeypatch):
    (image_folder / "train/ant/2.png").write_bytes(b"no image")
    opened(image_folder)
    made_older(image_folder)
    monkeypatch.setattr(Listing, "read", lambda *_: pytest.fail("decoded again"))
    assert [name for name, _ in opened(image_folder).damaged] == ["train/ant/2.png"]


def test_one_in_a_folder_that_cannot_be_written_is_read(image_folder, monkeypatch):
    source = opened(image_folder).source
    made_older(image_folder)

    def fail(self, folder):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(older_module.Index, "write", fail)
    assert opened(image_folder).source == source
    about = json.loads(np.load(next(cache_root().rglob(INDEX)))["about"].tobytes())
    assert "pixels" not in about  # it is as it was
