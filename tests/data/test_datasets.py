import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from common.errors import UsageError, UserError
from data.datasets import default_image_size, open_dataset
from data.sets import demo
from data.sets.cifar10 import CLASSES
from data.sets.core import demo_scenes
from data.sets.core.base import DATASETS
from data.sets.core.voc import CLASSES as VOC_CLASSES
from rundir.results import names_hash


def opened(name, split, root, short_side=None):
    return open_dataset(name, split, root, short_side, progress=False)


def test_names_sizes_and_unknown_ones():
    images = ["cifar10", "demo", "imagefolder", "imagenet", "images", "voc2007", "voc2012"]
    benchmarks = ["copydays", "davis", "roxford5k", "rparis6k"]
    assert DATASETS.names() == sorted([*images, *benchmarks, "hf"])
    assert [name for name in DATASETS.names() if DATASETS.facts(name)["is_benchmark"]] == benchmarks
    assert [default_image_size(name) for name in images] == [32, 32, 224, 224, 224, 224, 224]
    assert all(DATASETS.facts(name)["title"] for name in DATASETS.names())
    assert default_image_size("hf:x/y") == 224
    for call in (default_image_size, lambda name: opened(name, "train", None)):
        with pytest.raises(UsageError, match=r"unknown data set 'voc2021'; did you mean voc2012\?"):
            call("voc2021")
    with pytest.raises(UserError, match="imagefolder needs its folder: --data_root"):
        opened("imagefolder", "train", None)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        opened("imagefolder", "train", "/nowhere")


def test_image_folder_labels_by_the_training_classes(image_folder):
    shutil.rmtree(image_folder / "val/ant")  # the label of bee must not become 0
    (image_folder / "train/bee/deeper").mkdir()
    shutil.copy(image_folder / "train/ant/0.png", image_folder / "train/bee/deeper/x.png")
    (image_folder / "train/bee/.hidden").write_text("")
    assert opened("imagefolder", "test", image_folder).labels.tolist() == [1, 1]
    train = opened("imagefolder", "train", image_folder)
    assert train.names[-1] == "train/bee/deeper/x.png" and len(train) == 13
    (image_folder / "val").rename(image_folder / "test")
    assert opened("imagefolder", "test", image_folder).names == ["test/bee/0.png", "test/bee/1.png"]


def test_names_need_not_be_utf8(image_folder):
    """As of an archive that was made on another system."""
    for split in ("train", "val"):
        (image_folder / split / "ant").rename(image_folder / split / os.fsdecode(b"caf\xe9"))
        (image_folder / split / "bee/0.png").rename(image_folder / split / "bee" / os.fsdecode(b"\xff.png"))
    (image_folder / "train/bee" / os.fsdecode(b"\xfe.png")).write_bytes(b"x")
    store = opened("imagefolder", "train", image_folder)
    assert len(store) == 12 and store.fingerprint != opened("imagefolder", "test", image_folder).fingerprint
    assert names_hash(store.names) != names_hash(store.names[::-1])
    described = subprocess.run(
        [sys.executable, "run.py", "data", "imagefolder", "--data_root", image_folder],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict", "COLUMNS": "200"},
        cwd=Path(data.__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert described.returncode == 0
    assert "caf\\udce9" in described.stdout and "\\udcfe.png" in described.stdout


def test_wrong_image_folders(image_folder):
    with pytest.raises(UserError, match=r"no folder train .* belong in train/CLASS/.*found the folders ant, bee"):
        opened("imagefolder", "train", image_folder / "train")
    with pytest.raises(UsageError, match="unknown split 'tset'; did you mean test"):
        opened("imagefolder", "tset", image_folder)
    (image_folder / "val/wasp").mkdir()
    with pytest.raises(UserError, match=r"val/wasp: a class that .*train lacks"):
        opened("imagefolder", "test", image_folder)
    (image_folder / "val/wasp").rmdir()
    (image_folder / "val/loose.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"val/loose\.png: a file outside any class folder"):
        opened("imagefolder", "test", image_folder)


def test_imagenet_has_a_thousand_synsets(tmp_path, photo, image_folder):
    with pytest.raises(UserError, match=r"0 synset folders .* of 2, not the 1000 .*--data imagefolder"):
        opened("imagenet", "train", image_folder)
    for i in range(1000):
        (tmp_path / "net/train" / f"n{i:08d}").mkdir(parents=True)
    photo(20, 20, 0).save(tmp_path / "net/train/n00000999/x.JPEG")
    store = opened("imagenet", "train", tmp_path / "net")
    assert store.num_classes == 1000 and store.labels.tolist() == [999]


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2's pickle, protocol 2, wrote CIFAR-10's."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"M" + struct.pack("<H", pixels.shape[0]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    data = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR(K\x01" + shape + dtype
    )
    array += b"\x89T" + struct.pack("<I", len(data)) + data + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + text(b"batch_label") + text(b"x") + b"u."


@pytest.fixture
def cifar_batches(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        pixels = rng.integers(0, 256, (300, 3072), np.uint8)
        (folder / name).write_bytes(python2_batch(pixels, [i % 10 for i in range(300)]))
    return tmp_path, pixels


@pytest.mark.filterwarnings("error")
def test_cifar10_from_the_original_batches(cifar_batches):
    root, pixels = cifar_batches
    for folder in (root, root / "cifar-10-batches-py"):
        test = opened("cifar10", "test", folder)
        assert (test.image(7) == pixels[7].reshape(3, 32, 32).transpose(1, 2, 0)).all()
        assert (test.original_image(7) == test.image(7)).all()
        assert test.labels[:12].tolist() == [*range(10), 0, 1] and test.names[7] == "test_batch/00007"
    train = opened("cifar10", "train", root)
    assert len(train) == 1500 and train.names[-1] == "data_batch_5/00299" and train.classes == CLASSES
    assert opened("cifar10", "test", root, 16).image(0).shape == (16, 16, 3)


def test_cifar10_refuses_other_pickles(cifar_batches, tmp_path):
    root, pixels = cifar_batches
    path = root / "cifar-10-batches-py/test_batch"

    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("touched").touch, ())

    labels = [0] * 300
    good = {b"data": pixels, b"labels": labels}
    cases = [
        (
            pickle.dumps({b"data": Harmful(), b"labels": labels}),
            "names builtins.getattr, which plain data does not need",
        ),
        (b"cos\nsystem\n(U\x04truetR.", "names os.system, .*; nothing of it was run"),
        (path.read_bytes()[:5000], "no pickle of plain data"),
        (b"", "no pickle of plain data"),
        (pickle.dumps({b"data": pixels, b"fine_labels": labels}), "no data and labels"),
        (pickle.dumps(good | {b"data": pixels[:, :3000]}), "3 × 32 × 32"),
        (pickle.dumps(good | {b"data": pixels.astype(np.float32)}), "uint8"),
        (pickle.dumps(good | {b"labels": labels[1:]}), "label for each of the 300 images"),
        (pickle.dumps(good | {b"labels": [10] + labels[1:]}), r"test_batch/00000: label 10 is outside 0 to 9"),
        (pickle.dumps(good | {b"labels": ["cat"] * 300}), "whole number"),
    ]
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            opened("cifar10", "test", root)
        assert "test_batch" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "touched").exists()
    path.write_bytes(pickle.dumps(good, protocol=2))
    assert (opened("cifar10", "test", root).image(0).transpose(2, 0, 1).ravel() == pixels[0]).all()
    (root / "cifar-10-batches-py/data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3: missing"):
        opened("cifar10", "train", root)


def test_cifar10_as_folders(tmp_path, photo, image_folder):
    with pytest.raises(UserError, match="not the ten of CIFAR-10"):
        opened("cifar10", "train", image_folder)
    with pytest.raises(UserError, match="neither the python batches"):
        opened("cifar10", "train", tmp_path)
    for name in CLASSES:
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            photo(32, 32, len(name)).save(tmp_path / split / name / "0001.jpg")
    assert opened("cifar10", "test", tmp_path).labels.tolist() == list(range(10))


def voc_base(root):
    return root / "VOCdevkit/VOC2012"


def test_voc_labels_follow_from_the_masks(voc_folder):
    for root in (voc_folder, voc_folder / "VOCdevkit", voc_base(voc_folder)):
        train = opened("voc2012", "train", root, 40)
        assert train.names == ["JPEGImages/a.jpg", "JPEGImages/b.jpg", "JPEGImages/c.jpg"]
        cat, dog = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
        assert [np.flatnonzero(row).tolist() for row in train.label_sets] == [[cat], [cat, dog], []]
        assert train.labels.tolist() == [cat, -1, -1]
        assert train.has_masks and train.mask_classes[8] == "cat" and train.mask_classes[12] == "dog"
        for i, name in enumerate("abc"):
            mask = np.asarray(Image.open(voc_base(voc_folder) / f"SegmentationClass/{name}.png"))
            assert (train.mask(i) == mask).all() and mask.shape == train.original_image(i).shape[:2] != train.image(
                i
            ).shape[:2]
        part = train.subset([1])
        assert (part.mask(0) == train.mask(1)).all() and (part.label_sets == train.label_sets[[1]]).all()
    assert opened("voc2012", "test", voc_folder).names == ["JPEGImages/d.jpg"]


def test_voc_labels_come_from_annotations_where_there_are_any(voc_folder):
    folder = voc_base(voc_folder) / "Annotations"
    folder.mkdir()
    item = "<object><name>{}</name><difficult>{}</difficult></object>"
    for name, objects in {"a": [("sofa", 0), ("dog", 1)], "b": [("cat", 0), ("cat", 0)], "c": [("person", 0)]}.items():
        (folder / f"{name}.xml").write_text(
            "<annotation>" + "".join(item.format(*o) for o in objects) + "</annotation>"
        )
    train = opened("voc2012", "train", voc_folder)
    assert [VOC_CLASSES[label] for label in train.labels] == ["sofa", "cat", "person"]
    (folder / "c.xml").write_text("<annotation>" + item.format("unicorn", 0) + "</annotation>")
    with pytest.raises(UserError, match=r"c\.xml: unknown class 'unicorn'"):
        opened("voc2012", "train", voc_folder)
    (folder / "c.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"c\.xml: not XML"):
        opened("voc2012", "train", voc_folder)
    (folder / "c.xml").unlink()
    with pytest.raises(UserError, match=r"1 of the files that train\.txt lists are missing: Annotations/c\.xml"):
        opened("voc2012", "train", voc_folder)


def test_wrong_masks_refuse_the_data_set_and_are_all_named(voc_folder):
    folder = voc_base(voc_folder) / "SegmentationClass"
    rgb = Image.open(folder / "a.png").convert("RGB")
    rgb.save(folder / "a.png")
    Image.new("P", (10, 10)).save(folder / "b.png")
    foreign = Image.new("L", (82, 60))
    foreign.putpixel((5, 5), 21)
    foreign.save(folder / "c.png")
    for _ in range(2):  # nothing of a refused data set is kept
        with pytest.raises(
            UserError, match=r"a\.png: the mask is a RGB .* \(and 2 more: .*b\.png: .*10×10.*c\.png: .*ids 21"
        ):
            opened("voc2012", "train", voc_folder)


def test_a_damaged_voc_photo_is_skipped_with_its_mask(voc_folder):
    whole = opened("voc2012", "train", voc_folder)
    path = voc_base(voc_folder) / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:400])
    train = opened("voc2012", "train", voc_folder)
    assert [name for name, _ in train.damaged] == ["JPEGImages/a.jpg"] and len(train) == 2
    assert (train.mask(0) == whole.mask(1)).all() and (train.label_sets == whole.label_sets[1:]).all()


def test_missing_voc_files(voc_folder):
    base = voc_base(voc_folder)
    (base / "SegmentationClass/b.png").unlink()
    (base / "JPEGImages/c.jpg").unlink()
    with pytest.raises(
        UserError,
        match=r"2 of the files .*train\.txt.* missing: JPEGImages/c\.jpg, SegmentationClass/b\.png",
    ):
        opened("voc2012", "train", voc_folder)
    (base / "ImageSets/Segmentation/train.txt").write_text("a\na\n")
    with pytest.raises(UserError, match="1 of its names stand there twice"):
        opened("voc2012", "train", voc_folder)
    (base / "ImageSets/Segmentation/train.txt").unlink()
    with pytest.raises(UserError, match=r"train\.txt: the list of the train images is missing"):
        opened("voc2012", "train", voc_folder)
    with pytest.raises(UserError, match="no ImageSets here or in VOCdevkit/VOC2012"):
        opened("voc2012", "train", base / "JPEGImages")


@pytest.fixture
def demo_like(voc_folder):
    """VOC's layout with the demo's side files: mask value c + 1 is class c."""
    (voc_folder / "classes.txt").write_text("\n".join(VOC_CLASSES[:12]))
    (voc_folder / "labels.csv").write_text("name,label\na,cat\nb,dog\nc,bird\nd,dog\n")
    return voc_folder


def test_demo_layout_has_one_label_an_image(demo_like):
    train = opened("demo", "train", demo_like)
    assert train.label_sets is None and [train.classes[label] for label in train.labels] == ["cat", "dog", "bird"]
    assert train.num_classes == 12 and train.has_masks and train.mask(1).max() == 255


def test_the_demo_is_made_once_and_again_for_another_version(demo_like, monkeypatch):
    made = []

    def build_demo(root):
        made.append(root)
        shutil.copytree(demo_like, root)

    monkeypatch.setattr(demo_scenes, "build_demo", build_demo)
    assert opened("demo", "train", None).labels.tolist() == opened("demo", "train", demo_like).labels.tolist()
    assert len(opened("demo", "test", None)) == 1 and len(made) == 1
    monkeypatch.setattr(demo, "VERSION", "second")
    opened("demo", "train", None)
    assert len(made) == 2


def test_mislabelled_demo_layout(demo_like):
    (demo_like / "labels.csv").write_text("name,label\na,cat\nb,doge\nc,bird\n")
    with pytest.raises(UserError, match=r"labels\.csv gives b the label 'doge', which is not in classes\.txt"):
        opened("demo", "train", demo_like)
    with pytest.raises(UserError, match=r"labels\.csv has no label for d"):
        opened("demo", "test", demo_like)
    (demo_like / "labels.csv").unlink()
    with pytest.raises(UserError, match=r"labels\.csv: missing"):
        opened("demo", "train", demo_like)
