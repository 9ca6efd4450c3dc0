"""Classifies queries by the votes of their nearest neighbours in a bank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.progress import track
from eval.features.neighbours import nearest_neighbours, tile_rows

#: Rows of a bank that are normalised together.
TOGETHER = 2**16


def knn_classify(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
    progress: bool = False,
    bank_rows: Tensor | None = None,
) -> dict[int, Tensor]:
    """Classify queries by the votes of their nearest bank images, for several k from one search.

    Features are L2-normalised here. A neighbour's vote weighs exp(similarity / temperature). As in the reference, the last guess
    may be a class without votes.

    Args:
        bank: ``[N, D]``, any float type, on any device, perhaps in a file: its normalised copy alone is in memory.
        bank_labels: int64 ``[N]`` in 0 to num_classes - 1.
        queries: ``[Q, D]``.
        ks: numbers of neighbours, each in 1 to N.
        bank_rows: the rows of ``bank`` to take, int64 ``[N]``, of which ``bank_labels`` are; None: all.

    Returns for each k the classes, best first, int64 ``[Q, min(5, num_classes)]`` on the device of ``queries``. Raises UserError
    for a k, a temperature or a label out of range.
    """
    if bank_labels.min() < 0 or bank_labels.max() >= num_classes:
        raise UserError(
            f"k-NN: bank labels from {bank_labels.min()} to {bank_labels.max()}, but there are {num_classes} classes; "
            "leave unlabelled images out of the bank"
        )
    guesses: dict[int, list[Tensor]] = {k: [] for k in ks}
    labels = bank_labels.to(queries.device)
    for weights, places in _voters(bank, bank_rows, bank_labels, queries, ks, temperature, progress):
        votes = labels[places]
        for k in guesses:
            scores = weights.new_zeros(len(weights), num_classes)
            scores.scatter_add_(1, votes[:, :k], weights[:, :k])
            guesses[k].append(best_classes(scores))
    return {k: torch.cat(parts) for k, parts in guesses.items()}


def knn_label_scores(
    bank: Tensor,
    bank_label_sets: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    temperature: float,
    progress: bool = False,
    bank_rows: Tensor | None = None,
) -> dict[int, Tensor]:
    """Like ``knn_classify`` for images with several labels, ``bank_label_sets`` bool ``[N, C]``: a neighbour votes for each.
    Returns each k's scores, float32 ``[Q, C]``: shares of the total weight, comparable between queries."""
    scores: dict[int, list[Tensor]] = {k: [] for k in ks}
    label_sets = bank_label_sets.to(queries.device)
    for weights, places in _voters(bank, bank_rows, bank_label_sets, queries, ks, temperature, progress):
        shares = weights.new_zeros(len(weights), label_sets.shape[1])
        total, done = weights.new_zeros(len(weights), 1), 0
        for k in sorted(scores):
            for rank in range(done, k):  # one neighbour at a time: never [q, k, C] at once
                shares += weights[:, rank : rank + 1] * label_sets[places[:, rank]]
                total += weights[:, rank : rank + 1]
            done = k
            scores[k].append(shares / total)
    return {k: torch.cat(parts) for k, parts in scores.items()}


def best_classes(scores: Tensor) -> Tensor:
    """Rank classes by score: ``[q, C]`` to int64 ``[q, min(5, C)]``, best first, ties as in the reference's
    ``scores.sort(1, True)``."""
    count = min(5, scores.shape[1])
    # A partial sort is much cheaper than the reference's, and equals it without ties.
    values, classes = scores.topk(min(count + 1, scores.shape[1]))
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1).nonzero().squeeze(1)
    classes = classes[:, :count]
    if len(tied):
        classes[tied] = scores[tied].sort(1, True).indices[:, :count]
    return classes


def _voters(
    bank: Tensor,
    bank_rows: Tensor | None,
    labels: Tensor,
    queries: Tensor,
    ks: Sequence[int],
    temperature: float,
    progress: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the nearest bank rows of chunks of queries, nearest first, after the weights of their votes."""
    size = len(bank) if bank_rows is None else len(bank_rows)
    if len(labels) != size:
        raise ValueError(f"{len(labels)} labels for {size} features")
    if not ks or min(ks) < 1:
        raise UserError(f"k-NN: k must be at least 1 (given: {', '.join(map(str, ks)) or 'none'})")
    if max(ks) > size:
        raise UserError(f"k-NN: k = {max(ks)}, but the bank has only {size} labelled images; give smaller ks")
    if not temperature > 0:
        raise UserError(f"k-NN: the temperature is {temperature}; give a number above 0")
    bank = normalised(bank, bank_rows, queries.device)
    chunks = nearest_neighbours(bank, F.normalize(queries.float(), dim=1), max(ks))
    total = -(-len(queries) // tile_rows(queries.device))
    for similarity, places in track(chunks, "k-NN", total, show=progress):
        # Relative to the nearest, which changes no ranking and keeps small temperatures from overflowing.
        yield ((similarity - similarity[:, :1]) / temperature).exp(), places


def normalised(bank: Tensor, rows: Tensor | None, device: torch.device) -> Tensor:
    """L2-normalised rows of a bank (None: all), float32 on the device. They are made in parts, so that a bank in a file is in
    memory once."""
    size = len(bank) if rows is None else len(rows)
    result = torch.empty(size, bank.shape[1], device=device)
    for start in range(0, size, TOGETHER):
        part = slice(start, start + TOGETHER)
        result[part] = F.normalize((bank[part] if rows is None else bank[rows[part]]).to(device).float(), dim=1)
    return result
