"""BYOL: bootstrap your own latent (Grill et al. 2020, arXiv 2006.07733; reference: deepmind-research/byol).

An online network predicts, from one crop of an image, the projection that a target network makes of the other. The target is
the moving average of the online network; there are no negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import Backbone
from common.schedules import cosine
from data.views.spec import View
from heads.barlow import BarlowProjector
from methods.barlow_twins import parse_widths
from methods.core.augmentation import AugmentationConfig, two_views
from methods.core.base import METHODS, Method, Progress, StepOutput, ViewBatch
from methods.core.twin import Twin


@dataclass(kw_only=True)
class BYOLConfig(AugmentationConfig):
    """BYOL's options. Defaults: the paper's section 3.2 and appendix B; its augmentation is the shared one."""

    global_scale: tuple[float, float] = (0.08, 1.0)
    """area of a crop, as a part of the image's, drawn uniformly"""

    projector: str = "4096-256"
    """widths of the projector's layers"""
    predictor_dim: int = 4096
    """hidden width of the predictor"""
    momentum_target: float = 0.996
    """of the target's moving average at the start; a cosine takes it to 1"""

    def __post_init__(self) -> None:
        self.require(lambda value: value >= 1, "give at least 1", "predictor_dim")
        self.require(lambda value: 0 <= value <= 1, "give 0 to 1", "momentum_target")
        parse_widths(self.projector)


@METHODS.register("byol")
class BYOL(Method):
    """What gets evaluated is the online backbone, as in the paper. The loss is a mean over the rank's own images."""

    title = "BYOL"
    Config = BYOLConfig
    #: The paper's section 3.2: LARS, 0.2 × batch / 256, cosine to 0, 10 epochs of warm-up.
    recipe: ClassVar[dict[str, Any]] = {
        "optimizer": "lars",
        "lr": 0.2,
        "min_lr": 0.0,
        "weight_decay": 1.5e-6,
        "batch_size": 4096,
        "epochs": 1000,
    }
    warmup_endpoint: ClassVar[bool] = False

    config: BYOLConfig

    def __init__(self, config: BYOLConfig, make_backbone: Callable[..., Backbone], num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone()
        self.projector = BarlowProjector(self.backbone.width, parse_widths(config.projector))
        width = self.projector.out_dim
        self.predictor = BarlowProjector(width, [config.predictor_dim, width])
        self.target = Twin(self.backbone, self.projector)

    @classmethod
    def views(cls, config: BYOLConfig, image_size: int) -> list[View]:
        return two_views(config, image_size)

    def forward(self, batch: ViewBatch) -> StepOutput:
        # One crop after the other, as the reference has it: BatchNorm's statistics are those of one crop.
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        t1, t2 = (self.target(view) for view in batch.views)
        with torch.autocast(z1.device.type, enabled=False):
            loss = distance(p1.float(), t2.float()) + distance(p2.float(), t1.float())
        return StepOutput(loss, projections=(z1.detach(), z2.detach()))

    def after_step(self, progress: Progress) -> None:
        momentum = cosine(self.config.momentum_target, 1.0, progress.step, progress.total_steps)
        self.target.follow(self.backbone, self.projector, momentum)


def distance(predictions_BD: Tensor, targets_BD: Tensor) -> Tensor:
    """Mean squared distance of the rows scaled to unit length: ``mean(2 - 2 · cosine)`` (the paper's equation 2)."""
    return 2 - 2 * F.cosine_similarity(predictions_BD, targets_BD).mean()
