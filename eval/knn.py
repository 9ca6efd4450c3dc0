"""Weighted k-NN on frozen features (DINO, arXiv 2104.14294, section 4.1; reference: eval_knn.py)."""

from __future__ import annotations

from dataclasses import dataclass

from common.options import option
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.knn import fitting_ks, measure_knn
from rundir.results import Measurement


@dataclass(kw_only=True)
class KNNConfig(EvaluationConfig):
    """Options of weighted k-NN (defaults: the reference's)."""

    ks: list[int] = option([10, 20, 100, 200], at_least=1)
    """numbers of neighbours, all measured from one search; those beyond the number of training images are left out"""
    temperature: float = option(0.07, above=0)
    """of the vote exp(similarity / temperature)"""


@EVALUATIONS.register("knn")
class KNN(Evaluation):
    """Top-1 (and top-5, of more than 5 classes and for k of at least 5) of weighted k-NN, or mean average precision where images
    have several labels. The bank is the training split."""

    title = "k-NN"
    citation = "Wu et al. 2018, arXiv 1805.01978"
    variants = {"k": 20}
    Config = KNNConfig
    config: KNNConfig

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return ["pooled"]

    def check(self, outlook: Outlook) -> None:
        outlook.labelled("test")
        fitting_ks("knn", self.config.ks, outlook.labelled("train"))

    def run(self, context: EvalContext) -> list[Measurement]:
        return measure_knn(context, "knn", context.labelled("train"), self.config.ks, self.config.temperature)
