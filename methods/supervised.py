"""Supervised training: what labels give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distributed import all_reduce_sum
from common.options import option
from data.views.spec import PROBABILITY, View, crop_and_flip, rising
from methods.core.base import METHODS, MakeBackbone, Method, MethodConfig, StepOutput, ViewBatch


@dataclass(kw_only=True)
class SupervisedConfig(MethodConfig):
    """Options of supervised training."""

    scale: tuple[float, float] = option((0.08, 1.0), above=0, at_most=1, form=rising)
    """area of a crop, as a part of the image's, drawn uniformly"""
    flip: float = option(0.5, **PROBABILITY)
    """probability of a horizontal flip"""
    drop_path: float = option(0.1, at_least=0, below=1)
    """stochastic depth of the backbone; a ResNet has none"""

    def views(self, image_size: int) -> list[View]:
        return [View(name="crop", size=image_size, scale=self.scale, augmentation=crop_and_flip(self.flip))]


@METHODS.register("supervised")
class Supervised(Method):
    """A linear classifier on the backbone, trained with it. One label an image: cross-entropy. Several: binary cross-entropy of
    each class. Images without a label are left out.

    The views are plain ImageNet classification's, crop and flip. The rates are DeiT's (Touvron et al. 2021, table 9: AdamW, 5e-4
    for 512 images, weight decay 0.05, stochastic depth 0.1), the source of the supervised ViTs in DINO's paper. DeiT's stronger
    augmentations are left out: they would add a third kind of recipe to the comparison.
    """

    title = "Supervised"
    differs = (
        "DeiT's learning rates and weight decay without its stronger augmentations and label smoothing",
        "10 epochs of warm-up, as the other methods (DeiT: 5)",
        "the class token and the positions have weight decay, as in DINO",
    )
    uses_labels = True
    reference = "supervised training"
    Config = SupervisedConfig
    recipe = {"lr": 2.5e-4, "min_lr": 1e-5, "weight_decay": 0.05}

    def __init__(self, config: SupervisedConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone(drop_path_rate=config.drop_path)
        self.classifier = nn.Linear(self.backbone.width, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, batch: ViewBatch) -> StepOutput:
        logits_BC = self.classifier(self.backbone(batch.views[0])).float()
        # Ranks and parts hold different numbers of labelled images, so the mean is over those of the whole step; the trainer
        # takes the mean over parts. Without any labelled image the loss and its gradients are 0.
        total = all_reduce_sum(labelled_loss(logits_BC, batch.labels)) * batch.parts
        count = all_reduce_sum(labelled(batch.step_labels).sum().float())
        return StepOutput(total / count.clamp(min=1), {"labelled": count})


def labelled(labels: Tensor) -> Tensor:
    """Which images have a label, bool ``[B]``; labels are those of ``ViewBatch``."""
    return labels >= 0 if labels.ndim == 1 else labels.any(dim=1)


def labelled_loss(logits_BC: Tensor, labels: Tensor) -> Tensor:
    """Sum of the losses of this rank's labelled images.

    Args:
        logits_BC: of C classes.
        labels: int64 ``[B]`` (-1: unlabelled): cross-entropy. Multi-hot ``[B, C]`` (a row of zeros: unlabelled): binary
            cross-entropy, mean over classes.
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits_BC, labels, ignore_index=-1, reduction="sum")
    losses_B = F.binary_cross_entropy_with_logits(logits_BC, labels.float(), reduction="none").mean(dim=1)
    return torch.dot(losses_B, labelled(labels).float())
