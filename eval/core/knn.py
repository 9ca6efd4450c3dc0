"""Measures weighted k-NN with any bank of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.progress import note
from eval.core.context import EvalContext
from eval.core.scoring import measure_classes, measure_label_scores
from eval.features.votes import knn_classify, knn_label_scores
from rundir.results import Measurement


def fitting_ks(evaluation: str, ks: Sequence[int], bank: int) -> tuple[list[int], str]:
    """The ks, rising, that a bank of so many labelled images is large enough for, and which are left out, in words ("": none).
    Raises UserError, naming what can be given, if the bank is too small for all."""
    ks = sorted(set(ks))
    fitting = [k for k in ks if k <= bank]
    if not fitting:
        raise UserError(
            f"{evaluation}: k = {', '.join(map(str, ks))}, but the bank has only {bank} labelled images; "
            f"give --{evaluation}_ks numbers from 1 to {bank}"
        )
    if fitting == ks:
        return fitting, ""
    left_out = ", ".join(map(str, ks[len(fitting) :]))
    return fitting, f"{evaluation}: k = {left_out} left out: the bank has {bank} labelled images"


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
    in the protocol, and ``suffix`` in the names of predictions files. Raises UserError if the bank is too small for all."""
    ks, remark = fitting_ks(evaluation, ks, len(bank_rows))
    if remark:
        note(remark, style="none")
    # The bank stays in its file, since the search puts a normalised copy on the device.
    bank, rows = context.features("train", "pooled"), torch.from_numpy(bank_rows)
    queries = context.features("test", "pooled")[context.labelled("test")].to(context.device)
    labels, several = context.labels("train", bank_rows), context.train.label_sets is not None
    if several:
        results = knn_label_scores(bank, labels, queries, ks, temperature, True, rows)
    else:
        classes = context.train.num_classes
        results = knn_classify(bank, labels, queries, ks, temperature, classes, True, rows)
    measurements: list[Measurement] = []
    data = context.data(bank_rows)
    for k in ks:
        result = results[k].cpu().numpy()
        protocol = {"k": k, **(about or {}), "temperature": temperature, "features": "pooled, L2-normalised"}
        if several:
            measurements += measure_label_scores(context, evaluation, result, protocol, f"{suffix}k{k}", data)
        else:
            measurements += measure_classes(context, evaluation, result, protocol, f"{suffix}k{k}", k >= 5, data)
    return measurements
