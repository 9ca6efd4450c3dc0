"""The built-in data set: small scenes of handwritten digits, generated on first use."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image

from common.download import cache_root
from common.errors import UserError
from common.files import read_list
from common.images import VOID
from common.lock import owned_lock
from data.sets.core import demo_scenes
from data.sets.core.base import DATASETS, DataSet
from data.sets.core.lists import read_classes
from data.sets.core.voc import find_devkit, list_segmentation
from data.store.listing import Listing

#: Part of the generated folder's name: change it whenever ``demo_scenes`` makes other scenes.
VERSION = "1948e7f3-2600"


@DATASETS.register("demo")
class Demo(DataSet):
    """VOC's layout; ``labels.csv`` gives each name a label, which is a class or its place from 0 in ``classes.txt``."""

    title = "demo"
    image_size = 32

    @staticmethod
    def make_folder(cache: Path | None) -> Path:
        folder = cache_root(cache) / f"demo-{VERSION}"
        if not folder.is_dir():
            with owned_lock(cache_root(cache) / "demo.lock", lambda owner: None):
                if not folder.is_dir():
                    demo_scenes.build_demo(folder)
        return folder

    def listing(self, split: str) -> Listing:
        folder = find_devkit(self.name, self.root, "VOC2012", "ImageSets")
        path = _side_file(self.root, folder, "classes.txt")
        classes = tuple(read_classes(path))
        if not 1 <= len(classes) < VOID:
            raise UserError(f"{path}: {len(classes)} classes; a mask has room for 1 to {VOID - 1}")
        labels = _read_labels(_side_file(self.root, folder, "labels.csv"))
        by_number = dict(zip(map(str, range(len(classes))), classes, strict=True))
        labels = {name: by_number.get(label, label) for name, label in labels.items()}
        return list_segmentation(self.name, split, folder, classes, labels, upright=True)


def _read_labels(path: Path) -> dict[str, str]:
    """Read the label of each image, by its name without folder, and also without an image's suffix."""
    labels: dict[str, str] = {}
    shorter: dict[str, str] = {}
    try:
        for row in csv.DictReader(io.StringIO(read_list(path), newline=""), strict=True):
            if row.get("name") is None or row.get("label") is None or None in row:
                raise csv.Error(f"record {len(labels) + 1} does not have the columns name and label")
            name = Path(row["name"])
            is_twice = name.name in labels
            labels[name.name] = row["label"]
            if name.suffix.lower() in Image.registered_extensions():
                is_twice |= name.stem in shorter
                shorter[name.stem] = row["label"]
            if is_twice:
                raise csv.Error(f"{row['name']} is named twice")
    except csv.Error as error:
        raise UserError(f"{path}: not a table of names and labels ({error})") from error
    return shorter | labels


def _side_file(root: Path, folder: Path, name: str) -> Path:
    for path in (root / name, folder / name):
        if path.is_file():
            return path
    raise UserError(f"{root / name}: missing; remove the folder, and the demo set is made again")
