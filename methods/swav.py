"""SwAV: swapped assignments (Caron et al. 2020, arXiv 2006.09882; reference: facebookresearch/swav).

Full-size crops are assigned to prototypes, in equal shares over the batch. Every other crop of the image, small ones too, has
to predict the assignment.

Shapes: B images, V views, T assigned views (two), K prototypes, D features of the projector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from data.views.spec import View, dino_views
from methods.barlow_twins import parse_widths
from methods.core.augmentation import AugmentationConfig, checked_views
from methods.core.base import METHODS, Method, Progress, StepOutput, ViewBatch
from methods.core.multi_crop import agreement, backbone_features, sinkhorn_knopp


@dataclass(kw_only=True)
class SwAVConfig(AugmentationConfig):
    """SwAV's options. Defaults: scripts/swav_800ep_pretrain.sh and src/multicropdataset.py."""

    global_scale: tuple[float, float] = (0.14, 1.0)
    """area of a full-size crop, as a part of the image's, drawn uniformly"""
    brightness: float = 0.8
    """of the colour jitter: factor within 1 ± this"""
    contrast: float = 0.8
    """of the colour jitter: factor within 1 ± this"""
    saturation: float = 0.8
    """of the colour jitter: factor within 1 ± this"""
    hue: float = 0.2
    """of the colour jitter: shift within ± this part of the colour circle (at most 0.5)"""
    blur_p: tuple[float, float] = (0.5, 0.5)
    """probability of a Gaussian blur, for the first and the second full-size crop"""
    solarize_p: tuple[float, float] = (0.0, 0.0)
    """probability of solarisation, for the first and the second full-size crop"""
    local_crops: int = 6
    """small crops of each image; 0: no multi-crop"""
    local_size: int | None = None
    """side of the small crops in pixels; default: 96 for images of 224, in proportion, to the nearest multiple of 16"""
    local_scale: tuple[float, float] = (0.05, 0.14)
    """area of a small crop, as a part of the image's, drawn uniformly"""
    local_blur_p: float = 0.5
    """probability of a Gaussian blur, for small crops"""

    projector: str = "2048-128"
    """widths of the projector's layers"""
    prototypes: int = 3000
    """number of prototypes"""
    temperature: float = 0.1
    """of the predictions' softmax"""
    epsilon: float = 0.05
    """of the assignments: how soft they are"""
    sinkhorn_iterations: int = 3
    """alternating normalisations that share the batch out"""
    freeze_prototypes: int = 313
    """optimiser steps during which the prototypes stay as they are; a shorter run never trains them"""

    def __post_init__(self) -> None:
        self.require(lambda value: value >= 1, "give at least 1", "prototypes", "sinkhorn_iterations", "local_size")
        self.require(lambda value: value >= 0, "give 0 or more", "local_crops", "freeze_prototypes")
        self.require(lambda value: value > 0, "a temperature must be above 0", "temperature", "epsilon")
        parse_widths(self.projector)


@METHODS.register("swav")
class SwAV(Method):
    """Assignments share out the batch of all ranks together, which alone keeps outputs from being all the same. (The reference
    can also share out the last batches, in a queue, for batches smaller than the number of prototypes: here give fewer
    prototypes.)"""

    title = "SwAV"
    Config = SwAVConfig
    #: scripts/swav_800ep_pretrain.sh: LARS, 4.8 for 4096 images, 10 epochs of warm-up (from 0.3 there, from 0 here).
    recipe: ClassVar[dict[str, Any]] = {
        "optimizer": "lars",
        "lr": 0.3,
        "min_lr": 0.0048,
        "weight_decay": 1e-6,
        "batch_size": 4096,
        "epochs": 800,
    }

    config: SwAVConfig

    def __init__(self, config: SwAVConfig, make_backbone: Callable[..., Backbone], num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone(zero_init_residual=True)
        widths = [self.backbone.width, *parse_widths(config.projector)]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths[:-1]):
            layers += [nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
        # Unlike Barlow Twins' projector, the last layer has a bias.
        self.projector = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
        self.prototypes = nn.Linear(widths[-1], config.prototypes, bias=False)
        self._normalize_prototypes()

    @classmethod
    def views(cls, config: SwAVConfig, image_size: int) -> list[View]:
        return checked_views(
            dino_views,
            config,
            global_size=image_size,
            local_size=config.local_size or max(16, round(image_size * 96 / 224 / 16) * 16),
            local_crops=config.local_crops,
            global_scale=config.global_scale,
            local_scale=config.local_scale,
            blur_p=(*config.blur_p, config.local_blur_p),
            solarize_p=(*config.solarize_p, 0.0),
        )

    @torch.no_grad()
    def _normalize_prototypes(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight))

    def before_step(self, progress: Progress) -> None:
        self._normalize_prototypes()

    def forward(self, batch: ViewBatch) -> StepOutput:
        features_VBD = backbone_features(self.backbone, batch.views)
        # All views pass the projector as one batch, as the reference has it.
        z_VBD = self.projector(features_VBD.flatten(0, 1)).unflatten(0, features_VBD.shape[:2])
        with torch.autocast(z_VBD.device.type, enabled=False):
            # Divided by temperatures as small as 0.05, similarities need all their digits.
            scores_VBK = self.prototypes(F.normalize(z_VBD.float(), dim=-1))
            loss = self.loss(scores_VBK)
        return StepOutput(loss, projections=(z_VBD[0].detach(), z_VBD[1].detach()))

    def loss(self, scores_VBK: Tensor) -> Tensor:
        """Mean over the rank's own images. Equal to, in plain loops, with ``q[t]`` the assignments of view t alone::

        pairs = [(t, v) for t in range(2) for v in range(V) if t != v]
        sum(-(q[t] * log_softmax(scores[v] / temperature)).sum(-1).mean() for t, v in pairs) / len(pairs)
        """
        config = self.config
        with torch.no_grad():
            targets_TBK = torch.stack(
                [sinkhorn_knopp(scores_BK / config.epsilon, config.sinkhorn_iterations) for scores_BK in scores_VBK[:2]]
            )
        return -agreement(targets_TBK, (scores_VBK / config.temperature).log_softmax(-1))

    def after_backward(self, progress: Progress) -> None:
        if progress.step < self.config.freeze_prototypes:
            self.prototypes.weight.grad = None
