"""What grows with the data is done once, and holds no more than it needs."""

import os
from pathlib import Path

import pytest
from PIL import Image

from commands.train import train
from data import datasets
from data.datasets import list_images, listing_once, open_dataset
from data.store.listing import below


@pytest.fixture
def listed(monkeypatch) -> list[tuple[str, str]]:
    """The splits that have been listed, by the names of their data sets."""
    made = []
    data_set = datasets._data_set

    def counting(name, root, cache):
        found = data_set(name, root, cache)
        listing = found.listing

        def listing_of(split):
            made.append((name, split))
            return listing(split)

        monkeypatch.setattr(found, "listing", listing_of, raising=False)
        return found

    monkeypatch.setattr(datasets, "_data_set", counting)
    return made


def test_a_command_lists_each_split_once(small, tmp_path, listed):
    train(*small(tmp_path / "run", epochs=1, knn_every=1))
    assert listed == [("imagefolder", "train")]


def test_the_next_command_sees_what_has_changed(image_folder, listed, photo):
    with listing_once(), listing_once():
        first = [list_images("imagefolder", "train", image_folder, progress=False) for _ in range(3)]
    photo(30, 30, 9).save(image_folder / "train" / "ant" / "9.png")
    with listing_once():
        after = list_images("imagefolder", "train", image_folder, progress=False)
    assert listed == [("imagefolder", "train")] * 2
    assert first[0] is first[1] is first[2] and len(after.names) == len(first[0].names) + 1
    list_images("imagefolder", "train", image_folder, progress=False)
    assert len(listed) == 3


@pytest.mark.parametrize("root", ["/", "/a", "/a/b c", "/a/..", "a", "a/../b"])
def test_names_are_relative_as_relpath_has_them(root):
    paths = [str(Path(root, *parts)) for parts in (["x.jpg"], ["y", "é\udcff.jpg"], ["..x", "z"])]
    found = below(Path(root), [(path, None) for path in paths])
    assert [name for name, _ in found] == [os.path.relpath(path, root) for path in paths]


def test_a_build_in_little_memory_gives_the_same_store(image_folder, monkeypatch, tmp_path):
    stores = []
    for most in (2**32, 1):
        monkeypatch.setattr("data.store.build.MOST_BYTES", most)
        monkeypatch.setattr("data.store.build.processors", lambda: 16)
        stores.append(open_dataset("imagefolder", "train", image_folder, 24, tmp_path / str(most), progress=False))
    assert stores[0].fingerprint == stores[1].fingerprint and stores[0].names == stores[1].names


def test_the_header_tells_what_an_image_takes(image_folder, tmp_path):
    listing = list_images("imagefolder", "train", image_folder, progress=False)
    for row, name in enumerate(listing.names):
        with Image.open(image_folder / name) as image:
            assert listing.size(row) == (image.height, image.width)
    (image_folder / listing.names[0]).write_bytes(b"no image")
    (image_folder / listing.names[1]).unlink()
    assert listing.size(0) is listing.size(1) is None
