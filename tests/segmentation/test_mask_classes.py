"""Masks without classes, and classes without masks."""

import shutil

import numpy as np
import pytest
from PIL import Image

import run as command_line
from common.errors import UserError
from data.datasets import list_images, open_dataset
from eval.attention_jaccard import AttentionJaccard, AttentionJaccardConfig
from eval.dense.classes import require_classes
from rundir.results import read_results


def renumber(root, split, change):
    base = root / "VOCdevkit/VOC2012"
    for name in (base / f"ImageSets/Segmentation/{split}.txt").read_text().split():
        file = base / f"SegmentationClass/{name}.png"
        Image.fromarray(change(np.array(Image.open(file)))).save(file)


@pytest.fixture
def own_shapes(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "shapes")


def two_values(mask):
    return np.where((mask > 0) & (mask < 255), 255, 0).astype(np.uint8)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            two_values,
            r"hold no class, only 0 \(background\) and 255 \(void, which counts nowhere\); number .* 1 "
            r"\(aeroplane\) to 20 \(tvmonitor\).*where 255 stands for an object, write its class in place",
        ),
        (np.zeros_like, r"hold no class, only 0 \(background\); number"),
        (lambda mask: np.full_like(mask, 255), r"hold no class, only 255 \(void"),
        (np.ones_like, "hold 1 alone, so there is nothing to tell apart"),
    ],
    ids=["two values", "background", "void", "one class"],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_masks_without_classes_are_refused(own_shapes, split, change, message):
    renumber(own_shapes, {"train": "train", "test": "val"}[split], change)
    for images in (list_images("voc2012", split, own_shapes), open_dataset("voc2012", split, own_shapes, None)):
        with pytest.raises(UserError, match=rf"the \d masks of voc2012 {split} {message}"):
            require_classes(images, background=True)


def test_masks_of_objects_alone_are_enough_for_attention(own_shapes):
    renumber(own_shapes, "val", np.ones_like)
    require_classes(list_images("voc2012", "test", own_shapes), background=False)


def test_attention_refuses_masks_without_objects(own_shapes, make_context):
    context = make_context()
    renumber(own_shapes, "val", two_values)
    context.test = open_dataset("voc2012", "test", own_shapes, None, progress=False)
    with pytest.raises(UserError, match="the 5 masks of voc2012 test hold no class"):
        AttentionJaccard(AttentionJaccardConfig()).run(context)


def test_missing_classes_are_named_where_numbers_are(own_shapes, tmp_path, capsys):
    """Class 8 is in test masks alone, and one training mask is void where its object was."""
    renumber(own_shapes, "train", lambda mask: np.where(mask == 8, 15, mask).astype(np.uint8))
    mask = own_shapes / "VOCdevkit/VOC2012/SegmentationClass/s0.png"
    Image.fromarray(two_values(np.array(Image.open(mask)))).save(mask)
    words = (
        f"segment --heads linear --epochs 1 --batch_size 4 --backbone vit_nano --data voc2012 --data_root {own_shapes}"
    )
    words += f" --image_size 32 --device cpu --out {tmp_path / 'run'}"
    assert command_line.main(words.split()) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "18 classes are in no training mask: aeroplane, bicycle, boat, bottle, bus, car, cat, chair" in said
    assert "17 classes are in no test mask" in said
    assert "segmentation_linear: 4 of 5 test images are of a class without training images: cat" in said
    assert "1 of 8 training masks hold no class, but 255, which is void" in said
    (first, *_) = read_results(tmp_path / "run/results/segmentation.json")
    assert "cat" in first.data["train"]["absent_from_masks"] and "cat" not in first.data["test"]["absent_from_masks"]
    assert first.data["test"]["without_training"]["classes"] == ["cat"]
