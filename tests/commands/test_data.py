import io

import pytest
from PIL import Image
from rich.console import Console

from commands.data import describe
from common.errors import UserError


def described(name, root, width=160) -> str:
    file = io.StringIO()
    describe(name, root, 24, console=Console(file=file, width=width))
    return file.getvalue()


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_counts_sizes_and_fingerprints(image_folder):
    table = {row[0]: row[1:] for row in rows(described("imagefolder", image_folder))}
    assert table["images"] == ["12", "4"] and table["skipped"] == ["0", "0"]
    assert table["ant"] == ["6", "2"] and table["bee"] == ["6", "2"]
    assert table["short side, pixels"] == ["40 / 48 / 52", "40 / 42 / 43"]
    assert len(table["fingerprint"][0]) == 16


def test_skipped_and_converted_files_are_named(image_folder):
    (image_folder / "train/ant/2.png").write_bytes(b"")
    Image.open(image_folder / "train/bee/3.png").convert("L").save(image_folder / "train/bee/3.png")
    text = described("imagefolder", image_folder)
    assert ["train/ant/2.png", "empty file"] in rows(text)
    assert ["greyscale, repeated over three channels", "1", "train/bee/3.png"] in rows(text)
    assert "warning: 1 train images are skipped" in text


def test_overlap_and_empty_classes_are_warned_of(image_folder):
    (image_folder / "val/bee/1.png").unlink()
    (image_folder / "val/bee/0.png").unlink()
    (image_folder / "val/ant/1.png").write_bytes((image_folder / "train/ant/5.png").read_bytes())
    text = described("imagefolder", image_folder)
    assert "1 test images have the same pixels as a training image: train/ant/5.png = val/ant/1.png" in text
    assert "1 classes have no test image: bee" in text


def test_masks_are_counted(voc_folder):
    text = described("voc2012", voc_folder)
    table = rows(text)
    assert ["8", "cat", "2", f"{100 * 2 * 150 / (60 * (80 + 81 + 82)):.2f}%"] in table
    assert ["255", "void", "3", "5.00%"] in table
    assert "warning: 1 train images have no label" in text


def test_refused_data_raise(voc_folder):
    Image.new("RGB", (80, 60)).save(voc_folder / "VOCdevkit/VOC2012/SegmentationClass/a.png")
    with pytest.raises(UserError, match=r"a\.png"):
        described("voc2012", voc_folder)
