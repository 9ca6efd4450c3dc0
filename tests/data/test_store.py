import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.download import cache_root
from common.errors import UserError
from data.datasets import open_dataset
from data.store import build
from data.store.listing import Listing
from data.store.store import shared_content


def open_train(root: Path, short_side: int | None = 24, **options):
    return open_dataset("imagefolder", "train", root, short_side, progress=False, **options)


def pixel_file(store_folder: Path) -> Path:
    (path,) = store_folder.glob("*/pixels-*.bin")
    return path


def test_a_store_holds_the_resized_images(image_folder):
    store = open_train(image_folder)
    assert len(store) == 12 and store.classes == ("ant", "bee") and store.split == "train" and store.num_classes == 2
    assert store.names[0] == "train/ant/0.png" and store.labels.tolist() == [0] * 6 + [1] * 6
    assert store.label_sets is None and not store.has_masks and store.mask(0) is None and store.damaged == []
    for i, name in enumerate(store.names):
        source = Image.open(image_folder / name)
        width, height = source.size
        scale = 24 / min(width, height)
        resized = source.resize((int(width * scale + 1e-9), int(height * scale + 1e-9)), Image.Resampling.BICUBIC)
        assert (store.image(i) == np.asarray(resized)).all()
        assert (store.original_image(i) == np.asarray(source)).all()
        assert store.original_sizes[i].tolist() == [height, width]


def test_a_batch_is_a_padded_gather(image_folder):
    store = open_train(image_folder)
    batch = store.batch(torch.tensor([7, 0, 7]))
    assert batch.pixels.dtype == torch.uint8 and batch.sizes.dtype == torch.int64
    assert tuple(batch.pixels.shape[2:]) == tuple(batch.sizes.max(dim=0).values.tolist())
    for pixels, (h, w), index in zip(batch.pixels.numpy(), batch.sizes.tolist(), [7, 0, 7], strict=True):
        assert (pixels[:, :h, :w].transpose(1, 2, 0) == store.image(index)).all()
        assert (pixels[:, h:] == 0).all() and (pixels[:, :, w:] == 0).all()
    assert store.batch(np.array([], np.int64)).pixels.shape[0] == 0
    for wrong in ([12], [-1]):
        with pytest.raises(IndexError, match="0 to 11"):
            store.batch(np.array(wrong))


def test_images_of_one_size_are_gathered_alike(tmp_path, photo):
    for name, count in (("x", 5), ("y", 4)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(count):
            photo(20, 30, len(name) * 10 + i).save(tmp_path / "train" / name / f"{i}.png")
    store = open_train(tmp_path, None)
    indices = np.array([8, 1, 1, 4])
    for part, rows in ((store, indices), (store.subset([4, 8, 1]), np.array([1, 2, 2, 0]))):
        batch = part.batch(rows)
        assert batch.pixels.shape == (4, 3, 20, 30) and (batch.sizes == torch.tensor([20, 30])).all()
        for pixels, index in zip(batch.pixels.numpy(), indices, strict=True):
            assert (pixels.transpose(1, 2, 0) == store.image(index)).all()


def test_a_subset_is_a_store_of_its_images(image_folder):
    store = open_train(image_folder)
    part = store.subset(torch.tensor([8, 2, 3]))
    assert len(part) == 3 and part.names == [store.names[i] for i in (8, 2, 3)] and part.labels.tolist() == [1, 0, 0]
    assert (part.image(0) == store.image(8)).all() and (part.batch([1]).pixels == store.batch([2]).pixels).all()
    assert part.fingerprint != store.fingerprint and part.fingerprint == store.subset([8, 2, 3]).fingerprint
    assert (part.subset([2]).image(0) == store.image(3)).all()


def test_the_fingerprint_follows_pixels_and_labels(image_folder, tmp_path):
    store = open_train(image_folder)
    assert open_train(image_folder, cache=tmp_path / "other").fingerprint == store.fingerprint
    assert open_train(image_folder, 20).fingerprint != store.fingerprint
    (image_folder / "train/ant/0.png").rename(image_folder / "train/bee/6.png")
    assert open_train(image_folder).fingerprint != store.fingerprint


def test_a_finished_store_is_opened_without_decoding(image_folder, monkeypatch):
    first = open_train(image_folder)
    monkeypatch.setattr(Listing, "read", lambda self, row, short_side: pytest.fail("decoded again"))
    assert open_train(image_folder).fingerprint == first.fingerprint


@pytest.mark.parametrize("change", ["touched", "added", "removed", "renamed", "content"])
def test_a_changed_source_is_decoded_again(image_folder, photo, change):
    before = open_train(image_folder)
    path = image_folder / "train/ant/3.png"
    stat = path.stat()
    if change == "touched":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "added":
        photo(30, 30, 9).save(image_folder / "train/ant/9.png")
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("33.png"))
    else:
        photo(30, 30, 9).save(path)
    decoded = []
    read = Listing.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Listing, "read", lambda self, row, short_side: decoded.append(row) or read(self, row, short_side))
        after = open_train(image_folder)
    assert len(decoded) == len(after) == {"added": 13, "removed": 11}.get(change, 12)
    assert before.batch(np.arange(12)).pixels.any()  # the old file is still there for those who have it open
    assert len(list(cache_root().glob("*/pixels-*.bin"))) == 2


@pytest.mark.parametrize("file", ["pixels", "index"])
def test_a_cut_store_is_built_again(image_folder, file):
    before = open_train(image_folder)
    last = before.image(11)
    path = pixel_file(cache_root())
    path = path if file == "pixels" else path.parent / "index.npz"
    os.truncate(path, path.stat().st_size - 1)
    after = open_train(image_folder)
    assert after.fingerprint == before.fingerprint and (after.image(11) == last).all()


def test_damaged_images_are_skipped_counted_and_named(image_folder, capsys):
    whole = open_train(image_folder)
    (image_folder / "train/ant/2.png").write_bytes(b"")
    (image_folder / "train/bee/0.png").write_text("no image")
    (image_folder / "train/bee/readme.txt").write_text("no image either")
    store = open_train(image_folder)
    reasons = dict(store.damaged)
    assert set(reasons) == {"train/ant/2.png", "train/bee/0.png", "train/bee/readme.txt"}
    assert reasons["train/ant/2.png"] == "empty file"
    assert len(store) == 10 and store.labels.tolist() == [0] * 5 + [1] * 5
    assert store.names == [name for name in whole.names if name not in reasons]
    assert (store.image(2) == whole.image(3)).all()
    said = capsys.readouterr().err
    assert "10 images, 3 more skipped" in said and "train/ant/2.png (empty file)" in said
    open_train(image_folder)
    assert "3 more skipped" in capsys.readouterr().err  # not only while building


def test_a_split_without_a_usable_image_is_refused(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no images for the train split"):
        open_train(tmp_path)
    for i in range(3):
        (tmp_path / "train/a" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 3 images .* train/a/0\.jpg: empty file"):
        open_train(tmp_path)


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_build_continues(image_folder, monkeypatch, torn):
    (image_folder / "train/ant/1.png").write_bytes(b"")
    expected = open_train(image_folder, cache=image_folder / "uninterrupted")
    monkeypatch.setattr(build, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(
        "common.files.MOST_CHARACTERS", 1000
    )  # a journal of 9 million images has more than other texts may have
    read = Listing.read

    def interrupted(self, row, short_side):
        if row == 7:
            raise KeyboardInterrupt
        return read(self, row, short_side)

    with monkeypatch.context() as patch:
        patch.setattr(Listing, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_train(image_folder)
    (journal,) = cache_root().glob("*/building.jsonl")
    if torn:  # the last line half written, and bytes of images of which no line tells
        os.truncate(journal, journal.stat().st_size - 5)
        with open(journal.with_suffix(".bin"), "ab") as file:
            file.write(b"something")
    again = []
    monkeypatch.setattr(Listing, "read", lambda self, row, short_side: again.append(row) or read(self, row, short_side))
    store = open_train(image_folder)
    assert sorted(again) == list(range(6 if torn else 7, 12))
    assert (
        store.fingerprint == expected.fingerprint
        and store.names == expected.names
        and store.damaged == expected.damaged
    )
    assert pixel_file(cache_root()).read_bytes() == pixel_file(image_folder / "uninterrupted").read_bytes()
    assert not journal.exists()


def test_what_an_interrupted_build_left_is_dropped_if_the_source_has_changed(image_folder, monkeypatch, photo):
    monkeypatch.setattr(build, "COMMIT_SECONDS", 0.0)
    read = Listing.read

    def interrupted(self, row, short_side):
        if row == 7:
            raise KeyboardInterrupt
        return read(self, row, short_side)

    with monkeypatch.context() as patch:
        patch.setattr(Listing, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_train(image_folder)
    new = photo(40, 40, 77)
    new.save(image_folder / "train/ant/0.png")
    store = open_train(image_folder, 40)
    assert (store.image(0) == np.asarray(new)).all()
    store = open_train(image_folder)
    assert (store.image(0) == np.asarray(new.resize((24, 24), Image.Resampling.BICUBIC))).all()


SLOW_BUILD = """
import sys, time
from pathlib import Path
from data.store import build
from data.datasets import open_dataset
from data.store.listing import Listing
build.COMMIT_SECONDS = 0.0
read = Listing.read
def slow(self, row, short_side):
    if row == 8:
        print("half", flush=True)
        time.sleep(600)
    return read(self, row, short_side)
Listing.read = slow
open_dataset("imagefolder", "train", Path(sys.argv[1]), 24, progress=False)
"""


def test_a_second_process_waits_and_takes_over_from_a_killed_one(image_folder, monkeypatch, capsys):
    checkout = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SLOW_BUILD, str(image_folder)]
    first = subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "half\n"
        said = []

        def kill(seconds):  # the waiting process sleeps between attempts, and says why after the second
            said.append(capsys.readouterr().err)
            if said[-1]:
                first.send_signal(signal.SIGKILL)
                first.wait()

        monkeypatch.setattr(time, "sleep", kill)
        store = open_train(image_folder)
    finally:
        first.kill()
        first.wait()
    assert f"waiting for process {first.pid} on " in "".join(said)
    assert len(store) == 12
    assert store.fingerprint == open_train(image_folder, cache=image_folder / "alone").fingerprint


def test_a_full_disk_is_told_and_a_read_error_does_not_spoil_the_build(image_folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match=r"No space left on device.*--stream.*SSL_COMPARE_CACHE"):
            open_train(image_folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
        with pytest.raises(
            UserError, match=r"\(Read-only file system\); set SSL_COMPARE_CACHE"
        ):  # which --stream needs, too
            open_train(image_folder)
    opened = Image.open
    with monkeypatch.context() as patch:

        def fail(file):
            if str(getattr(file, "name", "")).endswith("bee/1.png"):
                raise OSError(5, "Input/output error")
            return opened(file)

        patch.setattr(Image, "open", fail)
        with pytest.raises(UserError, match=r"bee/1\.png: cannot be read \(Input/output error\)"):
            open_train(image_folder)
    assert open_train(image_folder).damaged == [] and len(open_train(image_folder)) == 12


def test_images_in_both_splits_are_found_by_content(image_folder):
    copied = (image_folder / "train/bee/4.png").read_bytes()
    (image_folder / "val/ant/another-name.png").write_bytes(copied)
    test = open_dataset("imagefolder", "test", image_folder, 24, progress=False)
    assert shared_content(open_train(image_folder), test) == [("train/bee/4.png", "val/ant/another-name.png")]


def test_where_the_cache_is(tmp_path, monkeypatch):
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("SSL_COMPARE_CACHE")
    assert cache_root() == tmp_path / "xdg" / "ssl-compare"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "ssl-compare"


def test_the_file_holds_the_images_one_after_another(image_folder):
    store = open_train(image_folder)
    planes = b"".join(np.ascontiguousarray(store.image(i).transpose(2, 0, 1)).tobytes() for i in range(12))
    assert hashlib.sha256(pixel_file(cache_root()).read_bytes()).digest() == hashlib.sha256(planes).digest()
