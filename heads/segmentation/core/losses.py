"""Losses of segmentation, of logits ``[B, C, H, W]`` (float32), classes ``[B, H, W]`` (int64) and which pixels have one
(``known``, bool ``[B, H, W]``); a void pixel has logits and class 0, and reaches no loss and no gradient.

Sums are over all ranks' pixels. Pixels are weighted instead of picked: how many there are is something that an accelerator would
have to be asked, each step; and all ranks then add up the same, whichever pixels they have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.distributed import all_reduce_sum
from common.errors import UsageError, unknown_name

VOID = 255


def cross_entropy(logits: Tensor, classes: Tensor, known: Tensor) -> Tensor:
    """Mean over pixels of -log p(class)."""
    return _mean(F.cross_entropy(logits, classes, reduction="none"), known)


def focal(logits: Tensor, classes: Tensor, known: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over pixels of -(1 - p)^gamma · log p (arXiv 1708.02002, equation 4, without class weights)."""
    log_p = -F.cross_entropy(logits, classes, reduction="none")
    return _mean(-((1 - log_p.exp()) ** gamma) * log_p, known)


def dice(logits: Tensor, classes: Tensor, known: Tensor) -> Tensor:
    """1 - mean over the classes present of 2·Σ p·y / (Σ p + Σ y), p the softmax, y one-hot; sums over the whole batch."""
    overlap, predicted, true = _class_sums(logits, classes, known)
    return _distance(2 * overlap, predicted + true, true > 0)


def jaccard(logits: Tensor, classes: Tensor, known: Tensor) -> Tensor:
    """1 - mean over the classes present of Σ p·y / (Σ p + Σ y - Σ p·y): the soft intersection over union."""
    overlap, predicted, true = _class_sums(logits, classes, known)
    return _distance(overlap, predicted + true - overlap, true > 0)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return all_reduce_sum((values * known).sum()) / all_reduce_sum(known.sum()).clamp(min=1)


def _class_sums(logits: Tensor, classes: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σ p·y, Σ p and Σ y of each class, ``[C]`` each."""
    p = logits.softmax(dim=1) * known[:, None]
    numbers = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    y = (classes[:, None] == numbers) & known[:, None]
    return tuple(all_reduce_sum(torch.stack([values.sum((0, 2, 3)) for values in (p * y, p, y)])))


def _distance(above: Tensor, below: Tensor, present: Tensor) -> Tensor:
    """1 - mean of ``above / below`` over the classes present; 0 where none is."""
    # Where a class is present, below is at least 1, its pixels; where it is not, it may be 0, whose quotient has no gradient.
    ratios = torch.where(present, above / below.clamp(min=0.5), 0)
    return present.any().float() - ratios.sum() / present.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "jaccard": jaccard,
}


def make_loss(terms: list[str]) -> Callable[[Tensor, Tensor], Tensor]:
    """The weighted sum of losses, such as ``["cross_entropy", "dice=0.5"]``, as a function of logits ``[B, C, H, W]`` and
    masks ``[B, H, W]``, 255 where void. A batch whose every pixel is void gives a loss of zero, with zero gradients.

    Raises UsageError for no or an unknown loss, or a weight that is no positive number."""
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
        known = masks != VOID
        logits = logits.float().masked_fill(~known[:, None], 0)
        classes = masks.long().masked_fill(~known, 0)
        return sum(weight * function(logits, classes, known) for function, weight in weighted)

    return loss
