"""Folders of images as systems, archives and people leave them. What is seen: classes, and the number of training images."""

import os
import re

from PIL import Image

from data.datasets import list_images


def look(given):
    root, data = given
    listing = list_images(data, "train", root, progress=False)
    if data == "imagefolder":
        list_images(data, "test", root, progress=False)
    return listing.classes, len(listing.names)


def folder(change=None, data="imagefolder"):
    """Two classes of two images in each split, then ``change(root)``."""

    def make(root):
        for split in ("train", "val"):
            for name in ("ant", "bee"):
                (root / split / name).mkdir(parents=True)
                for number in range(2):
                    Image.new("RGB", (4, 4)).save(root / split / name / f"{number}.png")
        if change is not None:
            change(root)
        return root, data

    return make


def file(*names):
    def change(root):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x")

    return change


def moved(old, new):
    return lambda root: (root / old).rename(root / new)


def link(name, target):
    return lambda root: (root / name).symlink_to(target)


def emptied(name):
    return lambda root: [entry.unlink() for entry in (root / name).rglob("*") if entry.is_file()]


def removed(name):
    def change(root):
        emptied(name)(root)
        for entry in sorted((root / name).rglob("*"), reverse=True):
            entry.rmdir()
        (root / name).rmdir()

    return change


def nested(root):
    (root / "train/ant/in").mkdir()
    moved("train/ant/0.png", "train/ant/in/0.png")(root)


def bare(root):
    removed("train")(root)
    (root / "train").mkdir()


def stray_alone(root):
    emptied(".")(root)
    file("Thumbs.db")(root)


BOTH = ("ant", "bee")
ENTRIES = {
    "as it should be": (folder(), (BOTH, 4)),
    "test in place of val": (folder(moved("val", "test")), (BOTH, 4)),
    "Thumbs.db in train": (folder(file("train/Thumbs.db")), (BOTH, 4)),
    "Thumbs.db in a class": (folder(file("train/ant/Thumbs.db", "train/bee/THUMBS.DB")), (BOTH, 4)),
    "desktop.ini": (folder(file("train/desktop.ini", "train/ant/Desktop.ini")), (BOTH, 4)),
    ".DS_Store": (folder(file("train/.DS_Store", "train/ant/.DS_Store")), (BOTH, 4)),
    "AppleDouble files": (folder(file("train/._ant", "train/ant/._0.png")), (BOTH, 4)),
    "__MACOSX": (folder(file("train/__MACOSX/ant/0.png", "train/ant/__MACOSX/0.png")), (BOTH, 4)),
    "a NAS's previews": (folder(file("train/@eaDir/0.png", "train/ant/@eaDir/0.png")), (BOTH, 4)),
    "recycle bin": (folder(file("train/$RECYCLE.BIN/0.png")), (BOTH, 4)),
    "lost+found": (folder(lambda root: (root / "train/lost+found").mkdir()), (BOTH, 4)),
    "Git's folder": (folder(file("train/.git/config")), (BOTH, 4)),
    "README": (folder(file("train/README.md", "val/README.md")), (BOTH, 4)),
    "table of labels": (folder(file("train/labels.csv")), (BOTH, 4)),
    "deeper folders": (folder(moved("train/ant/0.png", "train/ant/x.png")), (BOTH, 4)),
    "nested": (
        folder(nested),
        (BOTH, 4),
    ),
    "class without training images": (folder(emptied("train/bee")), (BOTH, 2)),
    "class of the test split missing": (folder(removed("val/bee")), (BOTH, 4)),
    "class as a link": (folder(link("train/bee2", "bee")), (("ant", "bee", "bee2"), 6)),
    "names that are no UTF-8": (folder(moved("train/ant/0.png", os.fsdecode(b"train/ant/\xff.png"))), (BOTH, 4)),
    "class of blanks": (folder(file("train/ /0.png")), ((" ", *BOTH), 5)),
    "link back": (folder(link("train/ant/up", "../..")), re.compile("a link back to a folder above it; remove it")),
    "link to nothing": (folder(link("train/wasp", "nowhere")), re.compile("train/wasp: a link to nothing")),
    "image beside classes": (folder(file("train/0.jpg")), re.compile("0.jpg: a file outside any class folder")),
    "more classes to test": (
        folder(file("val/wasp/0.png")),
        re.compile("a class that .*train lacks, with 1 images; both"),
    ),
    "no train": (folder(moved("train", "training")), re.compile("no folder train .*found the folders training, val")),
    "no test images": (folder(removed("val")), re.compile("no folder val or test")),
    "class of the training split missing": (folder(removed("train/ant")), re.compile("val/ant: a class that")),
    "train empty": (
        folder(bare),
        re.compile("no class folders; images belong"),
    ),
    "no images": (folder(emptied("train")), re.compile("no images for the train split")),
    "images without labels": (folder(data="images"), ((), 8)),
    "stray files alone": (
        folder(stray_alone, "images"),
        re.compile("no images for"),
    ),
    "no such folder": (lambda root: (root / "nowhere", "imagefolder"), re.compile("nowhere: no such folder")),
    "a file for a folder": (lambda root: (root / "f").touch() or (root / "f", "images"), re.compile("no such folder")),
}
