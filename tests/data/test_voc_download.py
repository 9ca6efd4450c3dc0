import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from common.errors import UserError
from common.images import voc_palette
from data.datasets import fetch, open_dataset
from data.sets.core.voc_download import Source, fetch_voc2012
from tests.served import Server, archive_of


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def png(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    Image.fromarray(array).save(made, format="PNG")
    return made.getvalue()


@pytest.fixture
def sources(server) -> dict[str, Source]:
    """VOC with the images a (train), b (val), c and d; SBD with masks of a, b and c."""
    base = "VOCdevkit/VOC2012"
    photo, mask = np.full((20, 30, 3), 99, np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:9, 5:9], mask[4] = 8, 255
    members = {f"{base}/JPEGImages/{name}.jpg": png(photo) for name in "abcd"}
    members |= {f"{base}/SegmentationClass/{name}.png": png(mask) for name in "ab"}
    members[f"{base}/ImageSets/Segmentation/train.txt"] = b"a\n"
    members[f"{base}/ImageSets/Segmentation/val.txt"] = b"b\n"
    server.files["voc.tar"] = archive_of(members)
    members = {}
    for value, name in enumerate("abc", 1):
        inner = np.zeros((1, 1), dtype=[("Segmentation", object)])
        inner["Segmentation"][0, 0] = np.full((20, 30), value, np.uint8)
        made = io.BytesIO()
        scipy.io.savemat(made, {"GTcls": inner})
        members[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = made.getvalue()
    server.files["sbd.tgz"] = archive_of(members)
    names = {"voc": "voc.tar", "sbd": "sbd.tgz"}
    return {
        key: Source(f"{server.url}/{name}", hashlib.md5(server.files[name]).hexdigest()) for key, name in names.items()
    }


def test_voc_with_the_masks_of_sbd(sources, server, tmp_path):
    server.cut = [200]  # the first connection breaks
    fetch_voc2012(tmp_path, sources)
    store = open_dataset("voc2012", "train_aug", tmp_path, None, progress=False)
    assert [Path(name).stem for name in store.names] == ["a", "c"]
    assert set(np.unique(store.mask(0))) == {0, 8, 255}  # VOC's own mask, not SBD's
    assert (store.mask(1) == 3).all()
    written = Image.open(tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug/c.png")
    assert written.mode == "P" and written.getpalette()[9:12] == voc_palette()[3].tolist() == [128, 128, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"VOCdevkit", "cache"}  # no archive is left
    assert server.asked[:2] == [None, "bytes=200-"]
    asked = len(server.asked)
    fetch_voc2012(tmp_path, sources)
    assert len(server.asked) == asked


def test_an_interrupted_conversion_is_done_again(sources, tmp_path, monkeypatch):
    monkeypatch.setattr("data.sets.core.voc_download._read_sbd", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fetch_voc2012(tmp_path, sources)
    monkeypatch.undo()
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    fetch_voc2012(tmp_path, sources)
    assert len(open_dataset("voc2012", "train_aug", tmp_path, None, progress=False)) == 2


def test_archives_of_something_else(sources, server, tmp_path):
    wrong = {"voc": sources["sbd"], "sbd": sources["voc"]}
    with pytest.raises(UserError, match="holds no VOCdevkit/VOC2012"):
        fetch_voc2012(tmp_path, wrong)


def test_damaged_masks_of_sbd(sources, server, tmp_path):
    server.files["sbd.tgz"] = archive_of({"benchmark_RELEASE/dataset/cls/c.mat": b"no mat"})
    md5 = hashlib.md5(server.files["sbd.tgz"]).hexdigest()
    with pytest.raises(UserError, match=r"c\.mat: no mask of SBD"):
        fetch_voc2012(tmp_path, {**sources, "sbd": Source(sources["sbd"].url, md5)})


def test_what_cannot_be_fetched(tmp_path):
    with pytest.raises(UserError, match="needs the folder"):
        fetch("voc2012", None)
    with pytest.raises(UserError, match="voc2012 only"):
        fetch("imagenet", tmp_path)


def test_train_aug_says_how_to_get_it(voc_folder):
    with pytest.raises(UserError, match="--download makes it"):
        open_dataset("voc2012", "train_aug", voc_folder, None, progress=False)


def test_voc_colours():
    """The development kit's own loop (VOClabelcolormap.m)."""
    for value in range(256):
        red = green = blue = 0
        rest = value
        for bit in range(8):
            red |= (rest & 1) << (7 - bit)
            green |= ((rest >> 1) & 1) << (7 - bit)
            blue |= ((rest >> 2) & 1) << (7 - bit)
            rest >>= 3
        assert voc_palette()[value].tolist() == [red, green, blue]
