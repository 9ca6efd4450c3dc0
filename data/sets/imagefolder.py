"""Any images with one folder for each class."""

from __future__ import annotations

from data.sets.core.base import DATASETS, DataSet
from data.sets.core.folders import list_folder
from data.store.listing import Listing


@DATASETS.register("imagefolder")
class ImageFolder(DataSet):
    """``train/CLASS/…`` and ``val/CLASS/…`` (or ``test/CLASS/…``), as torchvision's ``ImageFolder`` reads them."""

    title = "image folder"

    def listing(self, split: str) -> Listing:
        return list_folder(self.name, split, self.root)
