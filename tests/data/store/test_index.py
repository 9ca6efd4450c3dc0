"""An index that somebody has changed: the store is built anew, and nothing outside its file is read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.download import cache_root
from data.datasets import open_dataset


def an_index() -> Path:
    (path,) = cache_root().glob("*/index.npz")
    return path


def change(path: Path, name: str) -> None:
    """Change one field of an index to what it cannot be."""
    with np.load(path) as kept:
        arrays = {key: np.array(value) for key, value in kept.items()}
    about = json.loads(arrays["about"].tobytes())
    records = arrays["records"]
    if name in ("offset", "row"):
        records[name][3] = 2**40
    elif name == "negative offset":
        records["offset"][3] = -8
    elif name == "overlap":
        records["offset"][3] = records["offset"][2]
    elif name == "order":
        records["row"][[2, 3]] = records["row"][[3, 2]]
    elif name == "twice":
        records["row"][3] = records["row"][2]
    elif name in ("size", "original_size"):
        records[name][3] = 2**31 - 1
    elif name == "no size":
        records["size"][3] = 0
    elif name == "size and original":
        records["size"][3] = records["original_size"][3] = 60
    elif name == "mask":
        records["mask_offset"][3] = 0
    elif name == "fewer":
        arrays["records"] = records[:-1]
    elif name == "none":
        arrays["records"] = records[:0]
    elif name == "two axes":
        arrays["records"] = records[None]
    elif name == "plain numbers":
        arrays["records"] = np.zeros(len(records))
    elif name == "fewer fields":
        arrays["records"] = records[["row", "offset", "size", "original_size", "mask_offset", "digest"]].copy()
    elif name == "label sets":
        arrays["label_sets"] = np.ones((len(records), 2), bool)
    elif name == "bytes":
        about["bytes"] += 1
    elif name == "skipped":
        about["skipped"] = [[99, "x"]]
    elif name == "skipped words":
        about["skipped"] = ["x"]
    elif name == "converted":
        about["converted"] = [[-1, "x"]]
    elif name == "streamed":
        about["streamed"] = "yes"
    elif name == "streamed now":
        about["streamed"] = True
    elif name == "pixels":
        about["pixels"] = "../../secret"
    elif name == "no pixels":
        about["pixels"] = None
    elif name == "turn":
        records["turn"][3] = 9
    elif name == "a list":
        about = [1, 2]
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(path, **arrays)


NAMES = (
    *("offset", "row", "negative offset", "overlap", "order", "twice", "size", "original_size", "no size"),
    *("size and original", "mask", "fewer", "none", "two axes", "plain numbers", "fewer fields", "label sets", "bytes"),
    *("skipped", "skipped words", "converted", "streamed", "streamed now", "a list", "pixels", "no pixels", "turn"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_index_is_not_believed(image_folder, tmp_path, monkeypatch, name):
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))

    def opened():
        return open_dataset("imagefolder", "train", root=image_folder, short_side=24)

    before = opened()
    fingerprint, images = before.fingerprint, [before.image(i) for i in range(len(before))]
    shutil.copy(an_index(), tmp_path / "whole.npz")
    change(an_index(), name)
    after = opened()
    assert after.fingerprint == fingerprint
    assert all((after.image(i) == image).all() for i, image in enumerate(images))
    with np.load(an_index()) as again, np.load(tmp_path / "whole.npz") as whole:  # written anew, as it was
        assert all((again[key] == whole[key]).all() for key in whole.files if key != "about")
