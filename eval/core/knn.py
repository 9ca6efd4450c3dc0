"""Weighted k-NN from any bank of training images to measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console

from eval.core.context import EvalContext
from eval.core.scoring import measure_classes, measure_label_scores
from eval.features.votes import knn_classify, knn_label_scores
from rundir.results import Measurement


def ks_that_fit(ks: Sequence[int], images: int, evaluation: str) -> list[int]:
    """The ``ks`` that a bank of so many images has neighbours for, rising; a message names the others. Where none fits, all: the
    search then refuses them."""
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
    ks = ks_that_fit(ks, len(bank_rows), evaluation)
    # The bank stays on the CPU: the search puts it on the device normalised, and it need not be there twice.
    bank = context.features("train", "pooled")[bank_rows]
    queries = context.features("test", "pooled")[context.labelled("test")].to(context.device)
    several = context.train.label_sets is not None
    labels = torch.from_numpy((context.train.label_sets if several else context.train.labels)[bank_rows])
    if several:
        results = knn_label_scores(bank, labels, queries, ks, temperature, progress=True)
    else:
        results = knn_classify(bank, labels, queries, ks, temperature, context.train.num_classes, progress=True)
    measurements: list[Measurement] = []
    for k in ks:
        result = results[k].cpu().numpy()
        protocol = {"k": k, **(about or {}), "temperature": temperature, "features": "pooled, L2-normalised"}
        if several:
            measurements += measure_label_scores(context, evaluation, result, protocol, f"{suffix}k{k}")
        else:
            measurements += measure_classes(context, evaluation, result, protocol, f"{suffix}k{k}", top5=k >= 5)
    return measurements
