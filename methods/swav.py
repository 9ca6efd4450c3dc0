"""SwAV: swapped assignments (Caron et al. 2020, arXiv 2006.09882; reference: facebookresearch/swav).

Full-size crops are assigned to prototypes, in equal shares over the batch. Each other crop of the image, small ones too, has to
predict the assignment.

Shapes: B images, V views, T assigned views (two), K prototypes, D features of the projector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.options import option
from heads.mlp import MLP, parse_widths
from methods.core.base import (
    METHODS,
    MakeBackbone,
    Method,
    Progress,
    StepOutput,
    ViewBatch,
    full_precision,
    power_of_two,
)
from methods.core.multi_crop import MultiCropConfig, agreement, backbone_features, sinkhorn_knopp


@dataclass(kw_only=True)
class SwAVConfig(MultiCropConfig):
    """SwAV's options. Defaults: scripts/swav_800ep_pretrain.sh and src/multicropdataset.py."""

    global_scale: tuple[float, float] = (0.14, 1.0)
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    blur_p: tuple[float, float] = (0.5, 0.5)
    solarize_p: tuple[float, float] = (0.0, 0.0)
    local_crops: int = 6
    local_scale: tuple[float, float] = (0.05, 0.14)

    projector: str = option("2048-128", form=parse_widths)
    """widths of the projector's layers"""
    prototypes: int = option(3000, at_least=1)
    """number of prototypes"""
    temperature: float = option(0.1, above=0)
    """of the predictions' softmax"""
    epsilon: float = option(0.05, above=0)
    """of the assignments: how soft they are"""
    sinkhorn_iterations: int = option(3, at_least=1)
    """alternating normalisations that share the batch out"""
    freeze_prototypes: int | None = option(None, at_least=0)
    """optimiser steps during which the prototypes stay as they are; a shorter run never trains them; default: the first epoch's"""

    def smaller_for(self, images: int, steps: int, epochs: float) -> dict[str, float]:
        smaller: dict[str, float] = {}
        if self.prototypes > images:
            smaller["prototypes"] = power_of_two(images / 8, at_least=16)
        if (epochs <= 1) if self.freeze_prototypes is None else (self.freeze_prototypes >= steps):
            smaller["freeze_prototypes"] = steps // 10
        return smaller


@METHODS.register("swav")
class SwAV(Method):
    """Assignments share out the batch of all ranks together, which alone prevents equal outputs for all images. (For batches
    smaller than the number of prototypes, the reference adds earlier ones from a queue. Here, give fewer prototypes.)"""

    title = "SwAV"
    citation = "Caron et al. 2020, arXiv 2006.09882"
    differs = (
        "no queue of earlier batches (the authors' runs of batch 256 have one from epoch 15)",
        "the learning rate warms up from 0 (the authors' from 1/16 of its peak)",
        "at batch 256 half the authors' learning rate, and a warm-up, which theirs has not",
        "crops are resized bicubically, not bilinearly",
    )
    batch_statistics = {"the shares of the assignments": {}, "BatchNorm in the projector": {}}
    version = 2  # residual branches start at one, and biases and norms decay
    Config = SwAVConfig
    #: scripts/swav_800ep_pretrain.sh: LARC, from 4.8 to 0.0048 for 4096 images, 10 epochs of warm-up.
    recipe = {
        "optimizer": "larc",
        "lr": 0.3,
        "min_lr": 0.0,
        "min_lr_scale": 0.001,
        "weight_decay": 1e-6,
        "batch_size": 4096,
        "epochs": 800,
    }
    small = {"projector": "256-64", "prototypes": 100}
    decays_all = True

    def __init__(self, config: SwAVConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone()
        # Unlike Barlow Twins' projector, it has biases.
        self.projector = MLP(self.backbone.width, parse_widths(config.projector))
        self.prototypes = nn.Linear(self.projector.out_dim, config.prototypes, bias=False)
        self._normalize_prototypes()

    @torch.no_grad()
    def _normalize_prototypes(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight))

    def before_step(self, progress: Progress) -> None:
        self._normalize_prototypes()

    def forward(self, batch: ViewBatch) -> StepOutput:
        features_VBD = backbone_features(self.backbone, batch.views)
        # As in the reference, all views pass the projector as one batch.
        z_VBD = self.projector(features_VBD.flatten(0, 1)).unflatten(0, features_VBD.shape[:2])
        with full_precision(z_VBD):
            # Divided by temperatures as small as 0.05, similarities need all their digits.
            scores_VBK = self.prototypes(F.normalize(z_VBD.float(), dim=-1))
            loss = self.loss(scores_VBK)
        return StepOutput(loss, projections=(z_VBD[0].detach(), z_VBD[1].detach()))

    def loss(self, scores_VBK: Tensor) -> Tensor:
        """Mean over the rank's own images. In plain loops, with ``q[t]`` the assignments of view t alone::

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
        frozen = self.config.freeze_prototypes
        if progress.step < (progress.steps_per_epoch if frozen is None else frozen):
            self.prototypes.weight.grad = None
