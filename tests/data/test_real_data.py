"""The data sets as they really are; they lie in the folder that SSL_COMPARE_DATA names."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.datasets import open_dataset
from data.sets.core.voc import CLASSES


def real(name: str) -> Path:
    folder = os.environ.get("SSL_COMPARE_DATA")
    if not folder or not (Path(folder) / name).exists():
        pytest.skip(f"needs {name}: set SSL_COMPARE_DATA to the folder that holds it")
    return Path(folder)


def test_imagenette_webp():
    root = real("imagenette") / "imagenette"
    store = open_dataset("imagefolder", "test", root, 64, progress=False)
    assert len(store) == 1966 and store.num_classes == 10 and store.damaged == [] and not store.converted
    sample = np.arange(0, 1966, 97)
    for i, pixels in zip(sample, store.batch(sample).pixels.numpy(), strict=True):
        expected = Image.open(root / store.names[i]).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
        assert (pixels.transpose(1, 2, 0) == np.asarray(expected)).all()
        assert store.classes[store.labels[i]] == Path(store.names[i]).parts[1]


def test_voc2012_photos_and_masks():
    root = real("VOCdevkit")
    for split, count in (("train", 300), ("test", 94)):
        store = open_dataset("voc2012", split, root, 128, progress=False)
        assert len(store) == count and store.damaged == []
        assert (store.original_sizes.min(axis=1) >= 128).all() and store.batch(np.arange(8)).sizes.min() == 128
        for i in range(0, count, 13):
            name = Path(store.names[i]).stem
            mask = np.asarray(Image.open(root / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png"))
            assert (store.mask(i) == mask).all() and store.original_image(i).shape[:2] == mask.shape
            present = {CLASSES[value - 1] for value in np.unique(mask) if 1 <= value <= 20}
            assert {store.classes[c] for c in np.flatnonzero(store.label_sets[i])} == present


def test_cifar10_jpeg_folders(tmp_path):
    archive = real("cifar10.tar.xz") / "cifar10.tar.xz"
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and parts[-3] == "test" and parts[-1][-5] == "7":
                tar.extract(member, tmp_path, filter="data")
                (tmp_path / "train" / parts[-2]).mkdir(parents=True, exist_ok=True)
    store = open_dataset("cifar10", "test", tmp_path, 32, progress=False)
    assert store.num_classes == 10 and len(store) > 100 and store.damaged == []
    assert store.batch(np.arange(len(store))).pixels.shape == (len(store), 3, 32, 32)
