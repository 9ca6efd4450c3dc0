"""k-NN with few labels (DINO, arXiv 2104.14294, table 10)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.options import option
from data.label_subset import labelled_parts
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.core.context import EvalContext
from eval.core.knn import measure_knn
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

    def run(self, context: EvalContext) -> list[Measurement]:
        config = self.config
        context.labelled("train")  # raises if no image has a label
        banks = labelled_parts(context.train, self.files(), config.fractions, context.seed)
        return [
            m
            for name, (rows, about) in banks.items()
            for m in measure_knn(context, "knn_low_shot", rows, config.ks, config.temperature, about, f"{name}-")
        ]
