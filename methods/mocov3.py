"""MoCo v3: contrast within a large batch, for ViTs too (Chen et al. 2021, arXiv 2104.02057; reference:
facebookresearch/moco-v3).

The prediction from one crop is drawn towards a slow copy's projection of the other crop, and away from its projections of all
other images' crops. No queue.

Shapes: B images of this rank, N of all ranks, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fixed_start import patch_projection, start_as_mocov3
from common.distributed import all_gather_rows, rank
from common.options import option
from heads.mlp import MLP, parse_widths
from methods.core.augmentation import AugmentationConfig
from methods.core.base import METHODS, MakeBackbone, Method, Progress, StepOutput, ViewBatch, full_precision
from methods.core.teacher import SlowCopy, rising_momentum


@dataclass(kw_only=True)
class MoCoV3Config(AugmentationConfig):
    """MoCo v3's options. Defaults: those of its ViTs (main_moco.py and CONFIG.md); the augmentation is BYOL's."""

    global_scale: tuple[float, float] = (0.08, 1.0)

    projector: str = option("4096-4096-256", form=parse_widths)
    """widths of the projector's layers (published for ResNets: 4096-256)"""
    predictor_dim: int = option(4096, at_least=1)
    """hidden width of the predictor"""
    momentum_key: float = option(0.99, at_least=0, at_most=1)
    """of the key encoder's moving average at the start; a cosine takes it to 1"""
    temperature: float = option(0.2, above=0)
    """of the softmax over similarities (published for ResNets: 1.0)"""
    freeze_patch_embedding: bool = True
    """keep a ViT's linear projection of patches as it was drawn, for stability (the paper's section 4); convolutional stems, such
    as vit_nano's, are trained"""


@METHODS.register("mocov3")
class MoCoV3(Method):
    """The queries' backbone is evaluated. Keys are gathered from all ranks and have no gradient, so the loss is a mean over the
    rank's own images.

    A ViT has fixed positions of sines and cosines and Xavier's initial weights (``backbones.fixed_start``). The reference's ViT-S
    has 12 heads, which is the backbone ``vit_s16_12heads``; ``vit_s16`` has the 6 of all other methods' ViT-S. A ViT's predictor
    has a BatchNorm after its last layer; that of a ResNet, or of another network without tokens, has none.
    """

    title = "MoCo v3"
    citation = "Chen et al. 2021, arXiv 2104.02057"
    differs = (
        "vit_s16 has the 6 heads of DINO's ViT-S (vit_s16_12heads is the reference's)",
        "a batch of 4096 for all (the code's command for ViT-S has 1024)",
        "ResNets get the ViTs' settings, too (theirs are --optimizer lars --lr 0.3 --weight_decay 1e-6 --warmup_epochs 10 "
        "--projector 4096-256 --temperature 1 --global_scale 0.2 1)",
        "fixed positions are interpolated to images of other sizes than the backbone's, not computed anew",
        "crops are resized bicubically, not bilinearly",
    )
    batch_statistics = {"the negatives": {}, "BatchNorm in the projector and the predictor": {}}
    smallest_batch = 2
    version = 2  # initial weights, fixed positions, and the key encoder follows before the step
    Config = MoCoV3Config
    #: CONFIG.md's ViT-B, as the paper's section 5: AdamW, 1.5e-4 × batch / 256.
    recipe = {"lr": 1.5e-4, "min_lr": 0.0, "weight_decay": 0.1, "batch_size": 4096, "epochs": 300}
    small = {"projector": "256-256-64", "predictor_dim": 256, "momentum_key": 0.99}
    warmup = (40.0, 40 / 300)
    warmup_endpoint = False
    decays_all = True

    def __init__(self, config: MoCoV3Config, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone(zero_init_residual=True)
        start_as_mocov3(self.backbone)
        if config.freeze_patch_embedding and (projection := patch_projection(self.backbone)) is not None:
            projection.requires_grad_(False)
        # Outputs are normalised over the batch, but a ResNet's predictions (reference: ``_build_mlp``).
        last_norm = partial(nn.BatchNorm1d, affine=False)
        self.projector = MLP(self.backbone.width, parse_widths(config.projector), bias=False, last_norm=last_norm)
        width = self.projector.out_dim
        last_norm = last_norm if self.backbone.has_tokens else None
        self.predictor = MLP(width, [config.predictor_dim, width], bias=False, last_norm=last_norm)
        self.key_encoder = SlowCopy(self.backbone, self.projector)

    def forward(self, batch: ViewBatch) -> StepOutput:
        # As in the reference, crops pass one by one, so BatchNorm's statistics are those of one crop.
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.views)
        q1, q2 = self.predictor(z1), self.predictor(z2)
        k1, k2 = (self.key_encoder(view) for view in batch.views)
        with full_precision(z1):
            loss = self.contrast(q1.float(), k2.float()) + self.contrast(q2.float(), k1.float())
        return StepOutput(loss, projections=(z1.detach(), z2.detach()))

    def contrast(self, queries_BD: Tensor, keys_BD: Tensor) -> Tensor:
        """InfoNCE against the keys of all ranks. In plain loops, with s the cosine similarities of this rank's queries with the N
        keys and ``own`` the key of the same image::

            scores = [s[i, j] / temperature for j in range(N)]
            loss[i] = 2 * temperature * (logsumexp(scores) - scores[own])

        (The factor is the paper's algorithm 1.)
        """
        keys_ND = all_gather_rows(F.normalize(keys_BD))
        logits_BN = F.normalize(queries_BD) @ keys_ND.T / self.config.temperature
        own_B = torch.arange(len(queries_BD), device=queries_BD.device) + rank() * len(queries_BD)
        return 2 * self.config.temperature * F.cross_entropy(logits_BN, own_B)

    def before_step(self, progress: Progress) -> None:
        # Before the keys are made, as in the reference, with the weights after the last step and this one's momentum.
        momentum = rising_momentum(self.config.momentum_key, progress)
        self.key_encoder.follow(self.backbone, self.projector, momentum)
