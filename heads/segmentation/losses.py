"""Losses of segmentation. Void pixels (255) are taken out before anything is summed: they reach no loss and no gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.distributed import all_reduce_sum
from common.errors import UsageError, unknown_name

VOID = 255


def labelled_pixels(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[B, C, H, W]`` and masks ``[B, H, W]`` → logits ``[N, C]`` (float32) and classes ``[N]`` of the N pixels that
    are not void."""
    known = masks != VOID
    return logits.float().movedim(1, -1)[known], masks[known].long()


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean over pixels of -log p(class); over all ranks' pixels."""
    count = all_reduce_sum(torch.tensor(float(len(classes)), device=logits.device))
    return all_reduce_sum(F.cross_entropy(logits, classes, reduction="sum")) / count.clamp(min=1)


def focal(logits: Tensor, classes: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean over pixels of -(1 - p)^gamma · log p (arXiv 1708.02002, equation 4, without class weights)."""
    log_p = F.log_softmax(logits, dim=1).gather(1, classes[:, None])[:, 0]
    total = all_reduce_sum((-((1 - log_p.exp()) ** gamma) * log_p).sum())
    count = all_reduce_sum(torch.tensor(float(len(classes)), device=logits.device))
    return total / count.clamp(min=1)


def dice(logits: Tensor, classes: Tensor) -> Tensor:
    """1 - mean over the classes present of 2·Σ p·y / (Σ p + Σ y), p the softmax, y one-hot; sums over the whole batch."""
    overlap, predicted, true = _class_sums(logits, classes)
    present = true > 0
    return 1 - (2 * overlap[present] / (predicted[present] + true[present])).mean()


def jaccard(logits: Tensor, classes: Tensor) -> Tensor:
    """1 - mean over the classes present of Σ p·y / (Σ p + Σ y - Σ p·y): the soft intersection over union."""
    overlap, predicted, true = _class_sums(logits, classes)
    present = true > 0
    return 1 - (overlap[present] / (predicted[present] + true[present] - overlap[present])).mean()


def _class_sums(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p, y = logits.softmax(dim=1), F.one_hot(classes, logits.shape[1]).to(logits.dtype)
    return tuple(all_reduce_sum(torch.stack([(p * y).sum(0), p.sum(0), y.sum(0)])))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "jaccard": jaccard,
}


def make_loss(terms: list[str]) -> Callable[[Tensor, Tensor], Tensor]:
    """The weighted sum of losses, such as ``["cross_entropy", "dice=0.5"]``, as a function of logits ``[B, C, H, W]`` and
    masks ``[B, H, W]``. A batch whose every pixel is void gives a loss of zero, with zero gradients.

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
        pixels, classes = labelled_pixels(logits, masks)
        if len(classes) == 0:
            return logits.sum() * 0.0
        return sum(weight * function(pixels, classes) for function, weight in weighted)

    return loss
