"""The revisited Oxford buildings."""

from data.sets.core.base import DATASETS
from data.sets.core.revisited import Revisited


@DATASETS.register("roxford5k")
class ROxford5k(Revisited):
    title = "ROxford5k"
    citation = "Radenović et al. 2018, arXiv 1803.11285"
