"""ImageNet-1k (ILSVRC 2012) as ``ImageFolder``."""

from __future__ import annotations

import re

from common.errors import UserError
from data.sets.core.base import DATASETS, DataSet
from data.sets.core.folders import class_names, list_folder, split_folder
from data.store.listing import Listing


def is_synset(name: str) -> bool:
    """Whether a class folder is named as ImageNet's are."""
    return re.fullmatch(r"n\d{8}", name) is not None


@DATASETS.register("imagenet")
class ImageNet(DataSet):
    """1000 synset folders (``n01440764``, …) in ``train`` and in ``val``; UserError otherwise. Photos are read unturned, as by
    torchvision, which published numbers come from."""

    title = "ImageNet-1k"
    citation = "Russakovsky et al. 2015, arXiv 1409.0575"

    def listing(self, split: str) -> Listing:
        folder = split_folder(self.name, split, self.root)
        classes = class_names(folder)
        synsets = list(filter(is_synset, classes))
        if len(synsets) != 1000 or len(classes) != 1000:
            raise UserError(
                f"{folder}: {len(synsets)} synset folders (n01440764, …) of {len(classes)}, not the 1000 of ImageNet; for a part "
                "of it use --data imagefolder"
            )
        return list_folder(self.name, split, self.root, upright=False)
