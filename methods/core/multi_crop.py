"""Parts of methods with crops of several sizes (DINO, SwAV).

Shapes: B images, V views, T target views (the first of the V), K outputs or prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.base import Backbone
from common.distributed import all_gather_rows
from common.options import option
from data.views.spec import PROBABILITY, View, rising
from methods.core.augmentation import AugmentationConfig


@dataclass(kw_only=True)
class MultiCropConfig(AugmentationConfig):
    """Options of a method with small crops beside the two full-size ones."""

    local_crops: int = option(8, at_least=0, at_most=100)
    """small crops of each image; 0: no multi-crop (then DINO advises a global_scale of 0.14 1)"""
    local_size: int | None = option(None, at_least=1)
    """side of the small crops in pixels; default: 96 for images of 224, in proportion, to the nearest multiple of 16"""
    local_scale: tuple[float, float] = option((0.05, 0.4), above=0, at_most=1, form=rising)
    """area of a small crop, as a part of the image's, drawn uniformly"""
    local_blur_p: float = option(0.5, **PROBABILITY)
    """probability of a Gaussian blur, for small crops"""

    #: Probability of solarisation, for small crops.
    local_solarize_p = 0.0

    def views(self, image_size: int) -> list[View]:
        small = [
            View(
                name=f"local{i + 1}",
                size=self.local_size or max(16, round(image_size * 96 / 224 / 16) * 16),
                scale=self.local_scale,
                blur_p=self.local_blur_p,
                solarize_p=self.local_solarize_p,
                augmentation=self,
            )
            for i in range(self.local_crops)
        ]
        return self.full_size_views("global", image_size) + small


def backbone_features(backbone: Backbone, views: Sequence[Tensor]) -> Tensor:
    """Pooled features ``[V, B, width]``. Neighbouring views of one size pass the backbone as one batch (reference:
    ``MultiCropWrapper``; SwAV's ``ResNet.forward``), and share BatchNorm's statistics."""
    features: list[Tensor] = []
    first = 0
    for last in range(1, len(views) + 1):
        if last == len(views) or views[last].shape != views[first].shape:
            features.append(backbone(torch.cat(list(views[first:last]))))
            first = last
    return torch.cat(features).unflatten(0, (len(views), -1))


def agreement(targets_TBK: Tensor, outputs_VBK: Tensor) -> Tensor:
    """Mean inner product over the batch and over all pairs of a teacher view and another student view. In plain loops::

        pairs = [(t, v) for t in range(T) for v in range(V) if t != v]
        sum((targets[t] * outputs[v]).sum(-1).mean() for t, v in pairs) / len(pairs)

    It is linear in both, so the views are summed first, and no pair is formed.
    """
    count, views = len(targets_TBK), len(outputs_VBK)
    every = (targets_TBK.sum(0) * outputs_VBK.sum(0)).sum(-1)
    same = (targets_TBK * outputs_VBK[:count]).sum(-1).sum(0)
    return (every - same).mean() / (count * (views - 1))


def sinkhorn_knopp(logits_NK: Tensor, iterations: int) -> Tensor:
    """Assignments ``[N, K]`` of this rank's samples to outputs, which share out the samples of all ranks more and more equally with
    each iteration; rows sum to 1. One iteration is DINO's "softmax (batch)". ``logits_NK`` are divided by the temperature already.

    Source: DINO's appendix, "relation to SwAV"; here in the logarithm, so that no temperature overflows.
    """
    for _ in range(iterations):
        shares = torch.logsumexp(logits_NK, dim=0, keepdim=True)
        logits_NK = logits_NK - torch.logsumexp(all_gather_rows(shares), dim=0, keepdim=True)
        logits_NK = logits_NK - torch.logsumexp(logits_NK, dim=1, keepdim=True)
    return logits_NK.exp()
