"""ImageNet-1k (ILSVRC 2012) as ``ImageFolder``."""

from __future__ import annotations

import re

from common.errors import UserError
from data.sets.core.base import DATASETS, DataSet
from data.sets.core.folders import class_names, list_folder, split_folder
from data.store.listing import Listing


@DATASETS.register("imagenet")
class ImageNet(DataSet):
    """1000 synset folders (``n01440764``, …) in ``train`` and in ``val``; UserError otherwise."""

    title = "ImageNet-1k"
    citation = "Russakovsky et al. 2015, arXiv 1409.0575"

    def listing(self, split: str) -> Listing:
        folder = split_folder(self.name, split, self.root)
        classes = class_names(folder)
        synsets = [name for name in classes if re.fullmatch(r"n\d{8}", name)]
        if len(synsets) != 1000 or len(classes) != 1000:
            raise UserError(
                f"{folder}: {len(synsets)} synset folders (n01440764, …) of {len(classes)}, not the 1000 of ImageNet; for a part "
                "of it use --data imagefolder"
            )
        return list_folder(self.name, split, self.root)
