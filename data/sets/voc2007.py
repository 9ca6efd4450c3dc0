"""PASCAL VOC 2007's classification task in torchvision's layout (``VOCDetection(root, year="2007")``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from common.errors import UserError
from data.sets.core.base import DATASETS, DataSet
from data.sets.core.lists import of_split, read_names, stamp_of_listed
from data.sets.core.voc import CLASSES, find_devkit
from data.store.listing import Listing

if TYPE_CHECKING:
    from data.store.store import ImageStore

LISTS = {"train": "trainval", "test": "test"}


@DATASETS.register("voc2007")
class VOC2007(DataSet):
    """Training uses trainval, as is usual. The labels of an image are the objects in its XML file, less the difficult ones."""

    title = "PASCAL VOC 2007"
    citation = "Everingham et al. 2010"

    def listing(self, split: str) -> Listing:
        folder = find_devkit(self.name, self.root, "VOC2007", "ImageSets/Main")
        path = folder / "ImageSets" / "Main" / f"{of_split(LISTS, split)}.txt"
        if not path.is_file():
            raise UserError(
                f"{path}: the list of the {split} images is missing; is this {self.name} with its test set?"
            )
        ids = read_names(path, lambda name: folder / "JPEGImages" / f"{name}.jpg")
        names = [f"JPEGImages/{name}.jpg" for name in ids]
        annotations = [f"Annotations/{name}.xml" for name in ids]
        return Listing(
            data=self.name,
            split=split,
            root=folder,
            classes=CLASSES,
            names=names,
            labels=None,
            annotations=annotations,
            upright=False,
            stamp=stamp_of_listed(folder, names + annotations, path),
        )


def difficult_only(store: ImageStore) -> np.ndarray | None:
    """Mark the classes whose objects in an image are all difficult, bool ``[n, classes]``; None without VOC's annotations.
    The classification task does not count them (0 in ``ImageSets/Main/CLASS_SPLIT.txt``)."""
    if store.label_sets is None or not (store.root / "Annotations").is_dir():
        return None
    result = np.zeros(store.label_sets.shape, bool)
    for image, name in enumerate(store.names):
        tree = ElementTree.parse(store.root / "Annotations" / f"{Path(name).stem}.xml")  # the store has checked it
        for item in tree.getroot().findall("object"):
            result[image, store.classes.index(item.findtext("name", "").strip())] = True
    return result & ~store.label_sets
