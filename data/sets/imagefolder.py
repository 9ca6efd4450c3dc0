"""Any images with one folder for each class."""

from __future__ import annotations

from dataclasses import replace

from data.sets.core.base import DATASETS, DataSet
from data.sets.core.folders import list_folder
from data.sets.imagenet import is_synset
from data.store.listing import Listing


@DATASETS.register("imagefolder")
class ImageFolder(DataSet):
    """``train/CLASS/…`` and ``val/CLASS/…`` (or ``test/CLASS/…``), as torchvision's ``ImageFolder`` reads them."""

    title = "image folder"

    def listing(self, split: str) -> Listing:
        listing = list_folder(self.name, split, self.root)
        # Published numbers on parts of ImageNet (Imagenette, ImageNet-100) come from the pixels as stored, as on all of it.
        return replace(listing, upright=not all(map(is_synset, listing.classes)))
