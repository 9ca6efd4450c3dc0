"""SimCLR: contrast of two views (Chen et al. 2020, arXiv 2002.05709; reference: google-research/simclr).

Projections of two crops of an image are drawn together, and away from those of every other image of the batch.

Shapes: B images of this rank, N = 2B views of them, M views of all ranks, D features of the projector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import Backbone
from common.distributed import all_gather_rows, rank, world_size
from common.errors import UserError
from common.options import option
from heads.mlp import MLP, parse_widths, scaling_batchnorm
from methods.core.augmentation import AugmentationConfig
from methods.core.base import METHODS, MakeBackbone, Method, StepOutput, ViewBatch, full_precision


@dataclass(kw_only=True)
class SimCLRConfig(AugmentationConfig):
    """SimCLR's options. Defaults: the paper's section 2 and appendix A (colours at strength 1, blur of half the crops)."""

    global_scale: tuple[float, float] = (0.08, 1.0)
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    blur_p: tuple[float, float] = (0.5, 0.5)
    """probability of a Gaussian blur, for the first and the second crop (the paper's CIFAR-10 runs have none)"""
    solarize_p: tuple[float, float] = (0.0, 0.0)

    projector: str = option("2048-128", form=parse_widths)
    """widths of the projector's layers"""
    temperature: float = option(0.1, above=0)
    """of the softmax over similarities (the paper's best on ImageNet; 0.5 on CIFAR-10, appendix B.9)"""


@METHODS.register("simclr")
class SimCLR(Method):
    """The loss is SupCon's with each image a class of its own. With one positive a view this is NT-Xent."""

    title = "SimCLR"
    citation = "Chen et al. 2020, arXiv 2002.05709"
    differs = (
        "weight decay 1e-6 is the paper's (1e-4 in the README of its code)",
        "the loss is the paper's mean over views, half the code's sum, which LARS does not notice",
        "LARS multiplies by the learning rate after its momentum, not before",
        "the head's linear layers start as torch's do, not from N(0, 0.01²)",
    )
    batch_statistics = {"the negatives": {}, "BatchNorm in the projector": {}}
    smallest_batch = 2
    version = 2  # a norm ends the projector, and residual branches start at zero
    Config = SimCLRConfig
    #: The paper's section 2.2 and appendix B: LARS, 0.3 × batch / 256, cosine to 0, 10 epochs of warm-up.
    recipe = {"optimizer": "lars", "lr": 0.3, "min_lr": 0.0, "weight_decay": 1e-6, "batch_size": 4096, "epochs": 1000}
    small = {"projector": "256-128", "temperature": 0.2, "lr": 5e-4}
    warmup_endpoint = False

    def __init__(self, config: SimCLRConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone, self.projector = self.make_networks(make_backbone, parse_widths(config.projector))

    def make_networks(self, make_backbone: MakeBackbone, widths: list[int]) -> tuple[Backbone, MLP]:
        """The backbone, with residual branches that start at zero, and the projector: BatchNorm after every layer, without a shift
        after the last (reference: resnet.py, ``init_zero``, and model_util.py, ``projection_head``)."""
        backbone = make_backbone(zero_init_residual=True)
        return backbone, MLP(backbone.width, widths, bias=False, last_norm=scaling_batchnorm)

    def forward(self, batch: ViewBatch) -> StepOutput:
        # As in the reference, both views are one batch, so they share BatchNorm's statistics.
        z_ND = self.projector(self.backbone(torch.cat(batch.views)))
        with full_precision(z_ND):
            loss = self.contrast(z_ND.float(), batch.labels)
        z1, z2 = z_ND.detach().chunk(2)
        return StepOutput(loss, projections=(z1, z2))

    def contrast(self, z_ND: Tensor, labels: Tensor) -> Tensor:
        """Mean over this rank's views of the loss against the views of all ranks. In plain loops, with s the cosine similarities::

            own = [s[i, j] / temperature for j in positives(i) if j != i]
            every = [s[i, j] / temperature for j in range(M) if j != i]
            loss[i] = logsumexp(every) - mean(own)

        This is pytorch-metric-learning's ``SupConLoss``, 0 where no view has a negative, but asks the device nothing and lists no
        pairs.

        Args:
            z_ND: first views of all images, then second views.
            labels: of the images.
        """
        rows, count = len(z_ND), len(z_ND) // 2
        if rows * world_size() < 4:
            raise UserError("a contrast needs at least 2 images in a batch; raise --batch_size (or lower --accumulate)")
        # Rows are gathered rank after rank, from each its first views, then its second.
        every_M = torch.arange(rows * world_size(), device=z_ND.device)
        image_M = every_M // rows * count + every_M % count
        own = slice(rank() * rows, (rank() + 1) * rows)
        itself_NM = every_M[own, None] == every_M
        alike_MM = self.positives(image_M, labels)
        positive_NM = alike_MM[own] & ~itself_NM
        unit_ND = F.normalize(z_ND)
        scores_NM = unit_ND @ all_gather_rows(unit_ND).T / self.config.temperature
        # A shift changes no softmax, and small numbers keep their last digits.
        scores_NM = scores_NM - scores_NM.detach().amax(1, keepdim=True)
        log_p_NM = scores_NM - scores_NM.masked_fill(itself_NM, -torch.inf).logsumexp(1, keepdim=True)
        losses_N = -(log_p_NM * positive_NM).sum(1) / positive_NM.sum(1)
        return losses_N.mean() * (~alike_MM).any()

    def positives(self, image_M: Tensor, labels: Tensor) -> Tensor:
        """Which views belong together, a view with itself, too: bool ``[M, M]``, from each view's image and this rank's labels."""
        return image_M[:, None] == image_M
