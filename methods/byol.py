"""BYOL: bootstrap your own latent (Grill et al. 2020, arXiv 2006.07733; reference: deepmind-research/byol).

From one crop of an image, an online network predicts the projection that a target network makes of the other crop. The target is
the moving average of the online network. No negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from common.options import option
from heads.mlp import MLP, parse_widths
from methods.core.augmentation import AugmentationConfig
from methods.core.base import METHODS, MakeBackbone, Method, Progress, StepOutput, ViewBatch, full_precision
from methods.core.teacher import SlowCopy, rising_momentum


@dataclass(kw_only=True)
class BYOLConfig(AugmentationConfig):
    """BYOL's options. Defaults: the paper's section 3.2 and appendix B; its augmentation is the shared one."""

    global_scale: tuple[float, float] = (0.08, 1.0)

    projector: str = option("4096-256", form=parse_widths)
    """widths of the projector's layers"""
    predictor_dim: int = option(4096, at_least=1)
    """hidden width of the predictor"""
    momentum_target: float = option(0.996, at_least=0, at_most=1)
    """of the target's moving average at the start; a cosine takes it to 1"""


@METHODS.register("byol")
class BYOL(Method):
    """The online backbone is evaluated, as in the paper. The loss is a mean over the rank's own images."""

    title = "BYOL"
    citation = "Grill et al. 2020, arXiv 2006.07733"
    differs = (
        "the target starts as a copy of the online network, not with weights of its own",
        "one recipe, that of 1000 epochs (the paper has other rates and momenta for 300 and for 100)",
    )
    batch_statistics = {"BatchNorm in the projector and the predictor": {}}
    version = 2  # residual branches start at zero
    Config = BYOLConfig
    #: The paper's section 3.2: LARS, 0.2 × batch / 256, cosine to 0, 10 epochs of warm-up.
    recipe = {"optimizer": "lars", "lr": 0.2, "min_lr": 0.0, "weight_decay": 1.5e-6, "batch_size": 4096, "epochs": 1000}
    small = {"projector": "256-64", "predictor_dim": 256, "momentum_target": 0.99}
    warmup_endpoint = False

    def __init__(self, config: BYOLConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        # As in the reference, whose blocks are haiku's: the last BatchNorm of each starts with a scale of zero.
        self.backbone = make_backbone(zero_init_residual=True)
        self.projector = MLP(self.backbone.width, parse_widths(config.projector), bias=False)
        width = self.projector.out_dim
        self.predictor = MLP(width, [config.predictor_dim, width], bias=False)
        self.target = SlowCopy(self.backbone, self.projector)

    def forward(self, batch: ViewBatch) -> StepOutput:
        # As in the reference, crops pass one by one, so BatchNorm's statistics are those of one crop.
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        t1, t2 = (self.target(view) for view in batch.views)
        with full_precision(z1):
            loss = distance(p1.float(), t2.float()) + distance(p2.float(), t1.float())
        return StepOutput(loss, projections=(z1.detach(), z2.detach()))

    def after_step(self, progress: Progress) -> None:
        momentum = rising_momentum(self.config.momentum_target, progress)
        self.target.follow(self.backbone, self.projector, momentum)


def distance(predictions_BD: Tensor, targets_BD: Tensor) -> Tensor:
    """Mean squared distance of the rows scaled to unit length: ``mean(2 - 2 · cosine)`` (the paper's equation 2)."""
    return 2 - 2 * F.cosine_similarity(predictions_BD, targets_BD).mean()
