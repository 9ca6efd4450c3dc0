"""Any images without labels: a flat folder, or nested ones."""

from __future__ import annotations

import numpy as np

from common.errors import UserError
from data.sets.core.base import DATASETS, DataSet
from data.sets.core.folders import files_below
from data.sets.core.lists import of_split
from data.store.listing import Listing, Stamp, below
from data.store.names import Names


@DATASETS.register("images")
class Images(DataSet):
    """Every file below the folder, except hidden ones, is an image to train on. None has a label, and none is a test image."""

    title = "images without labels"
    has_labels = False

    def listing(self, split: str) -> Listing:
        if of_split({"train": True, "test": False}, split) is False:
            raise UserError(
                f"{self.root}: images without labels are to train on, and have no test images to measure on; give --data and "
                "--data_root of a data set with labels"
            )
        stamp = Stamp()
        names = Names(stamp.over(below(self.root, files_below(self.root))))
        return Listing(
            data=self.name,
            split=split,
            root=self.root,
            classes=(),
            names=names,
            labels=np.full(len(names), -1, np.int64),
            stamp=stamp.hexdigest(),
        )
