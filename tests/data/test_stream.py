"""Images decoded anew each time are those that a store keeps."""

import shutil
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from common.download import cache_root
from common.errors import UserError
from data.datasets import open_dataset
from data.store import build
from data.store.listing import Listing
from data.store.open import open_store
from data.store.store import ImageStore
from data.store.stream import StreamedStore


def open_train(name, root, stream=True, short_side=24):
    cache = root.parent / ("streamed" if stream else "kept")
    return open_dataset(name, "train", root, short_side, cache=cache, progress=False, stream=stream)


@pytest.mark.parametrize("name", ["imagefolder", "voc2012", "cifar10"])
def test_it_gives_what_a_store_gives(name, request, tmp_path):
    if name == "cifar10":
        listing = Listing(
            data=name,
            split="train",
            root=tmp_path,
            classes=("a",),
            names=[f"{i}" for i in range(4)],
            labels=np.zeros(4, np.int64),
            arrays=np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), np.uint8),
            stamp="",
        )
        kept, streamed = (open_store(listing, 24, tmp_path / str(how), False, how) for how in (False, True))
    else:
        root = request.getfixturevalue("image_folder" if name == "imagefolder" else "voc_folder")
        if name == "imagefolder":
            (root / "train/ant/2.png").write_bytes(b"")
            Image.open(root / "train/bee/1.png").convert("L").save(root / "train/bee/1.png")
        kept, streamed = (open_train(name, root, stream) for stream in (False, True))
    assert type(kept) is ImageStore and type(streamed) is StreamedStore
    assert streamed.fingerprint == kept.fingerprint
    for attribute in ("names", "damaged", "converted", "classes", "short_side", "has_masks"):
        assert getattr(streamed, attribute) == getattr(kept, attribute)
    assert np.array_equal(streamed.labels, kept.labels) and np.array_equal(streamed.original_sizes, kept.original_sizes)
    indices = np.array([2, 0, 2, 1])
    for a, b in ((streamed, kept), (streamed.subset([2, 1, 0]), kept.subset([2, 1, 0]))):
        one, other = a.batch(indices), b.batch(indices)
        assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.sizes, other.sizes)
        assert a.fingerprint == b.fingerprint
    for index in range(3):
        assert np.array_equal(streamed.image(index), kept.image(index))
        assert np.array_equal(streamed.original_image(index), kept.original_image(index))
        assert np.array_equal(streamed.mask(index), kept.mask(index)) or not kept.has_masks
    assert streamed.batch([]).pixels.shape[0] == 0
    with pytest.raises(IndexError):
        streamed.batch([len(kept)])


def test_it_keeps_no_pixels_and_checks_once(image_folder, monkeypatch):
    first = open_train("imagefolder", image_folder)
    cache = image_folder.parent / "streamed"
    assert sum(file.stat().st_size for file in cache.rglob("*.bin")) == 0
    monkeypatch.setattr(Listing, "read", lambda self, row, short_side: pytest.fail("checked again"))
    assert open_train("imagefolder", image_folder).fingerprint == first.fingerprint


def test_an_interrupted_check_continues(image_folder, monkeypatch):
    monkeypatch.setattr(build, "COMMIT_SECONDS", 0.0)
    read, again = Listing.read, []

    def interrupted(self, row, short_side):
        if row == 7:
            raise KeyboardInterrupt
        return read(self, row, short_side)

    with monkeypatch.context() as patch:
        patch.setattr(Listing, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_train("imagefolder", image_folder)
    monkeypatch.setattr(Listing, "read", lambda self, row, short_side: again.append(row) or read(self, row, short_side))
    assert len(open_train("imagefolder", image_folder)) == 12
    assert sorted(again) == list(range(7, 12))


def test_a_store_that_would_not_fit_is_not_begun(image_folder, monkeypatch, capsys):
    Usage = namedtuple("Usage", "free")
    bytes_of_all = sum(
        3 * 24 * int(24 * max(size) / min(size)) for size in [(40 + 3 * i, 70 - 4 * i) for i in range(6)] * 2
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(bytes_of_all))
    streamed = open_dataset("imagefolder", "train", image_folder, 24, progress=False)
    assert type(streamed) is StreamedStore
    said = capsys.readouterr().err
    first, second = said.strip().split("\n")
    assert "imagefolder train: decoded, the images would take about" in first
    assert second.startswith("checking 12 images of imagefolder train, which are not kept; notes go to")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * bytes_of_all))
    kept = open_dataset("imagefolder", "train", image_folder, 24, progress=False)
    assert type(kept) is ImageStore and kept.fingerprint == streamed.fingerprint
    assert (
        capsys.readouterr().err.strip().count("\n") == 0
    )  # older versions of rich end a hidden bar with an empty line
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0))  # what is there is used
    assert type(open_dataset("imagefolder", "train", image_folder, 24, progress=False, stream=True)) is ImageStore
    assert len(list(cache_root().glob("*/pixels-*.bin"))) == 1


@pytest.mark.parametrize("change", ["gone", "cut", "other"])
def test_a_file_that_changes_later_is_told(image_folder, photo, change):
    store = open_train("imagefolder", image_folder)
    path = image_folder / store.names[3]
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        photo(30, 90, 0).save(path)
    with pytest.raises(UserError, match=rf"{store.names[3]}: has changed since the data were checked"):
        store.batch([1, 3])
