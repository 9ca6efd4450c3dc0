"""k-NN with few labels (DINO, arXiv 2104.14294, table 10)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.options import option
from common.progress import note
from data.label_subset import labelled_parts, most_labelled
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.knn import fitting_ks, measure_knn
from rundir.results import Measurement


@dataclass(kw_only=True)
class KNNLowShotConfig(EvaluationConfig):
    fractions: list[float] = option([0.01, 0.1], above=0, at_most=1)
    """parts of each class whose labels are used, each measured"""
    lists: list[str] = option([])
    """files that name the labelled images instead, such as SimCLR's 1percent.txt and 10percent.txt"""
    ks: list[int] = option([10, 20], at_least=1)
    """numbers of neighbours"""
    temperature: float = option(0.07, above=0)
    """of the vote exp(similarity / temperature)"""


@EVALUATIONS.register("knn_low_shot")
class KNNLowShot(Evaluation):
    """Like ``knn`` with a part of the training images as bank: the same part of every class, or the images on a list."""

    title = "k-NN, few labels"
    citation = "Caron et al. 2021, arXiv 2104.14294"
    variants = {"k": 20, "labels": None, "labelled_images": None}
    Config = KNNLowShotConfig
    config: KNNLowShotConfig

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return ["pooled"]

    def files(self) -> list[Path]:
        return [Path(file).expanduser() for file in self.config.lists]

    def check(self, outlook: Outlook) -> None:
        outlook.labelled("test")
        largest = most_labelled(outlook.train, outlook.labelled("train"), self.files(), self.config.fractions)
        fitting_ks("knn_low_shot", self.config.ks, largest)

    def run(self, context: EvalContext) -> list[Measurement]:
        config = self.config
        context.labelled("train")  # raises if no image has a label
        banks = labelled_parts(context.train, self.files(), config.fractions, context.seed)
        if any(min(config.ks) <= len(rows) for rows, _ in banks.values()):
            small = {name: rows for name, (rows, _) in banks.items() if len(rows) < min(config.ks)}
            for name, rows in small.items():
                note(f"knn_low_shot: {name} left out: {len(rows)} labelled images are fewer than the smallest k")
            banks = {name: bank for name, bank in banks.items() if name not in small}
        return [
            m
            for name, (rows, about) in banks.items()
            for m in measure_knn(context, "knn_low_shot", rows, config.ks, config.temperature, about, f"{name}-")
        ]
