"""The revisited Oxford buildings."""

from data.sets.core.base import DATASETS
from data.sets.core.revisited import Revisited


@DATASETS.register("roxford5k")
class ROxford5k(Revisited):
    title = "ROxford5k"
