"""The built-in data set: same seed, same files; masks, labels and sources that belong together."""

import csv
import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.sets.core import demo_scenes as demo
from data.sets.demo import VERSION

SCENES = {"train": 60, "val": 30}


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TRAIN_SCENES", SCENES["train"])
    monkeypatch.setattr(demo, "TEST_SCENES", SCENES["val"])


def build(root: Path, seed: int = 0) -> Path:
    demo.build_demo(root, seed)
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        small(monkeypatch)
        return build(tmp_path_factory.mktemp("demo") / "demo")


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names(root: Path, split: str) -> list[str]:
    return (root / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt").read_text().split()


def labels(root: Path) -> dict[str, int]:
    with (root / "labels.csv").open(newline="") as file:
        return {row["name"]: int(row["label"]) for row in csv.DictReader(file)}


def test_same_seed_same_files_another_seed_others(built, tmp_path, monkeypatch):
    small(monkeypatch)
    first = digests(built)
    assert digests(build(tmp_path / "again")) == first
    assert digests(build(tmp_path / "other", seed=1)) != first


def test_other_scenes_need_another_version():
    """The folder of the generated set is named by ``data.sets.demo.VERSION``: change it and this digest together."""
    digest = hashlib.sha256()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        image, cover = demo.draw_scene(rng.integers(0, 17, (8, 8)) / 16, rng)
        digest.update(image.tobytes() + demo.scene_mask(cover, seed).tobytes())
    assert (VERSION, digest.hexdigest()[:12]) == ("1948e7f3-2600", "1948e7f30dab")


def test_lists_hold_the_scenes_asked_for_and_every_scene_has_its_files(built):
    voc = built / "VOCdevkit/VOC2012"
    listed = names(built, "train") + names(built, "val")
    assert {split: len(names(built, split)) for split in SCENES} == SCENES
    assert list(labels(built)) == listed
    assert {path.stem for path in (voc / "JPEGImages").glob("*.jpg")} == set(listed)
    assert {path.stem for path in (voc / "SegmentationClass").glob("*.png")} == set(listed)
    assert (built / "classes.txt").read_text().split() == list(demo.CLASSES)


def test_train_and_test_share_no_digit_sample(built):
    # The scenes written name their sample; the split as a whole is checked at its full size.
    sources = {split: {name.rsplit("_s", 1)[1] for name in names(built, split)} for split in SCENES}
    assert sources["train"] and sources["val"] and not sources["train"] & sources["val"]
    train, test = demo.split_sources(np.zeros(1797), seed=0)
    assert len(test) == demo.TEST_SOURCES
    assert sorted([*train, *test]) == list(range(1797))


def test_masks_hold_the_class_of_the_label_ground_and_void_only(built):
    voc = built / "VOCdevkit/VOC2012"
    for name, label in labels(built).items():
        with Image.open(voc / "SegmentationClass" / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            assert set(np.unique(np.array(mask))) == {0, label + 1, demo.VOID}
        with Image.open(voc / "JPEGImages" / f"{name}.jpg") as image:
            assert image.size == (demo.SIDE, demo.SIDE) and image.mode == "RGB"


def test_label_is_the_digit_of_the_sample(built):
    from sklearn.datasets import load_digits

    target = load_digits().target
    assert all(target[int(name.rsplit("_s", 1)[1])] == label for name, label in labels(built).items())


def test_an_interrupted_build_leaves_nothing_behind(tmp_path, monkeypatch):
    small(monkeypatch)
    draw, calls = demo.draw_scene, []

    def stop_midway(*arguments):
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(demo, "draw_scene", stop_midway)
    with pytest.raises(KeyboardInterrupt):
        demo.build_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(built):
    with pytest.raises(FileExistsError):
        demo.build_demo(built)


@pytest.mark.slow
def test_a_full_build_takes_seconds(tmp_path):
    start = time.process_time()  # not wall time: other jobs on the machine must not fail this
    demo.build_demo(tmp_path / "demo")
    assert time.process_time() - start < 15
