"""PASCAL VOC 2012's segmentation task, with SBD's masks if they were downloaded."""

from __future__ import annotations

from pathlib import Path

from data.sets.core.base import DATASETS, DataSet
from data.sets.core.voc import CLASSES, find_devkit, list_segmentation
from data.store.listing import Listing


@DATASETS.register("voc2012")
class VOC2012(DataSet):
    """``test`` is VOC's val; ``trainval`` and ``train_aug`` are splits, too. An image has several labels."""

    title = "PASCAL VOC 2012"
    citation = "Everingham et al. 2010"

    def listing(self, split: str) -> Listing:
        folder = find_devkit(self.name, self.root, "VOC2012", "ImageSets")
        return list_segmentation(self.name, split, folder, CLASSES)

    @staticmethod
    def fetch(root: Path) -> None:
        from data.sets.core.voc_download import fetch_voc2012  # imports scipy, which listing does not need

        fetch_voc2012(root)
