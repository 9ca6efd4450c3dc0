"""Retrieval on frozen features: precision at 1, R-precision and MAP@R (Musgrave et al. 2020, arXiv 2003.08505, section 3.2), by
pytorch-metric-learning's ``AccuracyCalculator`` on our exact nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.progress import track
from eval.core.base import EVALUATIONS, Evaluation, Outlook
from eval.core.context import EvalContext
from eval.core.scoring import measure_means
from eval.features.neighbours import nearest_neighbours
from eval.features.votes import TOGETHER, normalised
from rundir.results import Measurement

#: Our names of the metrics, and the library's.
METRICS = {
    "precision_at_1": "precision_at_1",
    "r_precision": "r_precision",
    "map_at_r": "mean_average_precision_at_r",
}
#: Queries per call of the library, which compares the labels of all their neighbours at once.
_CHUNK = 256


def retrieval_scores(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    progress: bool = False,
    gallery_rows: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """Score each query's ranking of the gallery by cosine similarity. A gallery image is relevant if it shares a label with the
    query; R counts the relevant ones.

    Args:
        gallery: ``[N, D]``, any float type, on any device, perhaps in a file: its normalised copy alone is in memory.
        gallery_labels: int64 ``[N]``, or bool ``[N, C]`` where images have several labels.
        queries: ``[Q, D]``, not in the gallery, on the device to search on.
        query_labels: ``[Q]`` or ``[Q, C]``.
        gallery_rows: the rows of ``gallery`` to take, int64 ``[N]``, of which ``gallery_labels`` are; None: all.

    Returns for each of ``METRICS`` float64 ``[Q]`` in [0, 1]: whether the nearest image is relevant; the relevant share of the R
    nearest; the mean over the first R ranks of the precision there, 0 at irrelevant ranks. Raises UserError for features that are
    not finite, ValueError for a query without relevant images.
    """
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator  # takes a second to import

    if not has_relevant(gallery_labels, query_labels).all():
        raise ValueError("each query needs a relevant image in the gallery")
    gallery, queries = normalised(gallery, gallery_rows, queries.device), normalised(queries, None, queries.device)
    # What is not finite is not after it was normalised, either.
    if not all(part.isfinite().all() for features in (gallery, queries) for part in features.split(TOGETHER)):
        raise UserError("retrieval: features are not finite; the training has diverged, or the weights are damaged")

    def neighbours(query: Tensor, k: int, reference: Tensor, ref_includes_query: bool) -> tuple[Tensor, Tensor]:
        similarities, places = zip(*nearest_neighbours(gallery, query.to(gallery.device), k), strict=True)
        return torch.cat(similarities).cpu(), torch.cat(places).cpu()

    def numbered(labels: Tensor, numbers: Tensor) -> Tensor:
        return torch.cat([numbers[:, None], labels.cpu().view(len(labels), -1).to(numbers.dtype)], dim=1)

    def share_a_label(first: Tensor, second: Tensor) -> Tensor:
        if gallery_labels.ndim == 1:
            return first[..., 1] == second[..., 1]
        return ((first[..., 1:] > 0) & (second[..., 1:] > 0)).any(dim=-1)

    # The library returns means over distinct labels. A query's number in front makes its label distinct, so that means are single
    # queries'; the comparison ignores the number.
    calculator = AccuracyCalculator(
        include=tuple(METRICS.values()),
        return_per_class=True,
        k="max_bin_count",
        label_comparison_fn=share_a_label,
        device=torch.device("cpu"),  # float64, which not every accelerator has
        knn_func=neighbours,
    )
    # It hands the gallery to the search alone, which has it.
    reference = torch.empty(len(gallery), 0), numbered(gallery_labels, torch.full((len(gallery),), -1))
    parts: dict[str, list[Any]] = {metric: [] for metric in METRICS}
    chunks = list(zip(queries.split(_CHUNK), query_labels.split(_CHUNK), strict=True))
    for chunk, labels in track(chunks, "retrieval", len(chunks), show=progress):
        accuracies = calculator.get_accuracy(chunk.cpu(), numbered(labels, torch.arange(len(chunk))), *reference)
        for metric, theirs in METRICS.items():
            parts[metric] += accuracies[theirs]
    return {metric: np.asarray(values, np.float64) for metric, values in parts.items()}


def has_relevant(gallery_labels: Tensor, query_labels: Tensor) -> Tensor:
    """Mark queries that share a label with a gallery image, bool ``[Q]``; labels as in ``retrieval_scores``."""
    if gallery_labels.ndim == 1:
        return torch.isin(query_labels, gallery_labels)
    return (query_labels.bool() & gallery_labels.bool().any(dim=0)).any(dim=1)


@EVALUATIONS.register("retrieval")
class Retrieval(Evaluation):
    """Means over the labelled test images, in percent, except those whose labels no training image has. The gallery is the
    training split, so that queries are independent and can be resampled."""

    title = "Retrieval"
    citation = "Musgrave et al. 2020, arXiv 2003.08505"
    metrics = {"precision_at_1": "precision at 1", "r_precision": "r precision", "map_at_r": "map at r"}
    headline = ("precision_at_1",)

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return ["pooled"]

    def check(self, outlook: Outlook) -> None:
        for split in ("train", "test"):
            outlook.labelled(split)

    def run(self, context: EvalContext) -> list[Measurement]:
        train_rows, test_rows = context.labelled("train"), context.labelled("test")
        gallery_labels, query_labels = context.labels("train", train_rows), context.labels("test", test_rows)
        kept = has_relevant(gallery_labels, query_labels)
        if not kept.any():
            raise UserError(
                f"{context.test.name}: no training image has a label of any test image, so nothing can be retrieved"
            )
        query_rows = test_rows[kept.numpy()]
        scores = retrieval_scores(
            context.features("train", "pooled"),
            gallery_labels,
            context.features("test", "pooled")[query_rows].to(context.device),
            query_labels[kept],
            progress=True,
            gallery_rows=torch.from_numpy(train_rows),
        )
        names = [context.test.names[row] for row in query_rows]
        protocol = {
            "gallery": "training split",
            "features": "pooled, L2-normalised",
            "left_out": len(test_rows) - len(query_rows),
            **context.protocol(),
        }
        if context.test.label_sets is not None:
            protocol["relevant"] = "shares a label"
        return measure_means(context, "retrieval", names, scores, protocol, samples="queries (test images)")
