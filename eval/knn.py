"""Weighted k-NN on frozen features (DINO, arXiv 2104.14294, section 4.1; reference: eval_knn.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.features.votes import check_options, knn_classify, knn_label_scores
from rundir.results import Measurement

if TYPE_CHECKING:
    from eval.core.context import EvalContext


@dataclass(kw_only=True)
class KNNConfig(EvaluationConfig):
    """Options of weighted k-NN (defaults: the reference's)."""

    ks: list[int] = field(default_factory=lambda: [10, 20, 100, 200])
    """numbers of neighbours, all measured from one search; those beyond the number of training images are left out"""
    temperature: float = 0.07
    """of the vote exp(similarity / temperature)"""


@EVALUATIONS.register("knn")
class KNN(Evaluation):
    """Top-1 (and top-5, where there are more classes than that and k is at least 5) of weighted k-NN; the mean average
    precision of the label scores where images have several labels. The bank is the training split."""

    title = "k-NN"
    variants = {"k": 20}
    Config = KNNConfig
    config: KNNConfig

    def __init__(self, config: KNNConfig):
        super().__init__(config)
        check_options(config.ks, config.temperature)

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return ["pooled"]

    def run(self, context: EvalContext) -> list[Measurement]:
        return measure_knn(context, "knn", context.labelled("train"), self.config.ks, self.config.temperature)


def ks_that_fit(ks: Sequence[int], images: int, evaluation: str) -> list[int]:
    """Those of ``ks`` that a bank of so many images has neighbours for, rising; the others are told. All where none fits: the
    search then says so."""
    ks = sorted(set(ks))
    fitting = [k for k in ks if k <= images]
    if not fitting or fitting == ks:
        return ks
    left_out = ", ".join(map(str, ks[len(fitting) :]))
    Console(stderr=True, soft_wrap=True).print(
        f"{evaluation}: k = {left_out} left out: the bank has {images} labelled images", highlight=False
    )
    return fitting


def measure_knn(
    context: EvalContext,
    evaluation: str,
    bank_rows: np.ndarray,
    ks: Sequence[int],
    temperature: float,
    about: Mapping[str, Any] | None = None,
    suffix: str = "",
) -> list[Measurement]:
    """Measurements of the evaluation for each k.

    Args:
        bank_rows: the labelled training images that vote.
        about: of the protocol, which bank that is.
        suffix: tells the predictions files from others of the evaluation.
    """
    from eval.core.scoring import classification, multi_label

    ks, device = ks_that_fit(ks, len(bank_rows), evaluation), context.device
    # The bank stays on the CPU: the search puts it on the device normalised, and it need not be there twice.
    bank = context.features("train", "pooled")[bank_rows]
    queries = context.features("test", "pooled")[context.labelled("test")].to(device)
    protocol = {**(about or {}), "temperature": temperature, "features": "pooled, L2-normalised"}
    measurements: list[Measurement] = []
    if context.train.label_sets is not None:
        truth = torch.from_numpy(context.train.label_sets[bank_rows])
        scores = knn_label_scores(bank, truth, queries, ks, temperature, progress=True)
        for k in ks:
            found = scores[k].cpu().numpy()
            measurements += multi_label(context, evaluation, found, {"k": k, **protocol}, f"{suffix}k{k}")
        return measurements
    labels = torch.from_numpy(context.train.labels[bank_rows])
    guesses = knn_classify(bank, labels, queries, ks, temperature, context.train.num_classes, progress=True)
    for k in ks:
        found = guesses[k].cpu().numpy()
        measurements += classification(context, evaluation, found, {"k": k, **protocol}, f"{suffix}k{k}", top5=k >= 5)
    return measurements
