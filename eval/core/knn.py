"""Measures weighted k-NN with any bank of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.progress import note
from eval.core.context import EvalContext
from eval.core.scoring import measure_classes, measure_label_scores
from eval.features.votes import knn_classify, knn_label_scores
from rundir.results import Measurement


def measure_knn(
    context: EvalContext,
    evaluation: str,
    bank_rows: np.ndarray,
    ks: Sequence[int],
    temperature: float,
    about: Mapping[str, Any] | None = None,
    suffix: str = "",
) -> list[Measurement]:
    """Measure each k for which the bank, the labelled training images ``bank_rows``, is large enough. ``about`` describes the bank
    in the protocol, and ``suffix`` in the names of predictions files."""
    ks = sorted(set(ks))
    fitting = [k for k in ks if k <= len(bank_rows)]
    if fitting and fitting != ks:
        left_out = ", ".join(map(str, ks[len(fitting) :]))
        note(f"{evaluation}: k = {left_out} left out: the bank has {len(bank_rows)} labelled images", style="none")
    ks = fitting or ks  # if none fits, the search raises
    # The bank stays on the CPU, since the search puts a normalised copy on the device.
    bank = context.features("train", "pooled")[bank_rows]
    queries = context.features("test", "pooled")[context.labelled("test")].to(context.device)
    labels, several = context.labels("train", bank_rows), context.train.label_sets is not None
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
