"""Stores on small disks: builds cut off, older stores that others read, and ``run.py data --cache``."""

import io
import os
import re
import shutil
import sys
from collections import namedtuple

import huggingface_hub.constants
import pytest
from rich.console import Console

from commands.data import clean
from common.download import cache_root
from common.errors import UsageError, UserError
from data.datasets import open_dataset
from data.store import build
from data.store.cache import entries
from data.store.listing import Listing
from data.store.store import ImageStore
from data.store.stream import StreamedStore


def open_train(root, **options):
    return open_dataset("imagefolder", "train", root, 24, progress=False, **options)


def touch(image_folder, by=1):
    path = image_folder / "train/ant/3.png"
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + by))


def pixel_files():
    return list(cache_root().glob("*/pixels-*.bin"))


@pytest.fixture
def decoded(monkeypatch):
    """Rows that are decoded from here on."""
    rows, read = [], Listing.read
    monkeypatch.setattr(Listing, "read", lambda self, row, short_side: rows.append(row) or read(self, row, short_side))
    return rows


@pytest.fixture
def small_disk(monkeypatch):
    """``small_disk(size)``: a disk of so many bytes, on which there is only the cache."""
    Usage = namedtuple("Usage", "free")

    def make(size):
        def usage(path):
            return Usage(size - sum(file.stat().st_size for file in cache_root().rglob("*.bin")))

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return make


@pytest.mark.parametrize("last", ["index", "rename", "an older version's rename"])
def test_a_build_that_dies_between_its_last_steps_decodes_nothing_again(last, image_folder, monkeypatch, decoded):
    expected = open_dataset("imagefolder", "train", image_folder, 24, image_folder.parent / "whole", False).fingerprint
    decoded.clear()

    def die(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if last == "rename":
            patch.setattr(build.Builder, "_publish", die)
        else:
            patch.setattr(build, "write_index", die)
        with pytest.raises(UserError, match="No space left on device"):
            open_train(image_folder)
    assert len(decoded) == 12
    (begun,) = cache_root().glob("*/building.bin")
    if last.startswith("an older"):
        begun.replace(begun.with_name(build.pixel_file(begun.parent, build_key(begun)).name))
    assert open_train(image_folder).fingerprint == expected
    assert len(decoded) == 12
    assert not list(cache_root().glob("*/building*")) and len(pixel_files()) == 1


def build_key(begun):
    import json

    return json.loads((begun.parent / "building.jsonl").read_text().splitlines()[0])["key"]


def test_a_touched_file_does_not_turn_a_store_into_a_stream(image_folder, small_disk, capsys):
    store = open_train(image_folder)
    size, fingerprint = pixel_files()[0].stat().st_size, store.fingerprint
    del store
    small_disk(1.5 * size)  # room for one
    touch(image_folder)
    again = open_train(image_folder)
    assert type(again) is ImageStore and again.fingerprint == fingerprint
    assert len(pixel_files()) == 1


def test_an_older_store_that_is_read_stays_and_is_named(image_folder, small_disk, capsys):
    older = open_train(image_folder)
    (file,) = pixel_files()
    part = older.subset([3, 4])
    pixels = part.batch([0, 1]).pixels
    del older  # a part of it is in use
    small_disk(1.5 * file.stat().st_size)
    touch(image_folder)
    capsys.readouterr()
    assert type(open_train(image_folder)) is StreamedStore
    said = capsys.readouterr().err
    assert f"cannot be removed, since a process reads it: {file}" in said and file.exists()
    assert (part.batch([0, 1]).pixels == pixels).all()
    del part
    kept = open_train(image_folder)  # now there is room
    assert type(kept) is ImageStore and not file.exists()


def test_a_rebuild_with_room_leaves_what_others_read(image_folder):
    """On a network file system a removed file is gone for the machines that have mapped it."""
    older = open_train(image_folder)
    (file,) = pixel_files()
    touch(image_folder)
    newer = open_train(image_folder)
    assert file.exists() and len(pixel_files()) == 2
    assert older.fingerprint == newer.fingerprint
    del older
    touch(image_folder, 2)
    newest = open_train(image_folder)
    assert not file.exists() and len(pixel_files()) == 2 and newest.fingerprint == newer.fingerprint


def test_streaming_after_a_full_disk_frees_what_the_build_left(image_folder, monkeypatch):
    def full(self, file, *arrays):
        file.write(bytes(1000))
        file.flush()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(build.Builder, "_write", full)
        with pytest.raises(UserError, match=r"No space left on device\); free some space, train with --stream"):
            open_train(image_folder)
    (begun,) = cache_root().glob("*/building.bin")
    assert begun.stat().st_size
    left = []
    run = build.Builder.run
    monkeypatch.setattr(build.Builder, "run", lambda self, show: left.append(begun.exists()) or run(self, show))
    assert type(open_train(image_folder, stream=True)) is StreamedStore
    assert left == [False]  # there was room again before anything was written


def test_a_build_says_where_and_how_much(image_folder, capsys):
    open_train(image_folder)
    said = capsys.readouterr().err.replace("\n", "")
    assert f"decoding 12 images of imagefolder train to {cache_root()}" in said
    assert re.search(r", about [\d.]+ KiB$", said)


def cleaned(names=(), yes=False) -> str:
    file = io.StringIO()
    clean(names, yes, Console(file=file, width=200, soft_wrap=True))
    return file.getvalue()


def test_the_cache_is_listed_and_what_is_named_is_removed(image_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "cache:" in cleaned() and "hub" not in cleaned()
    blob = tmp_path / "hub" / "models--timm--x" / "blobs" / "a"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(2**20))
    assert f"1 MiB in {tmp_path / 'hub'}" in cleaned()
    store = open_train(image_folder)
    open_dataset("imagefolder", "test", image_folder, 24, progress=False, stream=True)
    weights = cache_root() / "weights" / "dino"
    weights.mkdir(parents=True)
    (weights / "a.pth").write_bytes(bytes(3 * 2**20))
    kinds = {entry.name.partition("-24-")[0]: (entry.kind, entry.source) for entry in entries()}
    assert kinds == {
        "imagefolder-train": ("store", str(image_folder)),
        "imagefolder-test": ("check of streamed images", str(image_folder)),
        "weights/dino/a.pth": ("weights", ""),
    }
    text = cleaned()
    assert str(cache_root()) in text and "3 MiB" in text and str(image_folder) in text
    name, streamed = (next(e.name for e in entries() if f"-{split}-" in e.name) for split in ("train", "test"))
    with pytest.raises(UsageError, match="unknown entry of the cache 'imagefolder-tran-24"):
        clean([name.replace("train", "tran")], True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="Nobody is here to answer; give --yes"):
        clean([name], False)
    with pytest.raises(UserError, match="a process reads its images"):
        clean([name], True)
    assert store.batch([0]).pixels.any()
    del store
    assert f"removed {cache_root() / name}" in cleaned([name, streamed, "weights/dino/a.pth"], yes=True)
    assert entries() == []
    assert len(open_train(image_folder)) == 12  # made anew


def test_a_question_is_asked(image_folder, monkeypatch):
    open_train(image_folder)
    (entry,) = entries()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, left in (("", 1), ("no", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda *words, answer=answer: answer)
        text = cleaned([entry.name])
        assert (text.count("nothing is removed"), len(entries())) == (left, left)
