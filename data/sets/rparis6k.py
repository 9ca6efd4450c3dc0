"""The revisited Paris buildings."""

from data.sets.core.base import DATASETS
from data.sets.core.revisited import Revisited


@DATASETS.register("rparis6k")
class RParis6k(Revisited):
    title = "RParis6k"
    citation = "Radenović et al. 2018, arXiv 1803.11285"
