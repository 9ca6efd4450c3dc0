"""Every file name that the system allows, in every kind of list, and what systems leave beside images."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import run as command_line
from common.class_names import readable
from common.errors import UserError
from data.datasets import list_images, open_dataset
from data.label_subset import listed_part
from data.sets.core.folders import LEFT_BY_SYSTEMS
from data.sets.core.lists import read_names
from data.sets.core.voc import CLASSES
from data.sets.davis import Davis
from data.sets.demo import Demo
from rundir.results import read_results

#: Names without a suffix, as Python has them: bytes that are no UTF-8 are surrogates.
NAMES = [
    *("two words", "  blanks around ", "tab\tin", "a,b", 'a"b', "it's", "a;b", "a:b", "100%s", "{a}", "[red]", "$x$"),
    *("-rf", "--help", "~", "*", "?", "#1", "a\\b", "..a", ".hidden", "dot.", "a.jpg", "photo.2020", "photo.2021"),
    "CON",
    *("\x1b[2J", "\x07", "a\rb", "a\x0bb", "a\x0cb", "a\x1cb", "\x7f", "a\x85b", "a\u2028b", "\u00a0", "\u202e"),
    "\ufffd",
    *("é", "e\u0301", "写真", "🐈", os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfe"), os.fsdecode(b"\xed\xa0\x80")),
    "x" * 251,
]


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """VOC's layout with an image of each name, whose masks hold the classes 1 and 2, and the demo's side files."""
    root = tmp_path_factory.mktemp("names")
    for folder in ("ImageSets/Segmentation", "ImageSets/Main", "JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["name,label"]
    for number, name in enumerate(NAMES):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(root / f"JPEGImages/{name}.jpg", "PNG")
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, 2:6] = 1 + number % 2
        Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
        rows.append(f'"{name.replace(chr(34), chr(34) * 2)}",{CLASSES[number % 2]}')
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_bytes(os.fsencode("\n".join(NAMES) + "\n"))
    (root / "labels.csv").write_bytes(os.fsencode("\n".join(rows)))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def test_lists_of_voc_and_tables_of_labels(voc):
    for data in ("voc2012", "demo"):
        listing = list_images(data, "train", voc)
        assert listing.names == [f"JPEGImages/{name}.jpg" for name in NAMES]
    assert Demo("demo", voc).listing("train").labels.tolist() == [number % 2 for number in range(len(NAMES))]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_blanks_belong_to_no_name(tmp_path, end):
    (tmp_path / "list.txt").write_text(end.join(["a ", "", "  b", "c\td", ""]), encoding="utf-8-sig", newline="")
    assert read_names(tmp_path / "list.txt", lambda name: tmp_path / name) == ["a", "b", "c\td"]


def test_lists_of_labelled_images(tmp_path, photo):
    files = [f"train/{place}/{name}.png" for place, name in zip(["a b", "é"] * len(NAMES), NAMES, strict=False)]
    for number, file in enumerate(files):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        photo(8, 8, number).save(tmp_path / file)
    store = open_dataset("imagefolder", "train", tmp_path, None, progress=False)
    seen = [file for file in files if not file.rpartition("/")[2].startswith(".")]
    for lines in (seen, [file.rpartition("/")[2] for file in seen], [f"./{file}" for file in seen]):
        (tmp_path / "list.txt").write_bytes(os.fsencode("\r\n".join(lines)))
        rows, about = listed_part(store, tmp_path / "list.txt")
        assert sorted(store.names[row] for row in rows) == sorted(seen) and about["labelled_images"] == len(seen)


def test_videos(tmp_path, photo):
    for name in NAMES:
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            (tmp_path / folder / "480p" / name).mkdir(parents=True)
            for frame in range(4):
                photo(4, 4, 0).save(tmp_path / folder / "480p" / name / f"{frame:05}.{suffix}")
        (tmp_path / "JPEGImages/480p" / name / "._00000.jpg").write_bytes(b"left by a Mac")
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_bytes(os.fsencode("\n".join(NAMES)))
    assert [video.name for video in Davis("davis", tmp_path).videos] == NAMES


def test_names_of_classes(tmp_path):
    """Class folders have any names, too; the longest one that a line begins with is meant."""
    for separator in ("\t", ",", " "):
        lines = [f"{name}{separator}title {number}" for number, name in enumerate(NAMES)]
        (tmp_path / "names.txt").write_bytes(os.fsencode("\n".join(lines)))
        assert readable(NAMES, tmp_path / "names.txt") == tuple(f"title {number}" for number in range(len(NAMES)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        readable(NAMES, tmp_path / "pipe")


@pytest.mark.slow
def test_they_are_measured_drawn_and_reported(voc, tmp_path, capsys):
    """From files to a report, with predicted masks under the images' names."""
    run = tmp_path / "run"
    words = f"segment --heads linear --epochs 1 --save_masks --backbone vit_nano --data voc2012 --data_root {voc}"
    assert command_line.main([*words.split(), "--image_size", "8", "--device", "cpu", "--out", str(run)]) == 0
    assert read_results(run / "results/segmentation.json")[0].n == len(NAMES)
    masks = {os.fsencode(file.name) for file in (run / "masks/voc2012/linear").iterdir()}
    assert masks == {os.fsencode(f"{name}.png") for name in NAMES}
    assert command_line.main(["report", str(run), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report/index.html").is_file()
    features = ["features", "--backbone", "vit_nano", "--images", str(voc / "JPEGImages"), "--image_size", "8"]
    assert command_line.main([*features, "--out", str(tmp_path / "features.npz")]) == 0


@pytest.mark.parametrize("where", ["", "cat", "cat/deeper"])
def test_what_systems_leave_is_no_image_and_no_class(image_folder, where):
    before = [list_images("imagefolder", split, image_folder).names for split in ("train", "test")]
    for split in ("train", "val"):
        folder = image_folder / split / where.replace("cat", "ant")
        folder.mkdir(exist_ok=True)
        for number, name in enumerate(
            (*LEFT_BY_SYSTEMS, ".DS_Store", "._0.png", "Thumbs.db", "THUMBS.DB", "Desktop.ini")
        ):
            if number % 2 and not (folder / name).exists():
                (folder / name).mkdir()
                (folder / name / "x.png").write_bytes(b"x")
            elif not (folder / name).exists():
                (folder / name).write_bytes(b"x")
    after = [list_images("imagefolder", split, image_folder) for split in ("train", "test")]
    assert [listing.names for listing in after] == before and after[0].classes == ("ant", "bee")
    assert all("train" in name or "val" in name for name in list_images("images", "train", image_folder).names)
    assert len(list_images("images", "train", image_folder).names) == sum(map(len, before))


def test_other_files_beside_class_folders_are_named_and_left_out(image_folder, capsys):
    (image_folder / "train/README.txt").write_text("hello")
    (image_folder / "train/labels.csv").write_text("a,b")
    os.mkfifo(image_folder / "train/pipe")
    for _ in range(2):
        assert list_images("imagefolder", "train", image_folder).classes == ("ant", "bee")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("train: left out, no images and no class folders: README.txt, labels.csv, pipe") == 1


@pytest.mark.parametrize(
    "name, message",
    [
        ("1.PNG", "1.PNG: a file outside any class folder"),
        ("photo", "photo: a file outside"),
        ("link", "a link to nothing"),
    ],
)
def test_images_and_broken_links_beside_class_folders_are_refused(image_folder, name, message):
    if name == "link":
        (image_folder / "train/link").symlink_to("nowhere")
    else:
        shutil.copy(image_folder / "train/ant/0.png", image_folder / "train" / name)
    with pytest.raises(UserError, match=message):
        list_images("imagefolder", "train", image_folder)
