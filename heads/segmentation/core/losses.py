"""Losses of segmentation. They take logits ``[B, C, H, W]`` (float32), classes ``[B, H, W]`` (int64) and ``labelled``, bool
``[B, H, W]``, which is False for void pixels. Those have logits and class 0, and reach no loss and no gradient.

Sums are over all ranks' pixels. Pixels are weighted rather than selected: selecting would make each step wait for their number, and
with weights all ranks compute the same, whichever pixels they have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.distributed import all_reduce_sum
from common.errors import UsageError, unknown_name
from common.images import VOID


def cross_entropy(logits: Tensor, classes: Tensor, labelled: Tensor) -> Tensor:
    """Mean over pixels of -log p(class)."""
    return _mean(F.cross_entropy(logits, classes, reduction="none"), labelled)


def focal(logits: Tensor, classes: Tensor, labelled: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over pixels of -(1 - p)^gamma · log p (arXiv 1708.02002, equation 4, without class weights)."""
    log_p = -F.cross_entropy(logits, classes, reduction="none")
    return _mean(-((1 - log_p.exp()) ** gamma) * log_p, labelled)


def dice(logits: Tensor, classes: Tensor, labelled: Tensor) -> Tensor:
    """1 - mean over the classes present of 2·Σ p·y / (Σ p + Σ y), p the softmax, y one-hot; sums over the whole batch."""
    overlap_C, predicted_C, true_C = _class_sums(logits, classes, labelled)
    return _distance(2 * overlap_C, predicted_C + true_C, true_C > 0)


def jaccard(logits: Tensor, classes: Tensor, labelled: Tensor) -> Tensor:
    """1 - mean over the classes present of Σ p·y / (Σ p + Σ y - Σ p·y): the soft intersection over union."""
    overlap_C, predicted_C, true_C = _class_sums(logits, classes, labelled)
    return _distance(overlap_C, predicted_C + true_C - overlap_C, true_C > 0)


def _mean(values: Tensor, labelled: Tensor) -> Tensor:
    return all_reduce_sum((values * labelled).sum()) / all_reduce_sum(labelled.sum()).clamp(min=1)


def _class_sums(logits: Tensor, classes: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σ p·y, Σ p and Σ y of each class, ``[C]`` each."""
    p = logits.softmax(dim=1) * labelled[:, None]
    numbers = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    y = (classes[:, None] == numbers) & labelled[:, None]
    return tuple(all_reduce_sum(torch.stack([values.sum((0, 2, 3)) for values in (p * y, p, y)])))


def _distance(above_C: Tensor, below_C: Tensor, present_C: Tensor) -> Tensor:
    """1 - mean of ``above / below`` over the classes present; 0 without any."""
    # A class that is present has at least one pixel below the line. An absent one may have 0, whose quotient has no gradient.
    ratios_C = torch.where(present_C, above_C / below_C.clamp(min=0.5), 0)
    return present_C.any().float() - ratios_C.sum() / present_C.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "jaccard": jaccard,
}


def make_loss(terms: list[str]) -> Callable[[Tensor, Tensor], Tensor]:
    """The weighted sum of losses, such as ``["cross_entropy", "dice=0.5"]``, as a function of logits ``[B, C, H, W]`` and
    masks ``[B, H, W]``, 255 where void. Without any labelled pixel the loss and its gradients are zero.

    Raises UsageError for no or an unknown loss, or a weight that is not a positive number."""
    if not terms:
        raise UsageError("no loss is given; give one or more of " + ", ".join(LOSSES))
    weighted = []
    for term in terms:
        name, equals, weight = term.partition("=")
        if name not in LOSSES:
            raise unknown_name("loss", name, LOSSES)
        try:
            value = float(weight) if equals else 1.0
        except ValueError:
            value = 0.0
        if not value > 0:
            raise UsageError(f"loss {term!r}: the weight must be a positive number, as in {name}=0.5")
        weighted.append((LOSSES[name], value))

    def loss(logits: Tensor, masks: Tensor) -> Tensor:
        labelled = masks != VOID
        logits = logits.float().masked_fill(~labelled[:, None], 0)
        classes = masks.long().masked_fill(~labelled, 0)
        return sum(weight * function(logits, classes, labelled) for function, weight in weighted)

    return loss
