"""Average precision of retrieval as in revisited Oxford and Paris (Radenović et al. 2018, arXiv 1803.11285; dino/utils.py,
``compute_map``). Imports numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def retrieval_map(
    ranks: np.ndarray, ok: Sequence[np.ndarray], junk: Sequence[np.ndarray], cutoffs: Sequence[int] = (1, 5, 10)
) -> tuple[np.ndarray, np.ndarray]:
    """Score rankings after junk images are removed. A cut-off beyond the last positive is lowered to it, as in the reference.

    Args:
        ranks: int ``[database, Q]``: column q lists database images from best to worst for query q.
        ok: for each query its positives, in any order.
        junk: for each query the images that count neither way.
        cutoffs: K ranks, from 1, at which to take the precision.

    Returns average precision ``[Q]`` and precision at the cut-offs ``[Q, K]``, in [0, 1]; NaN for a query without positives.

    Raises ValueError for other lengths than Q, a positive that a ranking lacks, or no query with positives.
    """
    queries = ranks.shape[1]
    if len(ok) != queries or len(junk) != queries:
        raise ValueError(f"{queries} rankings, but positives of {len(ok)} and junk of {len(junk)} queries")
    aps = np.full(queries, np.nan)
    precisions = np.full((queries, len(cutoffs)), np.nan)
    for query in range(queries):
        positives = np.unique(np.asarray(ok[query], np.int64))
        if len(positives) == 0:
            continue
        is_positive = np.isin(ranks[:, query], positives)
        is_junk = np.isin(ranks[:, query], np.asarray(junk[query], np.int64))
        if is_positive.sum() != len(positives):
            raise ValueError(f"the ranking of query {query} has {is_positive.sum()} of its {len(positives)} positives")
        # Places count from 0, without the junk before them.
        places = np.flatnonzero(is_positive)
        places = places - np.cumsum(is_junk)[places] + is_junk[places]
        aps[query] = trapezoid_precision(places, len(places))
        for column, cutoff in enumerate(cutoffs):
            at = min(places[-1] + 1, cutoff)
            precisions[query, column] = (places < at).sum() / at
    if np.isnan(aps).all():
        raise ValueError("no query has positives")
    return aps, precisions


def trapezoid_precision(places: np.ndarray, positives: int) -> float:
    """Average precision in [0, 1]: area under the precision-recall curve by trapezoids. Of ``positives`` images, the ranking
    has some at ``places``, from 0, rising."""
    hits = np.arange(len(places))
    before = np.where(places == 0, 1.0, hits / np.maximum(places, 1))
    after = (hits + 1) / (places + 1)
    return float((before + after).sum() / (2 * positives))
