"""What millions of images take: bytes an image of what is held, and one pass over files and names. docs/scale.md has more."""

import hashlib
import os
import tracemalloc
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.large_data import cases
from benchmarks.large_data.__main__ import table
from common.names import hash_of
from data.datasets import open_dataset
from data.label_subset import listed_part
from data.sets.core import folders
from data.store import listing as listings
from data.store import names as pieces
from data.store.index import read_index, read_store
from data.store.names import Names, in_order
from data.store.store import shared_content
from training.batches import ORDER, WholeBatches, hold_out

IMAGES = 20_000


def measured(work):
    """The result of some work, and the bytes held afterwards and at most."""
    tracemalloc.start()
    try:
        result = work()
        return result, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_listing_and_pairing_take_16_bytes_an_image_beside_the_names(tmp_path):
    found, held, most = measured(cases.listed(IMAGES, tmp_path))
    characters = sum(map(len, found.names))
    assert len(found.names) == IMAGES and found.labels.nbytes == 8 * IMAGES
    assert held - characters - found.labels.nbytes < 2.5 * IMAGES
    one_folder = 300 * cases.OF_A_CLASS
    assert most - held < one_folder
    many = 4 * IMAGES
    for work in (cases.paired, cases.few_labels):
        _, held, most = measured(work(many, tmp_path))
        assert held + 8 * many < 16 * many + 2**14 and most < 11 * many + 2**20


def test_images_are_found_by_name_and_by_content_without_a_copy_of_all(tmp_path):
    listing, key = cases._written(IMAGES, tmp_path)
    train = read_store(tmp_path, key, listing, None)
    (tmp_path / "list.txt").write_text("n00000000_5.JPEG\nn00000003/n00000003_3001.JPEG\n")
    (rows, _), _, most = measured(lambda: listed_part(train, tmp_path / "list.txt"))
    assert rows.tolist() == [5, 3001] and most < 3 * IMAGES
    test = train.subset(np.arange(100, 200))
    pairs, _, most = measured(lambda: shared_content(train, test))
    assert pairs == [(name, name) for name in test.names] and most < 45 * IMAGES


def test_a_store_and_its_part_hold_the_records_once(tmp_path):
    work = cases.opened(IMAGES, tmp_path)
    work()  # the first also reads the names of ImageNet's classes
    store, held, most = measured(work)
    assert held < 90 * IMAGES and most - held < 15 * IMAGES + 2**22
    _, held, most = measured(lambda: store.subset(hold_out(IMAGES, 1)[0]))
    assert held < 4.2 * IMAGES and most < 20 * IMAGES
    part = store.subset(hold_out(IMAGES, 1)[0])
    _, held, _ = measured(lambda: (part.names, part.fingerprint, part.source))
    assert held < 10_000
    config = SimpleNamespace(batch_size=64, seed=3)
    batches = WholeBatches(part, config, torch.device("cpu"))
    _, held, most = measured(lambda: batches.images_of(5))
    assert most < 4.2 * IMAGES


def test_images_that_were_all_converted_are_held_by_their_rows(tmp_path):
    listing, key = cases._written(IMAGES, tmp_path)
    index = read_index(tmp_path, key, listing, None)
    grey = [(row, "greyscale") for row in range(IMAGES)]
    replace(index, about={**index.about, "converted": grey}).write(tmp_path)
    store, held, _ = measured(lambda: read_store(tmp_path, key, listing, None))
    assert store.converted == {"greyscale": listing.names} and held < 95 * IMAGES + 2**16


def test_each_file_is_looked_at_once(tmp_path):
    calls = Counter()

    def counted(name):
        call = getattr(folders.os, name)
        return lambda path: calls.update([(name, str(path))]) or call(path)

    with cases.pretended_files(tmp_path, 2500):
        folders.os = SimpleNamespace(scandir=counted("scandir"), stat=counted("stat"), path=os.path)
        found = folders.list_folder("imagefolder", "train", tmp_path)
    files = Counter({key: count for key, count in calls.items() if key[1].endswith(".JPEG")})
    assert len(found.names) == len(files) == 2500 and set(files.values()) == {1}
    assert all(calls["scandir", str(tmp_path / "train" / name)] == 1 for name in found.classes)


def test_fingerprints_are_of_what_was_kept_and_open_no_file(image_folder, monkeypatch):
    (image_folder / "train/ant/2.png").write_bytes(b"")
    open_dataset("imagefolder", "train", image_folder, 24, progress=False)
    for name in ("decode_image", "look_at", "opened"):
        monkeypatch.setattr(listings, name, lambda *_: pytest.fail("an image is opened"))
    store = open_dataset("imagefolder", "train", image_folder, 24, progress=False)
    part = store.subset([7, 2, 4])
    masks = np.zeros((11, 16), np.uint8)
    for images, rows in ((store, np.arange(11)), (part, np.array([7, 2, 4]))):
        for names, of_images in ((store.classes, "digest"), ((*store.classes, *images.names), "source")):
            digest = hashlib.sha256("\0".join(names).encode())
            for array in (store._records[of_images][rows], masks[rows], store.labels[rows]):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(b"-")
            assert digest.hexdigest()[:16] == (images.fingerprint if of_images == "digest" else images.source)
    assert part.names == [store.names[row] for row in (7, 2, 4)] and part.labels.tolist() == [1, 0, 0]


def test_files_are_in_the_order_of_their_paths(tmp_path):
    for name in ("b/x", "b-c/x", "b.d/y/z", "b0", "a/é\udcff", "a/b/c", "a.b", ".hidden/x", "a/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path for path, _ in folders.files_below(tmp_path)]
    assert found == sorted(found) and len(found) == 7
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    with pytest.raises(folders.UserError, match="a link back"):
        list(folders.files_below(tmp_path))


def test_orders_are_those_of_permutations():
    config = SimpleNamespace(batch_size=7, seed=3)
    batches = WholeBatches(Sized(range(100)), config, torch.device("cpu"))
    for epoch in range(2):
        whole = np.random.default_rng([ORDER, 3, epoch]).permutation(100)
        for place in range(14):
            assert (batches.images_of(14 * epoch + place) == whole[7 * place : 7 * place + 7]).all()
    order = np.random.default_rng(0).permutation(100)
    trained, held_out = hold_out(100, 1)
    assert (trained == np.sort(order[10:])).all() and (held_out == np.sort(order[:10])).all()


class Sized(list):
    name = "a data set"


def test_names_are_a_list_of_any_text(monkeypatch):
    monkeypatch.setattr(pieces, "_TOGETHER", 4)
    texts = ["a", "", "é\udcff", "\ud800", "x\0y\n", "b/c", "\uffff", "z", "", ""]
    names = Names(texts)
    assert names == texts and list(names) == texts and len(names) == 10 and names != texts[1:] and names
    assert [names[i] for i in range(-10, 10)] == [texts[i] for i in range(-10, 10)] and names[3:9:2] == texts[3:9:2]
    part = names.at(np.array([8, 2, 3, 2]))
    assert (
        part == ["", "é\udcff", "\ud800", "é\udcff"] and part.at(np.array([1])) == ["é\udcff"] and part[-2] == "\ud800"
    )
    with pytest.raises(IndexError):
        names[10]
    assert not Names() and Names([""]) == [""]
    for lists in ((["b", "d"], ["a", "c", "c"]), (["b", "a"], ["c"])):
        assert list(in_order(*map(Names, lists))) == sorted([*lists[0], *lists[1]])


@pytest.mark.parametrize("count", [0, 1, 3, 4096, 8200])
def test_a_hash_of_names_is_that_of_their_text(count):
    names = [f"é{i}" for i in range(count)]
    assert hash_of(iter(names), "\n").hexdigest() == hashlib.sha256("\n".join(names).encode()).hexdigest()


def test_what_larger_sets_take_follows_from_the_growth():
    points = [{"value": n, "seconds": 1e-6 * n, "held": 8 * n**1.5} for n in (100, 400, 1600)]
    rows = table({"pairing": points}).splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0][0].endswith("held") and cells[0][3] == "1.50" and cells[0][6] == "8 TB"
    assert cells[1][2:] == ["1 µs", "1.00", "1.28 s", "14.2 s", "1.67 min"]
